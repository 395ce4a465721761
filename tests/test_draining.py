"""SIGTERM: an API is not ready at once, serves on for OMS_DRAIN seconds, and ends without a reset."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from api.server import LONGEST_STOP_SECONDS
from shared.settings import settings
from tests.builders import later, order_body
from tests.drivers import Api, wait_until
from tests.processes import NO_REDIS, ROOT, ServiceProcess
from tests.serving import serving
from tests.steps import assign_all
from tests.subscribers import EventStream, Feed
from tests.test_api_processes import worker_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.drivers import Database

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


def port_of(api: Api) -> int:
    """Return the server's port."""
    return int(api.url.rpartition(":")[2])


def ask(api: Api, path: str) -> tuple[int, str | None]:
    """Send a request on a connection of its own; return the status, and the ``Connection`` of the answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", port_of(api), timeout=10)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("Connection")


_BODY = json.dumps(order_body()).encode()


def begin_create(connection: http.client.HTTPConnection) -> None:
    """Send the header and the beginning of the body of a create."""
    connection.putrequest("POST", "/orders")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(_BODY)))
    connection.endheaders()
    connection.send(_BODY[:20])


def ends_within(process: ServiceProcess, seconds: float) -> float:
    """Wait until a process that was signalled has ended; return how long that took."""
    began = time.monotonic()
    wait_until(lambda: process.has_ended, "it has ended", seconds)
    return time.monotonic() - began


def test_a_stopping_api_is_not_ready_at_once_and_serves_on(postgres_url: str, database: Database) -> None:
    """In all its processes: load balancers notice before it stops listening."""
    database.add_services()
    settings = {"OMS_DRAIN": "2", "OMS_API_PROCESSES": "2"}
    with serving(database=postgres_url, redis=NO_REDIS, **settings) as (api, server):
        wait_until(lambda: len(worker_ids(server)) == 2, "both processes listen")
        assert ask(api, "/health/ready") == (200, None)
        kept = http.client.HTTPConnection("127.0.0.1", port_of(api))
        kept.request("GET", "/orders")
        assert kept.getresponse().read()
        os.kill(server.pid, signal.SIGTERM)
        began = time.monotonic()
        wait_until(lambda: ask(api, "/health/ready")[0] == 503, "it is not ready")
        assert time.monotonic() - began < 0.5
        time.sleep(0.2)
        assert {ask(api, "/health/ready") for _ in range(40)} == {(503, "close")}
        assert {ask(api, "/orders") for _ in range(40)} == {(200, "close")}
        assert {ask(api, "/no/such/path") for _ in range(5)} == {(404, "close")}
        assert api.client.get("/health/live").status_code == 200
        answer = api.client.get("/health/ready")
        assert answer.json()["detail"] == "This instance is stopping; send requests to another one."
        assert answer.json()["checks"] == {"database": "ok", "migrations": "ok", "queue": "unavailable"}
        assert api.place_order(at=later()).status_code == 201
        kept.request("GET", "/orders")
        last = kept.getresponse()
        assert (last.status, last.getheader("Connection")) == (200, "close")
        assert last.read()
        assert kept.sock is None, "the client has been told to open another connection"
        ends_within(server, 6)
        assert 1.9 < time.monotonic() - began < 4
        assert server.stop() == 0
        with pytest.raises(ConnectionRefusedError):
            ask(api, "/orders")


def test_without_a_drain_an_api_stops_at_once(postgres_url: str, database: Database) -> None:
    """The default, except under Kubernetes."""
    database.add_services()
    with serving(database=postgres_url, redis=NO_REDIS) as (api, server):
        assert ask(api, "/orders") == (200, None)
        os.kill(server.pid, signal.SIGTERM)
        assert ends_within(server, 5) < 2


def test_an_api_drains_when_all_its_processes_get_the_signal(postgres_url: str, database: Database) -> None:
    """As from systemd, which signals all processes of a unit; granian's main process signals them too."""
    database.add_services()
    with serving(database=postgres_url, redis=NO_REDIS, OMS_DRAIN="2") as (api, server):
        os.killpg(server.pid, signal.SIGTERM)
        began = time.monotonic()
        wait_until(lambda: ask(api, "/health/ready")[0] == 503, "it is not ready")
        time.sleep(1)
        os.killpg(server.pid, signal.SIGTERM)
        assert ask(api, "/orders") == (200, "close")
        ends_within(server, 6)
        assert 1.9 < time.monotonic() - began < 4
        assert server.stop() == 0


