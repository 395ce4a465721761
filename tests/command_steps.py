"""``oms`` as a process, as a person starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.processes import ROOT

OURS = ("OMS_", "STATE_DIR", "XDG_", "NO_COLOR", "TERM")


def command_environment(**settings: str) -> dict[str, str]:
    """Return an environment without this process's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return {**kept, **settings}


def oms(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run ``oms`` to its end; with neither a stack nor a database, unless ``settings`` name one."""
    done = subprocess.run(
        [sys.executable, "-m", "oms", *arguments],
        cwd=ROOT,
        env=command_environment(**settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def oms_json(*arguments: str, **settings: str) -> Any:
    """Run ``oms`` with ``--json``; it must succeed. Return what it printed."""
    done = oms(*arguments, "--json", **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)
