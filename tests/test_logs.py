"""What the processes print: one line per event, as text or as JSON, from their start to their end."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.drivers import Api, wait_until
from tests.processes import ServiceProcess, free_port

if TYPE_CHECKING:
    from tests.drivers import Database

PROCESSES = ("api.server", "api.relay.main", "worker.main")


def lines_of(module: str, postgres_url: str, redis_url: str, log_format: str) -> list[str]:
    """Start a process, let it do its work for a moment, stop it, and return the lines that it printed."""
    port = free_port() if module == "api.server" else 0
    process = ServiceProcess(
        module, database=postgres_url, redis=redis_url, port=port, OMS_LOG_FORMAT=log_format
    )
    with process:
        if port:
            with Api(port) as api:
                api.wait_until_ready()
        else:
            wait_until(lambda: process.log != "", f"{module} prints a line")
            time.sleep(1)
        process.stop()
        return process.log.splitlines()


@pytest.mark.parametrize("module", PROCESSES)
def test_every_line_of_a_process_is_json_where_that_is_set(
    module: str, database: Database, postgres_url: str, redis_url: str
) -> None:
    """Also those of granian and Celery, while it starts and while it stops."""
    del database
    lines = lines_of(module, postgres_url, redis_url, "json")
    assert lines
    for line in lines:
        event = json.loads(line)
        assert {"event", "level", "logger", "timestamp"} <= event.keys(), line


@pytest.mark.parametrize("module", PROCESSES)
def test_a_process_that_is_stopped_prints_nothing_that_looks_like_trouble(
    module: str, database: Database, postgres_url: str, redis_url: str
) -> None:
    """Every line has a time and a level, and none of them is a warning."""
    del database
    for line in lines_of(module, postgres_url, redis_url, "text"):
        assert "[info" in line, line
        assert "Ctrl" not in line
        assert "see ya" not in line
