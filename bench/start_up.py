"""How long ``make run`` takes until it is ready, when everything is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from bench.contestants import ROOT
from bench.processes import BenchError
from stack.child_processes import start_process, stop_processes
from stack.embedded_valkey import free_port

if TYPE_CHECKING:
    from pathlib import Path

_LONGEST_SECONDS = 60.0


def measure_start(folder: Path) -> dict[str, float]:
    """Start what ``make run`` starts, with the sample orders, on new data and again on the same data."""
    state = folder / "stack"
    try:
        return {"start_seconds": _start(state), "restart_seconds": _start(state)}
    finally:
        # As root, its database may lie elsewhere, behind a link.
        for path in state.glob("*"):
            if path.is_symlink():
                shutil.rmtree(path.resolve(), ignore_errors=True)


def _start(state: Path) -> float:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OMS_")}
    environment = {**kept, "STATE_DIR": str(state), "PORT": str(free_port())}
    began = time.monotonic()
    process = start_process(
        [sys.executable, "-m", "oms", "run"], output=subprocess.PIPE, env=environment, cwd=ROOT
    )
    seconds = 0.0
    lines = []
    try:
        if process.stdout is None:
            raise BenchError("no pipe")
        for line in process.stdout:
            lines.append(line.decode(errors="replace"))
            if re.search(r"\bready on http", lines[-1]):
                seconds = time.monotonic() - began
                break
            if time.monotonic() - began > _LONGEST_SECONDS:
                break
    finally:
        stop_processes(process, grace=15.0, meanwhile=lambda: _drain(process))
    if not seconds:
        raise BenchError(f"`make run` did not become ready:\n{''.join(lines[-20:])}")
    return seconds


def _drain(process: subprocess.Popen[bytes]) -> None:
    """Read what it still says, or it could not end."""
    if process.stdout is not None:
        os.set_blocking(process.stdout.fileno(), False)
        process.stdout.read()
    time.sleep(0.02)
