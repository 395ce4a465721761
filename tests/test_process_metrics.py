"""The metrics of the relay and of the worker, which they serve themselves."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from stack.embedded_valkey import free_port
from tests.builders import later
from tests.drivers import WAITING_FOR_LOCKS, wait_until
from tests.observed_system import ObservedSystem, observed_system
from tests.processes import NO_REDIS, ROOT, ServiceProcess, environment, migrate, run_command
from tests.scrapes import Metrics, documented, kinds_and_labels, scrape
from tests.webhook_receiver import Receiver
from tests.webhook_steps import missed, subscribe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.drivers import Database

FEE_SUMMARIES = "fee_summaries.apply_changes"


@pytest.fixture(scope="module")
def system(own_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObservedSystem]:
    """API, relay and worker."""
    with observed_system(own_database_url, tmp_path_factory.mktemp("system")) as system:
        wait_until(lambda: _is_served(system.relay_port) and _is_served(system.worker_port), "both serve", 20)
        yield system


def _is_served(port: int) -> bool:
    with suppress(httpx.TransportError):
        return bool(scrape(port))
    return False


def _counted(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    counts = ("_total", "_count", "_sum", "_bucket")
    return {sample: value for sample, value in metrics.items() if sample[0].endswith(counts)}


def test_every_metric_of_relay_and_worker_is_documented_with_its_type_and_labels(
    system: ObservedSystem,
) -> None:
    """And every documented one is shown from the start, with 0 for what has not happened yet."""
    for port, section in ((system.relay_port, "the relay"), (system.worker_port, "the worker")):
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False)
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert kinds_and_labels(answer.text) == documented(section)


def test_no_count_of_the_worker_falls_when_its_children_are_killed(system: ObservedSystem) -> None:
    """A child that takes another's place counts on in its files, so there are never more of them."""
    before = _counted(scrape(system.worker_port))
    applied = before["worker_changes_applied_total", frozenset({("consumer", "fee_summaries")})]
    for n in range(4):
        system.api.placed_order(at=later(days=n))
        system.wait_until_summed()
        wait_until(
            lambda want=applied + n + 1: (  # type: ignore[misc]  # its default is a number
                scrape(system.worker_port).of("worker_changes_applied_total", consumer="fee_summaries")
                == want
            ),
            "the change is counted",
        )
        children = psutil.Process(system.worker.pid).children(recursive=True)
        for child in children:
            child.kill()
        after = _counted(scrape(system.worker_port))
        assert before.keys() <= after.keys()
        fallen = {
            sample: (before[sample], after[sample]) for sample in before if after[sample] < before[sample]
        }
        assert fallen == {}
        before = after
        wait_until(
            lambda gone=children: (  # type: ignore[misc]  # as above
                len(set(psutil.Process(system.worker.pid).children(recursive=True)) - set(gone)) == 5
            ),
            "all children are there again",
        )
    (folder,) = Path("/dev/shm").glob(f"oms-metrics-{system.worker.pid}-*")  # noqa: S108 - only read
    wait_until(lambda: len(list(folder.glob("*.db"))) > 2, "children count")
    # Of the parent and five children, and of those that were still ending when others took their place.
    assert len(list(folder.glob("counter_*.db"))) <= 12
    assert (
        scrape(system.worker_port).of(
            "worker_task_duration_seconds_count", task=FEE_SUMMARIES, outcome="done"
        )
        >= 4
    )


def test_a_task_whose_process_is_killed_is_counted_as_lost(system: ObservedSystem) -> None:
    """By the parent, since the child can't any more."""
    before = scrape(system.worker_port).of("worker_tasks_lost_total", task=FEE_SUMMARIES)
    system.database.rows("BEGIN")
    system.database.rows("SELECT FROM consumer_cursor WHERE consumer = 'fee_summaries' FOR UPDATE")
    try:
        system.api.placed_order(at=later(days=100))
        wait_until(lambda: _blocked(system) > 0, "a task waits for the cursor")
        for child in psutil.Process(system.worker.pid).children(recursive=True):
            child.kill()
    finally:
        system.database.rows("ROLLBACK")
    wait_until(
        lambda: scrape(system.worker_port).of("worker_tasks_lost_total", task=FEE_SUMMARIES) > before,
        "it is counted",
    )
    system.wait_until_summed()


def _blocked(system: ObservedSystem) -> int:
    return int(system.database.value(f"SELECT count(*) {WAITING_FOR_LOCKS}"))


def test_a_relay_that_waits_for_another_one_does_not_lead(system: ObservedSystem) -> None:
    """And takes over when that one ends."""
    port = free_port()
    assert scrape(system.relay_port).of("relay_leading") == 1
    with ServiceProcess(
        "api.relay.main", database=system.database_url, redis=system.redis_url, OMS_METRICS_PORT=str(port)
    ):
        wait_until(lambda: _is_served(port), "it serves metrics", 20)
        assert scrape(port).of("relay_leading") == 0
        assert scrape(port).of("relay_changes_positioned_total") == 0
        system.relay.stop()
        try:
            wait_until(lambda: scrape(port).of("relay_leading") == 1, "it takes over")
            system.api.placed_order(at=later(days=101))
            wait_until(lambda: scrape(port).of("relay_changes_positioned_total") == 1, "it is positioned")
        finally:
            system.relay.start()
            wait_until(lambda: _is_served(system.relay_port), "the first one is back", 20)
    wait_until(lambda: scrape(system.relay_port).of("relay_leading") == 1, "it leads again")


