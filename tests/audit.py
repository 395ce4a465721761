"""Audit the project: ``python -m tests.audit``, ``make audit``.

1. Known vulnerabilities of all locked packages, by pip-audit: from PyPI, or from a copy of OSV's advisories.
2. ruff's security rules (S) on all code, without the project's own configuration. ``# noqa`` counts: each has
   a reason beside it.
3. Secrets in the project's files.

Exit status: 0 nothing was found; 1 something was; 2 the command line can't be read; 3 nothing was found, but
not every package could be asked about. make turns each but 0 into 2, and prints which it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.advisories import serving_advisories
from tests.processes import ROOT
from tests.secret_scan import scan

if TYPE_CHECKING:
    from collections.abc import Sequence

FAKES = ROOT / "tests" / "fake_secrets.txt"

LOCKS = (
    "requirements.lock",
    "requirements-local.lock",
    "requirements-dev.lock",
    "contract/clients/requirements.lock",
    "bench/peers/requirements.lock",
    "tests/failover/patroni/requirements.lock",
)

# The same exceptions as in pyproject.toml, where the reasons are. What ships has two.
SHIPPED = ("api", "console", "oms", "shared", "worker", "stack", "contract/checks", "piccolo_conf.py")
SHIPPED_EXCEPTIONS = "S603,S608"
NOT_SHIPPED = ("tests", "bench", "contract/clients")
NOT_SHIPPED_EXCEPTIONS = "S101,S104,S105,S106,S311,S603,S608"


@dataclass
class Audited:
    """What pip-audit said about one lock."""

    packages: int = 0
    vulnerabilities: list[str] = field(default_factory=list)
    not_asked: list[str] = field(default_factory=list)
    """Why some packages, or all, could not be asked about."""


def audit_lock(lock: Path, osv_url: str | None) -> Audited:
    """Ask about every package of a lock file; hashes in it must be complete."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes"]
        command += ["--progress-spinner", "off", "--format", "json"]
        command += ["--requirement", str(lock), "--output", str(report)]
        if osv_url:
            # With a cache of its own: another copy may be served at the same port later.
            command += ["--vulnerability-service", "osv", "--osv-url", osv_url, "--cache-dir", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not report.exists():
            lines = done.stderr.strip().splitlines() or [f"pip-audit ended with status {done.returncode}"]
            return Audited(not_asked=lines[-1:])
        return read_report(json.loads(report.read_text()))


def read_report(report: dict[str, Any]) -> Audited:
    """Read pip-audit's report. A skipped package is not safe, although pip-audit ends with 0 then."""
    dependencies = report["dependencies"]
    audited = Audited(len(dependencies))
    for package in dependencies:
        if "skip_reason" in package:
            audited.not_asked.append(f"{package['name']}: {package['skip_reason']}")
        for advisory in package.get("vulns", ()):
            fixed = f", fixed in {', '.join(advisory['fix_versions'])}" if advisory["fix_versions"] else ""
            audited.vulnerabilities.append(f"{package['name']} {package['version']}: {advisory['id']}{fixed}")
    if not dependencies:
        audited.not_asked.append("it has no package")
    return audited


def _audit_packages(locks: Sequence[Path], osv_url: str | None) -> tuple[int, int]:
    """Print what is known of the packages; return how many findings and open questions there are."""
    findings = unanswered = 0
    for lock in locks:
        audited = audit_lock(lock, osv_url)
        for vulnerability in audited.vulnerabilities:
            print(f"{lock}: {vulnerability}")
        if audited.not_asked:
            print(
                f"{lock}: {len(audited.not_asked)} of {audited.packages or 'its'} packages could not be "
                f"asked about, such as: {audited.not_asked[0]}"
            )
        elif not audited.vulnerabilities:
            print(f"{lock}: no known vulnerability in {audited.packages} packages")
        findings += len(audited.vulnerabilities)
        unanswered += len(audited.not_asked)
    return findings, unanswered


def _audit_code() -> int:
    """Run ruff's security rules; return 1 if they found something."""
    failed = 0
    for folders, exceptions in ((SHIPPED, SHIPPED_EXCEPTIONS), (NOT_SHIPPED, NOT_SHIPPED_EXCEPTIONS)):
        rules = [
            "--isolated",
            "--select",
            "S",
            "--ignore",
            exceptions,
            "--exclude",
            "contract/clients/generated",
        ]
        command: list[str] = [
            sys.executable,
            "-m",
            "ruff",
            "check",
            *rules,
            "--output-format",
            "concise",
            *folders,
        ]
        done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            failed = 1
            print(done.stdout, end="")
        else:
            print(f"ruff's rules S but {exceptions}: nothing in {', '.join(folders)}")
    return failed


def _audit_files() -> int:
    """Look for secrets; return how many were found."""
    findings, files = scan(ROOT, FAKES)
    for finding in findings:
        print(finding)
    print(f"secrets in {files} files: {f'{len(findings)} found' if findings else 'none'}")
    return len(findings)


def main(arguments: list[str] | None = None) -> int:
    """Run the audit and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.audit", description="Audit the project.")
    parser.add_argument(
        "--advisories", type=Path, help="a copy of OSV's advisories for PyPI: all.zip, or a folder"
    )
    parser.add_argument("--osv-url", help="a service like https://api.osv.dev/v1/query, in place of PyPI")
    parser.add_argument("--lock", type=Path, action="append", help="a lock file in place of the project's")
    options = parser.parse_args(arguments)
    locks = options.lock or [ROOT / lock for lock in LOCKS]
    with ExitStack() as stack:
        url = options.osv_url
        if options.advisories:
            try:
                url = stack.enter_context(serving_advisories(options.advisories))
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                print(f"the copy of the advisories can't be used: {error}", file=sys.stderr)
                return 2
        findings, unanswered = _audit_packages(locks, url)
    findings += _audit_code() + _audit_files()
    if unanswered:
        print(
            "Whether these packages have known vulnerabilities is NOT known: they could not be asked about. "
            "Run this where PyPI's JSON API can be reached, or with a copy of OSV's advisories "
            "(https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip): make audit ADVISORIES=…",
            file=sys.stderr,
        )
    return 1 if findings else 3 if unanswered else 0


if __name__ == "__main__":
    sys.exit(main())
