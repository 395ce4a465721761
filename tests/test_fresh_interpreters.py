"""What only a fresh interpreter shows: in which order libraries are imported and the environment is read."""

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


def test_the_workers_stop_signal_is_configured_before_celery_is_imported() -> None:
    """Celery reads it once; otherwise a worker would wait for its tasks without limit."""
    done = python("-c", "import worker.main; from billiard.common import REMAP_SIGTERM; print(REMAP_SIGTERM)")
    assert (done.stdout, done.stderr) == ("SIGQUIT\n", "")
