"""``make run API=4 WORKERS=2``: what several processes share, and what happens when one of them ends."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil
import pytest

from stack.child_processes import StackError
from stack.embedded_valkey import free_port
from stack.plan import Plan
from tests.builders import later
from tests.drivers import Api, wait_until
from tests.scrapes import scrape
from tests.supervisor import READY, Run

if TYPE_CHECKING:
    from collections.abc import Iterator

NODE = re.compile(r"worker-\d+ +\| .*(worker-\d+@\S+) ready")


@pytest.fixture(scope="module")
def running() -> Iterator[Run]:
    """A system of four API processes and two workers."""
    state = Path(tempfile.mkdtemp(prefix="oms-"))
    state.chmod(0o755)
    settings = {
        "API": "4",
        "WORKERS": "2",
        "OMS_METRICS_PORT": str(_first_of_three_ports()),
        "OMS_DRAIN": "1",
    }
    run = Run(state, free_port(), **settings)
    try:
        # Each of the four imports the whole API, which takes long where few cores are free.
        run.address, run.tried = run.read_until(READY, within=120).groups()
        yield run
    finally:
        run.stop()
        shutil.rmtree(state)


def _first_of_three_ports() -> int:
    while True:
        first = free_port()
        with suppress(OSError), ExitStack() as stack:
            for port in (first + 1, first + 2):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def listening(run: Run) -> set[int]:
    """Return the ids of the processes that listen on the API's port."""
    port = int(run.address.rpartition(":")[2])
    ids = set()
    for process in run.processes():
        with suppress(psutil.Error):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    ids.add(process.pid)
    return ids


class Load:
    """Clients that read over connections of their own: some keep theirs, some open one for each request."""

    def __init__(self, run: Run) -> None:
        self._port = int(run.address.rpartition(":")[2])
        self.answers: Counter[int] = Counter()
        self.failures: dict[str, list[tuple[str, int | None]]] = {"kept": [], "new": []}
        """What went wrong, and from which local port."""
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._read, args=(kind,)) for kind in ("kept",) * 6 + ("new",) * 2
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _read(self, kind: str) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._over.is_set():
            if connection is None or kind == "new":
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            port = connection.sock.getsockname()[1] if connection.sock else None
            try:
                connection.request("GET", "/orders?limit=2")
                port = connection.sock.getsockname()[1] if connection.sock else port
                answer = connection.getresponse()
                answer.read()
                with self._lock:
                    self.answers[answer.status] += 1
            except (OSError, http.client.HTTPException) as error:
                with self._lock:
                    self.failures[kind].append((repr(error), port))
                connection.close()
                connection = None
            if kind == "new" and connection is not None:
                connection.close()
            time.sleep(0.002)


def _ports_at(pid: int) -> set[int | None]:
    """Return the clients' ports of the connections that a process has."""
    connections = psutil.Process(pid).net_connections("tcp")
    return {each.raddr.port for each in connections if each.status == psutil.CONN_ESTABLISHED}


def _orders_summed(api: Api, calendar: str) -> int:
    summaries = api.fee_summaries(calendar=calendar)
    return sum(int(row["orders"]) for row in summaries["items"])


@pytest.mark.timeout(240)
def test_four_processes_share_one_port_and_two_workers_share_one_queue(running: Run) -> None:
    """Each worker has a node name, a heartbeat and metrics of its own."""
    wait_until(lambda: len(listening(running)) == 4, "four listen")
    wait_until(lambda: len(set(NODE.findall("\n".join(running.lines)))) == 2, "two nodes are ready")
    text = "\n".join(running.lines)
    ports = dict(re.findall(r"^(worker-\d) .*serving_metrics.*port=(\d+)", text, re.MULTILINE))
    assert len(set(ports.values())) == len(ports) == 2
    for name, port in ports.items():
        assert "worker_queue_failures_total" in scrape(int(port)).names()
        assert (running.state / f"heartbeat-{name}").exists()
    with Api(int(running.address.rpartition(":")[2])) as api:
        orders = 20
        for number in range(orders):
            api.placed_order(at=later(hours=3 * number), calendar="shared")
        wait_until(
            lambda: _orders_summed(api, "shared") == orders,
            "both workers sum each order once",
        )


@pytest.mark.timeout(240)
def test_only_requests_on_the_connections_of_a_killed_process_fail(running: Run) -> None:
    """The others serve on, and it is replaced."""
    before = listening(running)
    with Load(running) as load:
        time.sleep(1)
        killed = min(before)
        ports = _ports_at(killed)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(listening(running) - {killed}) == 4, "it is replaced", 120)
        time.sleep(0.5)
    print(load.answers, load.failures, sorted(ports, key=str))
    assert set(load.answers) == {200}
    assert {port for _, port in load.failures["kept"]} <= ports
    assert len(load.failures["new"]) <= 2, "of the two clients that open connections, one each"


@pytest.mark.timeout(240)
def test_a_process_that_is_told_to_stop_loses_no_request_on_its_connections(running: Run) -> None:
    """It drains and is replaced. A connection that it had not accepted when its socket is closed is reset."""
    time.sleep(6)  # one that ends twice within 5.5 s would end the server
    before = listening(running)
    stopped = min(before)
    with Load(running) as load:
        time.sleep(0.5)
        os.kill(stopped, signal.SIGTERM)
        wait_until(lambda: len(listening(running) - {stopped}) == 4, "another one listens", 120)
        wait_until(lambda: stopped not in listening(running), "it has stopped")
        time.sleep(0.5)
    print(load.answers, load.failures)
    assert set(load.answers) == {200}
    assert load.failures["kept"] == []
    assert len(load.failures["new"]) <= 2, "of the two clients that open connections, one each"


@pytest.mark.parametrize(
    "variables", [{"API": "0"}, {"WORKERS": "two"}, {"OMS_API_PROCESSES": "65"}], ids=str
)
def test_a_number_of_processes_that_makes_no_sense_is_refused(variables: dict[str, str]) -> None:
    """Before anything is started."""
    with pytest.raises(StackError, match="must be a number from 1 to 64"):
        Plan.read(variables)
