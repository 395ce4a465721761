"""`make audit`: planted faults are found, and what could not be asked is never called safe."""

from __future__ import annotations

import json
import random
import string
import subprocess
import zipfile
from contextlib import redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest

from api.http.key_texts import make_key_text
from shared.secret_keys import make_secret_key
from stack.embedded_valkey import free_port
from tests import audit
from tests.advisories import is_affected, read_advisories
from tests.processes import ROOT
from tests.secret_scan import project_files, scan

if TYPE_CHECKING:
    from pathlib import Path

HASH = "sha256:" + "0" * 64

# In OSV's form, of a package that does not exist.
ADVISORY: dict[str, Any] = {
    "schema_version": "1.6.0",
    "id": "PYSEC-2026-1",
    "aliases": ["CVE-2026-1"],
    "summary": "It does what it should not.",
    "affected": [
        {
            "package": {"name": "Planted.Package", "ecosystem": "PyPI"},
            "ranges": [
                {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.5"}]},
                {"type": "ECOSYSTEM", "events": [{"introduced": "2.0rc1"}, {"last_affected": "2.3"}]},
            ],
            "versions": ["3.0"],
        },
        {"package": {"name": "planted-package", "ecosystem": "npm"}},
    ],
}


@pytest.fixture
def advisories(tmp_path: Path) -> Path:
    """A copy with one advisory, as OSV exports it."""
    copy = tmp_path / "all.zip"
    with zipfile.ZipFile(copy, "w") as archive:
        archive.writestr("PYSEC-2026-1.json", json.dumps(ADVISORY))
    return copy


def lock(folder: Path, *pins: str) -> Path:
    """Write a lock file."""
    file = folder / "planted.lock"
    file.write_text("".join(f"{pin} \\\n    --hash={HASH}\n" for pin in pins))
    return file


def audited(*arguments: object) -> tuple[int, str]:
    """Run the audit; return its exit status and what it printed."""
    with redirect_stdout(StringIO()) as output:
        status = audit.main([str(argument) for argument in arguments])
    return status, output.getvalue()


def test_a_vulnerable_pin_is_found_in_a_copy_of_the_advisories(tmp_path: Path, advisories: Path) -> None:
    """The whole command fails, and says which pin, why and which version is fixed."""
    pins = lock(tmp_path, "planted-package==1.4", "another==1.0")
    status, output = audited("--advisories", advisories, "--lock", pins)
    assert status == 1
    assert "planted-package 1.4: PYSEC-2026-1, fixed in 1.5" in output
    status, output = audited("--advisories", advisories, "--lock", lock(tmp_path, "planted-package==1.5"))
    assert "no known vulnerability in 1 packages" in output
    # The rest of the audit is of this project as it is.
    assert status == 0, output
    assert "ruff's rules S" in output
    assert "secrets in" in output


def test_an_advisory_is_about_the_versions_in_its_ranges_and_its_list(advisories: Path) -> None:
    """As OSV defines both; names are compared in their normalized form."""
    (advisory,) = read_advisories(advisories)["planted-package"]
    versions = ("0.1", "1.4.9", "1.5rc1", "1.5", "1.9", "2.0rc1", "2.3", "2.3.1", "3.0", "3.1")
    affected = [version for version in versions if is_affected(advisory, "planted-package", version)]
    assert affected == ["0.1", "1.4.9", "1.5rc1", "2.0rc1", "2.3", "3.0"]


def test_packages_that_could_not_be_asked_about_are_not_called_safe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a service, where it does not know a package, with an empty copy, or a file that is none."""
    pins = lock(tmp_path, "planted-package==1.4")
    status, output = audited("--osv-url", f"http://127.0.0.1:{free_port()}/v1/query", "--lock", pins)
    assert status == 3, output
    skipped = {"name": "planted-package", "skip_reason": "not found on PyPI and could not be audited"}
    assert audit.read_report({"dependencies": [skipped]}).not_asked == [
        "planted-package: not found on PyPI and could not be audited"
    ]
    assert audit.read_report({"dependencies": []}).not_asked
    assert "no known vulnerability" not in output
    assert "NOT known" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert audit.main(["--advisories", str(tmp_path / "empty")]) == 2
    assert audit.main(["--advisories", str(pins)]) == 2


def test_planted_secrets_are_found_and_listed_fakes_are_not(tmp_path: Path) -> None:
    """Ours by their form and checksum, others' by theirs; also in a file that is not committed yet."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    letters = random.Random(seed).choices(string.ascii_letters + string.digits, k=80)
    key = make_key_text().text
    planted = {
        "key.md": f"Authorization: Bearer {key}",
        "webhook.py": f'SECRET = "whsec_{make_secret_key()}"',
        ".env": f"OMS_SECRET_KEY=plain,{make_secret_key()}",
        "compose.yml": f'  OMS_SECRET_KEY: "{"0123456789abcdef" * 4}"',
        "id_rsa": "-----BEGIN OPENSSH PRIVATE KEY-----\n" + "".join(letters),
        "token.txt": "ghp_" + "".join(letters[:36]),
        "aws.ini": "aws_access_key_id = AKIA" + "".join(letters[:16]).upper(),
    }
    for name, text in planted.items():
        (tmp_path / name).write_text(f"first line\n{text}\n")
    wrong = key[:-1] + ("a" if key[-1] != "a" else "b")
    (tmp_path / "not.md").write_text(f"{wrong}\nwhsec_…\noms_<id>_<secret>\nOMS_SECRET_KEY=$KEY\n")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)  # noqa: S607 (git on PATH)
    fakes = tmp_path / "fakes"
    findings, _ = scan(tmp_path, fakes)
    assert sorted(finding.file for finding in findings) == sorted(planted)
    assert {finding.line for finding in findings} == {2}
    assert key not in "".join(map(str, findings))
    fakes.write_text("# Known:\n" + "".join(f"{finding.digest}  an example\n" for finding in findings[1:]))
    assert scan(tmp_path, fakes)[0] == findings[:1]


def test_the_audit_covers_every_lock_and_folder_of_code() -> None:
    """A new one would otherwise be left out silently."""
    listed = project_files(ROOT)
    assert sorted(name for name in listed if name.endswith(".lock")) == sorted(audit.LOCKS)
    covered = (*audit.SHIPPED, *audit.NOT_SHIPPED)
    packages = ("contract/__init__.py",)
    left = [name for name in listed if name.endswith(".py") and not name.startswith(covered)]
    assert set(left) <= set(packages)
