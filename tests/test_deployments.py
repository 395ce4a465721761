"""The systemd units of the operations guide, against the project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from configparser import ConfigParser
from typing import TYPE_CHECKING

import pytest

from tests.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SYSTEMD = ROOT / "docs" / "operations" / "systemd"
PROCESSES = {
    **dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines()),
    "migrate": "python -m shared.database.migrate",
}


def test_systemd_units_start_the_processes_of_the_procfile() -> None:
    """With the interpreter of /opt/oms, and what they share in one file."""
    started = {}
    for path in SYSTEMD.glob("*.service"):
        unit = ConfigParser(interpolation=None, strict=False)
        unit.optionxform = str  # type: ignore[assignment,method-assign]  # names are case-sensitive
        unit.read(path)
        python, command = unit["Service"]["ExecStart"].split(" ", 1)
        assert python == "/opt/oms/.venv/bin/python"
        started[path.stem.removeprefix("oms-")] = f"python {command}"
    assert started == PROCESSES


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    """With paths of this machine in place of /opt/oms and /etc/oms."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        warnings.warn("no systemd-analyze here: the units are NOT VERIFIED by systemd", stacklevel=1)
        pytest.skip("there is no systemd-analyze here")
    shutil.copytree(SYSTEMD, tmp_path / "units")
    (tmp_path / "oms.env").write_text("OMS_LOG_FORMAT=json\n")
    units = sorted((tmp_path / "units").rglob("*.*"))
    for unit in (unit for unit in units if unit.is_file()):
        text = unit.read_text().replace("/opt/oms/.venv/bin/python", sys.executable)
        unit.write_text(text.replace("/opt/oms", str(ROOT)).replace("/etc/oms", str(tmp_path)))
    done = subprocess.run(
        [analyze, "verify", "--man=no", *map(str, (tmp_path / "units").glob("*.service"))],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path / 'units'}:"},
    )
    about_ours = [line for line in done.stderr.splitlines() if "oms" in line]
    assert (done.returncode, about_ours) == (0, []), done.stderr
