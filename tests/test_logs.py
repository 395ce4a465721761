"""What the processes print: one line per event, as text or as JSON, from their start to their end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from stack.embedded_valkey import free_port
from tests.drivers import Api, wait_until
from tests.import_steps import SAMPLE_ORDERS
from tests.processes import NO_REDIS, ROOT, ServiceProcess, environment, run_command

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
    lines = lines_of(module, postgres_url, redis_url, "text")
    assert len([line for line in lines if re.search(r"\] [Ss]topped", line)]) == 1, lines
    for line in lines:
        assert "[info" in line, line
        assert "Ctrl" not in line
        assert "see ya" not in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2])
def test_a_worker_that_is_stopped_while_it_starts_says_that_it_stopped(
    seconds: float, number: signal.Signals, database: Database, postgres_url: str, redis_url: str
) -> None:
    """Also before Celery handles signals."""
    del database
    with ServiceProcess("worker.main", database=postgres_url, redis=redis_url) as process:
        wait_until(lambda: "started" in process.log, "it has started", 20)
        time.sleep(seconds)
        assert process.stop(number) == 0
        lines = process.log.splitlines()
        assert "stopped" in lines[-1], lines
        assert all("[info" in line for line in lines), lines


@pytest.mark.parametrize(
    ("command", "arguments", "status"),
    [
        ("shared.database.migrate", (), 0),
        ("oms", ("import", str(SAMPLE_ORDERS)), 1),
        ("oms", ("import", "no-such-file.json"), 2),
        ("oms", ("verify",), 0),
        ("oms", ("rebuild",), 0),
    ],
)
def test_every_line_of_a_command_is_json_where_that_is_set(
    command: str, arguments: tuple[str, ...], status: int, database: Database, postgres_url: str
) -> None:
    """On standard output and on standard error; the import is refused, as there are no services."""
    del database
    done = run_command(command, *arguments, database=postgres_url, OMS_LOG_FORMAT="json")
    assert done.returncode == status
    lines = done.stdout.splitlines() + done.stderr.splitlines()
    assert lines
    for line in lines:
        assert {"event", "level", "timestamp"} <= json.loads(line).keys(), line


@pytest.mark.parametrize("command", [*PROCESSES, "shared.database.migrate", "oms verify"])
def test_a_refusal_to_start_is_json_where_that_is_set(command: str, postgres_url: str) -> None:
    """In one line, with everything that is wrong, and exit status 1."""
    done = run_command(
        *command.split(),
        database=postgres_url,
        OMS_LOG_FORMAT="json",
        OMS_PORT="x",
        OMS_TYPO="1",
        OMS_ACCESS="maybe",
    )
    assert done.returncode == 1
    (line,) = (done.stdout + done.stderr).splitlines()
    event = json.loads(line)
    assert (event["level"], "OMS_PORT" in event["event"], "OMS_TYPO" in event["event"]) == (
        "error",
        True,
        True,
    )


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_an_error_that_ends_a_process_is_logged_like_everything_else(
    log_format: str, postgres_url: str
) -> None:
    """With its stack trace, and exit status 1."""
    done = subprocess.run(
        [sys.executable, "-c", "from shared.logs import configure_logs; configure_logs(); 1 / 0"],
        cwd=ROOT,
        env=environment(postgres_url, NO_REDIS, OMS_LOG_FORMAT=log_format),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    if log_format == "json":
        event = json.loads(done.stdout)
        assert (event["event"], event["level"]) == ("ended_by_error", "critical")
        assert "ZeroDivisionError" in event["exception"]
    else:
        first, *trace = done.stdout.splitlines()
        assert "[critical ] ended_by_error" in first
        assert "ZeroDivisionError" in trace[-1]
        assert all(line.startswith("    ") for line in trace)


_LOG_MANY_AT_ONCE = """
import asyncio
from shared.logs import configure_logs
import structlog

log = structlog.get_logger("test")

async def log_many():
    for turn in range(20):
        for number in range(200):
            log.info("line", turn=turn, number=number, path="/" + "o" * (number % 90))
        await asyncio.sleep(0)

configure_logs()
asyncio.run(log_many())
"""


def test_lines_of_processes_that_share_a_pipe_are_never_mixed(postgres_url: str) -> None:
    """Each line is whole, although many are written together and the reader is slow."""
    reading, writing = os.pipe()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _LOG_MANY_AT_ONCE],
            cwd=ROOT,
            env=environment(postgres_url, NO_REDIS, OMS_LOG_FORMAT="json"),
            stdout=writing,
        )
        for _ in range(3)
    ]
    os.close(writing)
    read = bytearray()
    while some := os.read(reading, 3_000):
        read += some
        time.sleep(0.0005)  # the pipe is full, and they wait to write
    os.close(reading)
    assert [process.wait(20) for process in processes] == [0, 0, 0]
    events = [json.loads(line) for line in read.splitlines()]
    assert len(events) == 3 * 20 * 200


def test_a_character_that_the_terminal_has_not_loses_no_line(postgres_url: str) -> None:
    """It is escaped, and the lines that are written together with it are there too."""
    code = _LOG_MANY_AT_ONCE.replace('"/" + "o" * (number % 90)', r'"/\u20ac" if number == 7 else "/"')
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(postgres_url, NO_REDIS, OMS_LOG_FORMAT="text", PYTHONIOENCODING="latin-1"),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.splitlines()
    assert len(lines) == 20 * 200
    assert lines[7].endswith(rb"path=/\u20ac turn=0")
