"""OMS_API_PROCESSES: several processes of one server, on one port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from shared.metrics.shared_counts import FOLDER_VARIABLE, shared_counts
from tests.builders import later
from tests.drivers import Api, wait_until
from tests.processes import NO_REDIS, ROOT, ServiceProcess, environment
from tests.serving import serving
from tests.test_metrics import DURATIONS, REQUESTS, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.drivers import Database

GET = {"method": "GET", "route": "/orders", "status": "200"}


def worker_ids(server: ServiceProcess) -> set[int]:
    """Return the ids of the processes that listen."""
    ids = set()
    for child in psutil.Process(server.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ends at this moment
            if any(c.status == psutil.CONN_LISTEN for c in child.net_connections("tcp")):
                ids.add(child.pid)
    return ids


def list_often(api: Api, times: int = 200) -> None:
    """List orders over many new connections, so that every process answers some."""

    def list_once(_: int) -> int:
        return httpx.get(f"{api.url}/orders", verify=False, trust_env=False).status_code  # noqa: S501 - no TLS

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(list_once, range(times))) == {200}


@pytest.fixture
def serving_twice(postgres_url: str, database: Database) -> Iterator[tuple[Api, ServiceProcess]]:
    """A caller of a server of two processes that both listen, and the server; without Redis."""
    database.add_services()
    with serving(database=postgres_url, redis=NO_REDIS, OMS_API_PROCESSES="2") as (api, server):
        wait_until(lambda: len(worker_ids(server)) == 2, "both processes listen")
        yield api, server


@pytest.fixture
def api(serving_twice: tuple[Api, ServiceProcess]) -> Api:
    """A caller of that server."""
    return serving_twice[0]


@pytest.fixture
def server(serving_twice: tuple[Api, ServiceProcess]) -> ServiceProcess:
    """That server."""
    return serving_twice[1]


def port_of(api: Api) -> int:
    """Return the server's port."""
    return int(api.url.rpartition(":")[2])


def _replace_a_process(server: ServiceProcess) -> None:
    """Kill one of its processes, and wait for another one."""
    killed = min(worker_ids(server))
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(worker_ids(server) - {killed}) == 2, "another process listens")


def test_requests_are_counted_in_whichever_process_they_reach(api: Api, server: ServiceProcess) -> None:
    """The answer of any process shows the counts of all, and does so again after one was replaced."""
    list_often(api)
    assert {read(api).of(REQUESTS, **GET) for _ in range(20)} == {200}
    assert read(api).of(f"{DURATIONS}_count", **GET) == 200
    for round_ in range(1, 4):
        _replace_a_process(server)
        with Api(port_of(api)) as new_connections:
            list_often(new_connections, 50)
            assert {read(new_connections).of(REQUESTS, **GET) for _ in range(9)} == {200 + 50 * round_}
    (folder,) = Path("/dev/shm").glob(f"oms-metrics-{server.pid}-*")  # noqa: S108 - only read
    assert len(list(folder.glob("counter_*.db"))) <= 3, "a new process counts on in the files of an ended one"


def test_a_stream_is_counted_once_and_not_after_its_process_was_killed(
    api: Api, server: ServiceProcess
) -> None:
    """As order_changes_followers."""
    with httpx.Client(base_url=api.url, verify=False, trust_env=False) as client:  # noqa: S501 - no TLS
        with client.stream("GET", "/order-changes/stream") as stream:
            assert stream.status_code == 200
            wait_until(lambda: read(api).of("order_changes_followers") == 1, "it is counted")
            port = stream.extensions["network_stream"].get_extra_info("client_addr")[1]
            (owner,) = {
                pid
                for pid in worker_ids(server)
                for connection in psutil.Process(pid).net_connections("tcp")
                if connection.raddr[1:] == (port,)
            }
            os.kill(owner, signal.SIGKILL)
            wait_until(lambda: len(worker_ids(server) - {owner}) == 2, "another process listens")
        with Api(port_of(api)) as new_connections:
            wait_until(
                lambda: read(new_connections).of("order_changes_followers") == 0, "it is not counted any more"
            )


def test_orders_written_through_all_processes_keep_the_spacing(api: Api) -> None:
    """One of many concurrent creates at one place is stored, whichever process they reach."""
    at = later(days=3)

    def create(_: int) -> int:
        with Api(port_of(api)) as own:
            return own.place_order(at=at).status_code

    with ThreadPoolExecutor(8) as threads:
        statuses = sorted(threads.map(create, range(24)))
    assert statuses == [201, *[409] * 23]


def test_all_processes_end_with_a_signal_and_with_a_killed_server(api: Api, server: ServiceProcess) -> None:
    """SIGTERM is passed on; if the main process is killed, the kernel ends the others."""
    ids = worker_ids(server)
    assert api.client.get("/health/live").status_code == 200
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not any(_lives(pid) for pid in ids), "both have ended")
    server.kill()
    server.start()
    wait_until(lambda: len(worker_ids(server)) == 2, "it is started again")
    ids = worker_ids(server)
    server.stop()
    assert not any(_lives(pid) for pid in ids)
    server.start()


def test_a_killed_server_leaves_no_folder_behind_for_long(api: Api, server: ServiceProcess) -> None:
    """The next one removes what it counted in, and nothing else."""
    assert api.client.get("/metrics").status_code == 200
    (folder,) = Path("/dev/shm").glob(f"oms-metrics-{server.pid}-*")  # noqa: S108 - only read
    with shared_counts(2):
        assert folder.is_dir(), "its server runs"
    server.kill()
    with shared_counts(2):
        assert not folder.exists()
    with shared_counts(1):
        assert FOLDER_VARIABLE not in os.environ
    server.start()


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


_DRAW_IDS_IN_CHILDREN = """
import asyncio, os
from api.http.request_log import request_log

def draw_id():
    async def show(scope, receive, send):
        print(scope["request_id"], flush=True)

    asyncio.run(request_log(show)({"type": "http", "method": "GET", "path": "/", "headers": []}, None, None))

draw_id()
for _ in range(2):
    if os.fork() == 0:
        draw_id()
        os._exit(0)
    os.wait()
"""


def test_processes_never_give_two_requests_the_same_id(postgres_url: str) -> None:
    """Although ids are drawn many at once, and a process is a copy of another that may have drawn some."""
    done = subprocess.run(
        [sys.executable, "-c", _DRAW_IDS_IN_CHILDREN],
        cwd=ROOT,
        env=environment(postgres_url, NO_REDIS),
        capture_output=True,
        text=True,
        check=True,
    )
    ids = re.findall(r"^[0-9a-f]{32}$", done.stdout, re.MULTILINE)
    assert len(ids) == len(set(ids)) == 3, done.stdout