def test_a_relay_that_waits_for_the_database_answers_at_once(system: ObservedSystem) -> None:
    """The endpoint has a thread of its own."""
    system.database.rows("BEGIN")
    system.database.rows("LOCK TABLE change_log IN ACCESS EXCLUSIVE MODE")
    try:
        wait_until(lambda: _blocked(system) > 0, "the relay waits")
        for _ in range(3):
            began = time.monotonic()
            assert scrape(system.relay_port).of("relay_leading") == 1
            assert time.monotonic() - began < 1
    finally:
        system.database.rows("ROLLBACK")


@pytest.mark.parametrize("is_writable", [True, False])
def test_a_folder_of_counts_that_is_removed_stops_neither_worker_nor_endpoint(
    new_database_url: str, tmp_path: Path, *, is_writable: bool
) -> None:
    """Nor does a child that can't make its files, where another file has the folder's name."""
    migrate(new_database_url)
    with observed_system(new_database_url, tmp_path) as system, Receiver() as receiver:
        wait_until(lambda: _is_served(system.worker_port), "it is served", 20)
        webhook = subscribe(system.api, receiver.url)
        (folder,) = Path("/dev/shm").glob(f"oms-metrics-{system.worker.pid}-*")  # noqa: S108 - a test's own
        shutil.rmtree(folder)
        if not is_writable:
            folder.touch()
        for child in psutil.Process(system.worker.pid).children(recursive=True):
            child.kill()
        system.api.placed_order()
        system.wait_until_summed()
        wait_until(lambda: receiver.positions == [1], "the webhook is sent to")
        wait_until(lambda: missed(system.api, webhook) == {}, "that is recorded")
        if is_writable:
            applied = "worker_changes_applied_total"
            wait_until(lambda: scrape(system.worker_port).total(applied) == 2, "it counts anew")
        else:
            folder.unlink()


@pytest.mark.parametrize("process", ["relay", "worker"])
def test_neither_silent_connections_nor_a_flood_of_requests_stop_the_work(
    system: ObservedSystem, process: str
) -> None:
    """Orders are summed meanwhile, and metrics can be read again some seconds later."""
    port = system.relay_port if process == "relay" else system.worker_port
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            with suppress(httpx.HTTPError):
                scrape(port)

    with ExitStack() as stack:
        for n in range(40):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
            with suppress(OSError):  # it is closed, as all places are taken
                connection.sendall(b"GET /metrics HTTP/1.1\r\nX: " if n % 2 else b"")
        threads = [threading.Thread(target=flood, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        base = 200 if process == "relay" else 300
        began = time.monotonic()
        for n in range(10):
            system.api.placed_order(at=later(days=base + n))
        system.wait_until_summed()
        assert time.monotonic() - began < 10
        wait_until(lambda: _is_served(port), "it is served again", 15)
        stop.set()
        for thread in threads:
            thread.join(10)
    assert len(psutil.Process((system.relay if process == "relay" else system.worker).pid).threads()) < 30


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.0\r\n\r\n", b"501"),
        (b"\x00\xff\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /metrics?a=b HTTP/1.1\r\n\r\n", b"200"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200"),
    ],
)
def test_other_requests_are_refused_and_nothing_is_logged(
    system: ObservedSystem, request_: bytes, status: bytes
) -> None:
    lines = len(system.relay.log.splitlines())
    with socket.create_connection(("127.0.0.1", system.relay_port), 5) as connection:
        connection.sendall(request_)
        answer = b""
        with suppress(ConnectionResetError):
            while some := connection.recv(65_536):
                answer += some
    assert status in answer[:200], answer[:200]
    assert b"Python" not in answer
    assert len(system.relay.log.splitlines()) == lines


@pytest.mark.parametrize("process", ["relay", "worker"])
def test_a_killed_process_leaves_its_port_free_at_once(system: ObservedSystem, process: str) -> None:
    """Its children hold nothing that it listened on. Its counts begin anew."""
    service = system.relay if process == "relay" else system.worker
    port = system.relay_port if process == "relay" else system.worker_port
    started = scrape(port).of("process_start_time_seconds")
    os.kill(service.pid, signal.SIGKILL)  # the children end a moment later
    service.start()
    wait_until(lambda: _is_served(port), "it is served again", 20)
    assert started < scrape(port).of("process_start_time_seconds") <= time.time()


@pytest.mark.parametrize("module", ["api.relay.main", "worker.main"])
def test_a_port_that_is_taken_stops_the_process_with_a_sentence(
    module: str, database: Database, postgres_url: str
) -> None:
    del database
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run_command(module, database=postgres_url, OMS_METRICS_PORT=str(port))
    assert done.returncode == 1
    assert f"OMS_METRICS_PORT: can't listen on 127.0.0.1, port {port}: Address already in use" in done.stderr


@pytest.mark.parametrize("module", ["api.relay.main", "worker.main"])
def test_without_the_setting_nothing_is_imported_and_nothing_listens(module: str, postgres_url: str) -> None:
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import {module}, worker.tasks, sys; print('prometheus_client' in sys.modules)",
        ],
        cwd=ROOT,
        env=environment(postgres_url, NO_REDIS),
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout == "False\n"
    with ServiceProcess(module, database=postgres_url, redis=NO_REDIS) as process:
        wait_until(lambda: "started" in process.log, "it has started", 20)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        assert not [c for one in family for c in one.net_connections() if c.status == psutil.CONN_LISTEN]
