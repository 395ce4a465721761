"""The Makefile's targets: what the hooks call, and the tests with each Python."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import yaml

from tests.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

MAKEFILE = (ROOT / "Makefile").read_text()


def test_the_commit_hooks_run_what_make_check_runs() -> None:
    """Its targets, in its order, and nothing that would have to be downloaded."""
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    (checks,) = re.findall(r"^check: ([^#\n]+)", MAKEFILE, re.MULTILINE)
    assert [hook["entry"] for hook in repository["hooks"]] == [f"make {target}" for target in checks.split()]
    assert all(hook["always_run"] for hook in repository["hooks"]), "a hook would skip some changes"


def test_every_target_with_a_help_text_is_phony() -> None:
    """A file that happens to have its name would otherwise keep it from running."""
    (phony,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    helped = re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)
    assert {"run", "test", "matrix"} <= set(helped) <= set(phony.split())


def _matrix(folder: Path, *pythons: str) -> subprocess.CompletedProcess[str]:
    """Run the matrix in a project that has only a Makefile; nothing is installed."""
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "requirements-dev.lock").touch()
    return subprocess.run(
        ["make", "--silent", "matrix", f"PYTHONS={' '.join(pythons)}", "PIP=true"],  # noqa: S607
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def _interpreter(folder: Path, name: str, version: str, test_status: int) -> str:
    """Write a stub of a Python of some version, whose tests end with a status."""
    python = folder / name
    python.write_text(
        f"""#!/bin/sh
        case "$*" in
            *"%d.%d"*) echo {version};;
            *"-m venv"*) for folder; do :; done; mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python";;
            *pytest*) exit {test_status};;
        esac
        """
    )
    python.chmod(0o755)
    return str(python)


def test_the_test_matrix_runs_with_each_python_and_names_those_that_are_missing(tmp_path: Path) -> None:
    """Each has a virtual environment of its own."""
    pythons = [_interpreter(tmp_path, f"python{n}", f"3.{n}", 0) for n in (12, 13)]
    done = _matrix(tmp_path, *pythons, "python3.99")
    assert done.stdout.splitlines()[-1] == (
        "make matrix: passed: 3.12 3.13; failed: none; not on this machine: python3.99"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".venv-3.12").is_dir()
    assert (tmp_path / ".venv-3.13").is_dir()


def test_the_test_matrix_fails_if_the_tests_fail_with_one_python(tmp_path: Path) -> None:
    """The tests still run with the others."""
    pythons = [_interpreter(tmp_path, f"python{n}", f"3.{n}", int(n == 12)) for n in (12, 13)]
    done = _matrix(tmp_path, *pythons)
    assert "passed: 3.13; failed: 3.12; not on this machine: none" in done.stdout
    assert done.returncode != 0


def test_the_test_matrix_fails_if_there_is_no_python(tmp_path: Path) -> None:
    """Nothing tested is not the same as everything passed."""
    done = _matrix(tmp_path, "python3.99")
    assert "passed: none" in done.stdout
    assert done.returncode != 0
