"""Processes that an earlier run left behind: zombies do not count."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from stack.child_processes import living, stop_leftovers

_NEGLIGENT = """
import subprocess, time
print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def unreaped() -> Iterator[psutil.Process]:
    """A process whose parent never waits for it, like init in some containers."""
    with subprocess.Popen([sys.executable, "-c", _NEGLIGENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        process = psutil.Process(int(parent.stdout.readline()))
        try:
            yield process
        finally:
            process.kill()
            parent.kill()


def test_a_zombie_left_by_an_earlier_run_counts_as_stopped(
    unreaped: psutil.Process,
) -> None:
    """A zombie holds neither port nor folder, and no signal removes it."""
    assert living([unreaped]) == [unreaped]
    begun = time.monotonic()
    assert stop_leftovers([unreaped], grace=5.0) == 1
    assert time.monotonic() - begun < 5.0
    assert unreaped.status() == psutil.STATUS_ZOMBIE
    assert unreaped.is_running()
    assert living([unreaped]) == []