def test_the_drain_is_five_seconds_under_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it is set."""
    monkeypatch.setenv("OMS_DATABASE_URL", "postgresql://localhost")
    monkeypatch.setenv("OMS_REDIS_URL", NO_REDIS)
    monkeypatch.delenv("OMS_DRAIN", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert settings.__wrapped__().drain == 0
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert settings.__wrapped__().drain == 5
    monkeypatch.setenv("OMS_DRAIN", "0")
    assert settings.__wrapped__().drain == 0


def test_streams_end_with_a_retry_hint_and_resume_without_a_gap(
    postgres_url: str, database: Database, run: Run
) -> None:
    """Those that come back to the same instance are served until the end, and then end with a hint again."""
    database.add_services()
    with serving(database=postgres_url, redis=NO_REDIS, OMS_DRAIN="2") as (api, server):
        api.placed_order(at=later())
        run(assign_all())
        with EventStream(api.url, 0) as stream:
            seen = [event.data for event in stream.take(1)]
            os.kill(server.pid, signal.SIGTERM)
            rest = list(stream.lines())
        assert rest[-1].startswith("retry: ")
        assert 1_000 <= int(rest[-1].removeprefix("retry: ")) < 3_000
        api.placed_order(at=later(days=1))
        with EventStream(api.url, last_event_id=1) as stream:
            assert stream.answer.getheader("Connection") == "close"
            run(assign_all())
            seen += [event.data for event in stream.take(1)]
            rest = list(stream.lines())
        assert rest[-1].startswith("retry: ")
        ends_within(server, 6)
    with serving(database=postgres_url, redis=NO_REDIS) as (api, _):
        api.placed_order(at=later(days=2))
        run(assign_all())
        with EventStream(api.url, last_event_id=2) as stream:
            seen += [event.data for event in stream.take(1)]
        assert seen == Feed.after(api).all()
        assert len(seen) == 3


def test_a_request_that_waits_for_changes_is_answered_early(
    postgres_url: str, database: Database, run: Run
) -> None:
    """With the position to go on from. One that comes while the API drains waits until the drain ends."""
    database.add_services()
    with serving(database=postgres_url, redis=NO_REDIS, OMS_DRAIN="2") as (api, server):
        api.placed_order(at=later())
        run(assign_all())
        answers = []
        path = "/order-changes?after=1&wait=30"
        waiting = threading.Thread(target=lambda: answers.append(api.client.get(path)))
        waiting.start()
        wait_until(lambda: api.waiting() == 1, "it waits")
        os.kill(server.pid, signal.SIGTERM)
        began = time.monotonic()
        waiting.join(5)
        assert time.monotonic() - began < 0.5
        assert answers[0].json()["items"] == []
        assert answers[0].json()["next_cursor"] == 1
        assert answers[0].headers["Connection"] == "close"
        assert api.client.get(path).json()["next_cursor"] == 1
        assert 1.5 < time.monotonic() - began < 3
        ends_within(server, 6)


def test_a_request_in_progress_is_answered_after_the_drain(postgres_url: str, database: Database) -> None:
    """Although it takes longer: its body comes after the server has stopped to listen."""
    database.add_services()
    with serving(database=postgres_url, redis=NO_REDIS, OMS_DRAIN="0.5") as (api, server):
        with closing(http.client.HTTPConnection("127.0.0.1", port_of(api), timeout=10)) as connection:
            begin_create(connection)
            time.sleep(0.2)
            os.kill(server.pid, signal.SIGTERM)
            time.sleep(1.5)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port_of(api)))
            connection.send(_BODY[20:])
            answer = connection.getresponse()
            assert answer.status == 201
            assert answer.getheader("Connection") == "close"
        ends_within(server, 3)


def test_an_api_ends_within_thirty_seconds_whatever_hangs(postgres_url: str, database: Database) -> None:
    """With the longest times that it can be given, and a request that never ends."""
    database.add_services()
    longest = {"OMS_DRAIN": "15", "OMS_STATEMENT_TIMEOUT": "86400", "OMS_BODY_TIMEOUT": "86400"}
    with serving(database=postgres_url, redis=NO_REDIS, **longest) as (api, server):
        with closing(http.client.HTTPConnection("127.0.0.1", port_of(api), timeout=40)) as connection:
            begin_create(connection)
            time.sleep(0.2)
            os.kill(server.pid, signal.SIGTERM)
            seconds = ends_within(server, 30)
        print(f"ended after {seconds:.1f} s")
        assert LONGEST_STOP_SECONDS - 1 < seconds < 30


_LIKE_GRANIAN = """
import asyncio, os, signal, sys
import uvloop
from api.server import draining_on_signals

turns = int(sys.argv[1])
loop = uvloop.new_event_loop()
asked_to_stop = asyncio.Event()
for number in (signal.SIGINT, signal.SIGTERM):
    loop.add_signal_handler(number, asked_to_stop.set)
application = draining_on_signals(lambda: print("drains"), lambda: print("ends"))

async def start():
    application.__enter__()
    if turns >= 0:
        os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(turns):
        await asyncio.sleep(0)

loop.run_until_complete(start())
if turns < 0:
    os.kill(os.getpid(), signal.SIGTERM)
loop.run_until_complete(asked_to_stop.wait())
"""


@pytest.mark.parametrize("turns", [-1, 0, 1, 2, 3, 4])
def test_a_signal_while_the_event_loop_changes_from_starting_to_serving_is_not_lost(turns: int) -> None:
    """The loop of granian runs twice, and uvloop forgets signals that arrive between or at the end of a run.

    Args:
        turns: of the loop from SIGTERM to the end of its first run; -1: SIGTERM comes between the runs.

    """
    done = subprocess.run(
        [sys.executable, "-c", _LIKE_GRANIAN, str(turns)],
        cwd=ROOT,
        env={**os.environ, "OMS_DRAIN": "0"},
        capture_output=True,
        text=True,
        timeout=30,  # it hangs if the signal is lost
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == ["drains", "ends"]
