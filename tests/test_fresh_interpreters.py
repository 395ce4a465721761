"""What only a fresh interpreter shows: the nursery, where others come from, imported libraries before."""

from __future__ import annotations

import subprocess
import sys

from tests.processes import NO_REDIS, ROOT, environment


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an interpreter in the environment of a service."""
    env = environment("postgresql://nobody@127.0.0.1:1/none", NO_REDIS)
    assert "REMAP_SIGTERM" not in env
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=env,
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_celery_is_told_how_a_worker_stops_before_it_is_imported() -> None:
    """It reads that once; a worker would otherwise wait for its tasks without limit."""
    done = python("-c", "import worker.main; from billiard.common import REMAP_SIGTERM; print(REMAP_SIGTERM)")
    assert (done.stdout, done.stderr) == ("SIGQUIT\n", "")


def test_a_health_check_that_is_given_no_file_fails() -> None:
    """The working directory, which is what an empty path means, was touched lately for other reasons."""
    done = python("-m", "shared.heartbeat")
    assert done.returncode == 1
    assert done.stderr == "heartbeat: OMS_HEARTBEAT_FILE names no file\n"
