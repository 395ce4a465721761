"""A main process that is killed leaves no child behind that holds the port or goes on consuming."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import psutil
import pytest

from stack.child_processes import living
from stack.embedded_valkey import free_port
from tests.drivers import Api, wait_until
from tests.processes import ServiceProcess

if TYPE_CHECKING:
    from pathlib import Path

STARTED = {"worker.main": "ready", "api.relay.main": "leading", "api.server": "Started worker"}
"""What each logs once it works."""


def test_a_killed_api_leaves_nobody_on_its_port(postgres_url: str, redis_url: str) -> None:
    """The next one can take the port at once."""
    port = free_port()
    process = ServiceProcess("api.server", database=postgres_url, redis=redis_url, port=port)
    with process, Api(port) as api:
        api.wait_until_ready()
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not living(children), f"{children} have ended", 5)
        process.kill()
        process.start()
        api.wait_until_ready()


def test_the_children_of_a_killed_worker_end(postgres_url: str, redis_url: str) -> None:
    """Each ends at once, and not after the task that it has."""
    with ServiceProcess("worker.main", database=postgres_url, redis=redis_url) as process:
        wait_until(lambda: "ready" in process.log, "the worker is ready", 20)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 5
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not living(children), f"{children} have ended", 5)
        process.kill()


@pytest.mark.parametrize(
    ("module", "number", "status"),
    [
        ("worker.main", signal.SIGTERM, 0),
        ("worker.main", signal.SIGINT, 0),
        ("api.relay.main", signal.SIGTERM, 0),
        ("api.server", signal.SIGTERM, 0),
    ],
)
def test_a_process_that_is_asked_to_stop_ends_with_exit_status_0(
    module: str, number: signal.Signals, status: int, postgres_url: str, redis_url: str
) -> None:
    """A fault would be another status, so that a supervisor starts it again."""
    process = ServiceProcess(module, database=postgres_url, redis=redis_url, port=free_port())
    with process:
        wait_until(lambda: STARTED[module] in process.log, f"started: {process.log}", 20)
        running = process._process
        assert running is not None
        running.send_signal(number)
        assert running.wait(10) == status, process.log


@pytest.mark.parametrize("module", STARTED)
def test_a_killed_process_leaves_nothing_in_the_temporary_folder(
    module: str, postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    """A supervisor starts it again, however often."""
    process = ServiceProcess(
        module, database=postgres_url, redis=redis_url, port=free_port(), TMPDIR=str(tmp_path)
    )
    with process:
        wait_until(lambda: STARTED[module] in process.log, f"started: {process.log}", 20)
        process.kill()
    assert list(tmp_path.iterdir()) == []
