"""Looks for secrets in the project's files: keys, tokens and private keys that are known by their form.

No scanner that guesses by entropy: locks, migrations and examples are full of random-looking texts. What is
reported has the form of a credential that opens something, ours included; what is known to open nothing is
listed in ``tests/fake_secrets.txt``, by digest.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from api.http.key_texts import read_key_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FORMS: Mapping[str, re.Pattern[str]] = {
    name: re.compile(form, re.ASCII)
    for name, form in {
        "API key of this service": r"oms_[0-9A-Za-z]{10}_[0-9A-Za-z]{49}",
        "webhook secret": r"whsec_[0-9A-Za-z+/]{24,}={0,2}",
        "OMS_SECRET_KEY": r"(?<=OMS_SECRET_KEY)['\"]?\s*[=:]\s*\S*?(?:[0-9A-Fa-f]{64}|[0-9A-Za-z+/_-]{43}=)",
        "private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----\s+[^-]{40,10000}",
        "AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
        "GitHub token": r"\b(?:gh[pousr]_[0-9A-Za-z]{36,}|github_pat_[0-9A-Za-z_]{60,})",
        "GitLab token": r"\bglpat-[0-9A-Za-z_-]{20,}",
        "Slack token": r"\bxox[abeoprs]-[0-9A-Za-z-]{10,}",
        "Stripe key": r"\b[rs]k_live_[0-9A-Za-z]{16,}",
        "Google key": r"\bAIza[0-9A-Za-z_-]{35}\b",
        "PyPI token": r"\bpypi-AgE[0-9A-Za-z_-]{50,}",
        "npm token": r"\bnpm_[0-9A-Za-z]{36}\b",
        "JSON Web Token": r"\beyJ[0-9A-Za-z_-]{10,}\.eyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{20,}",
    }.items()
}


@dataclass(frozen=True)
class Finding:
    """A text with the form of a secret; the text itself is not kept."""

    file: str
    line: int
    form: str
    digest: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.form} ({self.digest})"


def findings_in(file: str, text: str) -> Iterator[Finding]:
    """Find everything in a text that has the form of a secret."""
    for form, pattern in FORMS.items():
        for match in pattern.finditer(text):
            if form == "API key of this service" and read_key_text(match[0]) is None:
                continue  # its checksum is wrong: nobody's key
            line = text.count("\n", 0, match.start()) + 1
            yield Finding(file, line, form, sha256(match[0].encode()).hexdigest()[:16])


def project_files(folder: Path) -> list[str]:
    """List the files of a Git repository, also new ones, but for what it ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout
    return sorted(name for name in listed.decode().split("\0") if name and (folder / name).is_file())


def scan(folder: Path, fakes: Path) -> tuple[list[Finding], int]:
    """Scan a repository; return what was found that is not listed as fake, and the number of files.

    Args:
        folder: the repository.
        fakes: a file with a digest in each line, and then why that is no secret.

    """
    lines = fakes.read_text().splitlines() if fakes.exists() else []
    known = {line.split()[0] for line in lines if line and not line.startswith("#")}
    files = project_files(folder)
    findings = [
        finding
        for file in files
        for finding in findings_in(file, (folder / file).read_text(encoding="utf-8", errors="replace"))
        if finding.digest not in known
    ]
    return findings, len(files)
