"""Installing from a lock file: later releases have no effect."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import ROOT


def _make(folder: Path) -> list[str]:
    """Return the command with which ``make run`` installs, in a project that has only a lock file."""
    (folder / "requirements.lock").rename(folder / "requirements-local.lock")
    shutil.copy(ROOT / "Makefile", folder)
    return ["make", "--silent", f"PY={sys.executable}", "VENV=.", "run.stamp"]


def _docker(folder: Path) -> list[str]:
    """Return the command with which the image installs."""
    assert (folder / "requirements.lock").is_file()
    match = re.search(r"^RUN pip (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert match
    return [sys.executable, "-m", "pip", *match[1].split()]


def _wheel(folder: Path, name: str, version: str, *metadata: str) -> str:
    """Write an empty package, and return its line for a lock file."""
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            f"{info}/METADATA",
            "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata]),
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.mark.parametrize("command", [_make, _docker])
def test_a_package_released_after_the_lock_file_was_written_does_not_affect_an_installation(
    tmp_path: Path, command: Callable[[Path], list[str]]
) -> None:
    """Left to resolve, the pip of Python 3.11 finds the newer ``needed[extra]==1.*`` and misses its hash."""
    index, folder = tmp_path / "index", tmp_path / "project"
    index.mkdir()
    folder.mkdir()
    lock = _wheel(index, "needed", "1.0", "Provides-Extra: extra")
    lock += _wheel(index, "needing", "1.0", "Requires-Dist: needed[extra]==1.*")
    _wheel(index, "needed", "1.1", "Provides-Extra: extra")
    (folder / "requirements.lock").write_text(lock)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DRY_RUN": "1",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(index),
    }
    done = subprocess.run(
        command(folder), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_virtual_environment_that_cannot_be_made_is_removed_and_the_error_says_why(tmp_path: Path) -> None:
    """As with Debian's Python without the package python3-venv: an interpreter, and no pip."""
    python = tmp_path / "python"
    python.write_text(
        f"""#!/bin/sh
        [ "$2" = venv ] || exec {sys.executable} "$@"
        for folder; do :; done
        mkdir -p "$folder/bin" && ln -s {sys.executable} "$folder/bin/python"
        exit 1
        """
    )
    python.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements-local.lock").touch()
    # The tests may run under `make matrix`, whose variables would reach this make through the environment.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    for _ in range(2):  # the second error is the same as the first
        done = subprocess.run(
            ["make", f"PYTHON={python}", "VENV=.venv", ".venv/run.stamp"],  # noqa: S607 (the machine's own)
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert "apt install python3-venv" in done.stderr
        assert not (tmp_path / ".venv").exists()
