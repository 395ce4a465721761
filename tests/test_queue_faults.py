"""Whatever Redis answers or holds: worker and relay wait, log it once, and continue when it is over."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import psutil
import pytest
import redis

from shared.task_queue import APPLY_TO_FEE_SUMMARIES, ATTEMPTS_QUEUE, CONSUMER_QUEUE, app
from tests.builders import later
from tests.drivers import wait_until
from tests.processes import ROOT, ServiceProcess, environment
from tests.steps import place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from stack.embedded_valkey import EmbeddedValkey
    from tests.drivers import Database

pytestmark = pytest.mark.timeout(120)


class Pair:
    """A relay and a worker over a Redis that can be broken."""

    def __init__(self, valkey: EmbeddedValkey, database: Database, run: Callable[..., Any], url: str) -> None:
        self.valkey, self.database, self._run = valkey, database, run
        self.relay = ServiceProcess("api.relay.main", database=url, redis=valkey.url)
        self.worker = ServiceProcess("worker.main", database=url, redis=valkey.url)
        self._url = url
        self._placed = 0

    @contextmanager
    def another_worker(self) -> Iterator[ServiceProcess]:
        """Another worker, not started."""
        worker = ServiceProcess("worker.main", database=self._url, redis=self.valkey.url)
        try:
            yield worker
        finally:
            worker.kill()

    def client(self) -> redis.Redis:
        """Open a client of Redis."""
        return redis.Redis.from_url(self.valkey.url, socket_timeout=5)

    def place(self) -> None:
        """Place one more order."""
        self._run(place(later(days=self._placed)))
        self._placed += 1

    def assert_summed(self, seconds: float = 10.0) -> None:
        """Check that all orders are summed within some seconds."""
        begun = time.monotonic()
        wait_until(
            lambda: self.database.value(
                "SELECT count(*) = 2 FROM consumer_cursor WHERE position = $1", self._placed
            ),
            f"{self._placed} orders are summed: {self.worker.log[-3000:]} {self.relay.log[-1500:]}",
            seconds,
        )
        print(f"summed after {time.monotonic() - begun:.1f} s")
        assert self.database.wrong_summaries() == []


@pytest.fixture
def pair(
    own_valkey: EmbeddedValkey, database: Database, run: Callable[..., Any], postgres_url: str
) -> Iterator[Pair]:
    """A relay and a worker, not started."""
    database.add_services()
    pair = Pair(own_valkey, database, run, postgres_url)
    yield pair
    for process in (pair.relay, pair.worker):
        process.kill()


Fault = Any
"""A context manager during which a Redis is broken."""


@contextmanager
def commands(pair: Pair, *breaking: str, mending: str) -> Iterator[None]:
    """Break Redis with commands, end all sessions, and mend it with a command."""
    with pair.client() as client:
        for command in breaking:
            client.execute_command(*command.split())
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        yield
    with pair.client() as client:
        client.execute_command(*mending.split())


def out_of_memory(pair: Pair) -> Fault:
    return commands(pair, "CONFIG SET maxmemory 1", mending="CONFIG SET maxmemory 0")


def replica(pair: Pair) -> Fault:
    return commands(pair, "REPLICAOF 127.0.0.1 1", mending="REPLICAOF NO ONE")


def forbidden(pair: Pair) -> Fault:
    return commands(
        pair, "ACL SETUSER default -brpop -llen -lpush -xadd", mending="ACL SETUSER default +@all"
    )


def wrong_type(pair: Pair) -> Fault:
    return commands(pair, f"DEL {CONSUMER_QUEUE}", f"SET {CONSUMER_QUEUE} 1", mending=f"DEL {CONSUMER_QUEUE}")


@contextmanager
def failed_snapshot(pair: Pair) -> Iterator[None]:
    """A disk on which Redis can't store its snapshot: MISCONF."""
    folder = pair.valkey.log.parent / "dump.rdb"
    folder.mkdir()
    with pair.client() as client:
        client.config_set("save", "3600 1")
        with commands(pair, "BGSAVE", mending="CONFIG SET stop-writes-on-bgsave-error no"):
            wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "it fails")
            yield
        client.config_set("save", "")
    shutil.rmtree(folder)


ANSWERS = (
    b"-LOADING Redis is loading the dataset in memory\r\n",
    b"-MISCONF Errors writing to the AOF file: No space left on device\r\n",
    b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
    b"-CLUSTERDOWN The cluster is down\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b":1\r\n",
    b"$-7\r\n",
)
"""One second each; the last three are of something that is no Redis."""

CONFUSING_ANSWERS = (
    b":1\r\n",
    b"#t\r\n",
    b"_\r\n",
    b"*0\r\n",
    b"%1\r\n+a\r\n:1\r\n",
    b":x\r\n",
    b"-MOVED 1 x\r\n",
)
"""Of something that greets as Redis does, and then answers so that a client of Redis raises anything."""


@contextmanager
def other_answers(pair: Pair, answers: Sequence[bytes] = ANSWERS, to_hello: bytes = b"") -> Iterator[None]:
    """In place of Redis, a server that answers every command alike, with one answer after another."""
    port = int(pair.valkey.url.rpartition(":")[2].partition("/")[0])
    begun = time.monotonic()

    async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError, ConnectionError):
            while commands := await reader.read(65_536):
                answer = answers[int(time.monotonic() - begun) % len(answers)]
                writer.write((to_hello if b"HELLO" in commands else b"") or answer)
        writer.close()

    async def serve() -> None:
        async with await asyncio.start_server(answer_all, "127.0.0.1", port):
            await asyncio.to_thread(over.wait)

    over = threading.Event()
    pair.valkey.kill()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield
        time.sleep(max(0.0, begun + len(answers) - time.monotonic()))
    finally:
        over.set()
        thread.join()
        pair.valkey.start()


def confusing_answers(pair: Pair) -> Fault:
    return other_answers(pair, CONFUSING_ANSWERS, to_hello=b"%1\r\n$5\r\nproto\r\n:3\r\n")


FAULTS = {
    "out of memory": out_of_memory,
    "a replica": replica,
    "without permission": forbidden,
    "a queue of another type": wrong_type,
    "a failed snapshot": failed_snapshot,
    "other answers": other_answers,
    "confusing answers": confusing_answers,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_worker_and_relay_wait_through_a_fault_of_redis_and_log_it_once(
    pair: Pair, fault: Callable[[Pair], Fault]
) -> None:
    """Also a worker that starts during the fault; when it is over, each continues within 10 s."""
    with pair.relay, pair.worker, pair.another_worker() as late:
        pair.place()
        pair.assert_summed(20)
        with fault(pair):
            late.start()
            pair.place()
            # A full Redis still lets a worker read; the one before has lost its connection.
            noticing = [pair.worker, pair.relay, *([] if fault is out_of_memory else [late])]
            for process in noticing:
                try:
                    wait_until(partial(logged, process, "queue_unavailable"), "logged", 20)
                except AssertionError:
                    pytest.fail(f"{process.module} did not log it: {process.log[-5000:]}")
            time.sleep(1.5)
        pair.assert_summed()
        assert not late.has_ended, late.log
        for process in noticing:
            wait_until(partial(logged, process, "queue_available_again"), f"logged: {process.log}", 20)
            assert not process.has_ended, process.log
            # Only an answer that is none of Redis' has a traceback: it shows where it confused the client.
            if fault not in (other_answers, confusing_answers):
                assert "Traceback" not in process.log
            assert process.log.count("publishing_failed") <= 1
            assert process.log.count("queue_unavailable") == 1, process.log
            assert process.log.count("queue_available_again") == 1
        pair.worker.kill()
        pair.place()
        pair.assert_summed()


def logged(process: ServiceProcess, event: str) -> bool:
    """Whether a process has logged an event."""
    return event in process.log


def envelope(**changes: Any) -> dict[str, Any]:
    """A message as the relay sends it, with changes; an argument of None removes a member."""
    message: dict[str, Any] = {
        "body": body([1]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": APPLY_TO_FEE_SUMMARIES, "id": "x"},
        "properties": {
            "correlation_id": "x",
            "delivery_info": {"exchange": "", "routing_key": CONSUMER_QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "x",
        },
    }
    return {name: value for name, value in (message | changes).items() if value is not None}


def body(arguments: Any, named: Any = (), more: Any = ()) -> str:
    """Encode a message's body."""
    return base64.b64encode(json.dumps([arguments, dict(named), dict(more)]).encode()).decode()


HEADERS = envelope()["headers"]
WRONG: tuple[Any, ...] = (None, 1, [], {}, "")
UNREADABLE: list[bytes | dict[str, Any]] = [
    *(b"", b"no JSON", b"null", b"[]", b"{}", b"1e999", b'"text"', b"\xff\xfe", b"[" * 100_000),
    *(envelope(**{name: value}) for name in ("body", "headers", "properties") for value in WRONG),
    envelope(body="not base64!"),
    envelope(body="n\u00f6 base64"),
    envelope(body=base64.b64encode(b"[[" + b"[" * 900 + b"]" * 900 + b"],{},{}]").decode()),
    envelope(body=body([1.0])),
    envelope(body=body([[1]])),
    envelope(body=base64.b64encode(b"\xff").decode()),
    envelope(body=body({})),
    envelope(body=body([])),
    envelope(body=body([1, 1])),
    envelope(body=body(["1"])),
    envelope(body=body([True])),
    envelope(body=body([1], {"named": 1})),
    envelope(headers=HEADERS | {"task": "celery.backend_cleanup"}),
    envelope(headers=HEADERS | {"task": "os.system"}),
    envelope(headers=HEADERS | {"task": []}),
    envelope(body="A" * 20_000_000),
]
STRANGE: list[dict[str, Any]] = [
    envelope(headers=HEADERS | {"timelimit": "soon"}),
    envelope(headers=HEADERS | {"timelimit": [1e-9, "x"]}),
    envelope(headers=HEADERS | {"eta": "tomorrow"}),
    envelope(headers=HEADERS | {"expires": []}),
    envelope(headers=HEADERS | {"id": [], "lang": None, "retries": "x", "compression": "x"}),
    envelope(properties=envelope()["properties"] | {"delivery_tag": [], "delivery_info": 1}),
    envelope(body=body([10**30])),
    envelope(body=body([1], more={"chain": 1, "callbacks": ["x"], "chord": {"a": 1}})),
    envelope(**{"content-type": "application/x-python-serialize", "content-encoding": "binary"}),
]


def test_keys_of_the_names_that_kombu_uses_hold_up_nothing(pair: Pair) -> None:
    """It would read bindings and queues of other priorities, and fail while they are of another type."""
    with pair.client() as client:
        for queue in (CONSUMER_QUEUE, ATTEMPTS_QUEUE):
            for key in (f"_kombu.binding.{queue}", *(f"{queue}\x06\x16{step}" for step in (3, 6, 9))):
                client.set(key, "x")
        for key in ("unacked", "unacked_index", "unacked_mutex", "_kombu.binding.celery"):
            client.set(key, "x")
        with pair.relay, pair.worker:
            pair.place()
            pair.assert_summed(20)
            for process in (pair.relay, pair.worker):
                assert "queue_unavailable" not in process.log, process.log


def test_messages_that_cannot_be_read_are_dropped_and_logged(pair: Pair) -> None:
    """They hold up nothing behind them, however many there are; whatever else they ask for is ignored."""
    with pair.client() as client:
        for _ in range(3):
            for message in (*UNREADABLE, *STRANGE):
                text = message if isinstance(message, bytes) else json.dumps(message).encode()
                client.lpush(CONSUMER_QUEUE, text)
        with pair.relay, pair.worker:
            pair.place()
            pair.assert_summed(30)
            wait_until(lambda: client.llen(CONSUMER_QUEUE) == 0, "all were read", 20)
            dropped = 3 * len(UNREADABLE)
            wait_until(lambda: pair.worker.log.count("message_dropped") >= dropped, pair.worker.log, 20)
            assert pair.worker.log.count("message_dropped") == dropped, pair.worker.log
            assert not pair.worker.has_ended
            assert "queue_unavailable" not in pair.worker.log


def test_a_worker_survives_children_that_die_while_its_connection_does(pair: Pair) -> None:
    """Seeded; Celery's pool would look for the descriptor of a child that is dead but not reaped yet."""
    seed = 11
    print(f"seed {seed}")
    rng = random.Random(seed)
    with pair.relay, pair.worker:
        pair.place()
        pair.assert_summed(20)
        with pair.client() as client:
            for _ in range(25):
                children = psutil.Process(pair.worker.pid).children()
                for child in rng.sample(children, min(3, len(children))):
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
                time.sleep(rng.random() * 0.01)
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                time.sleep(rng.random() * 0.3)
                assert not pair.worker.has_ended, pair.worker.log[-5000:]
        pair.place()
        pair.assert_summed()


def test_a_killed_child_has_a_line_in_the_log_and_so_has_its_task(
    pair: Pair, database: Database, run: Callable[..., Any]
) -> None:
    """One line each, as all others are: with a time and a level, and without a traceback."""

    async def kill_all_while_they_work(client: redis.Redis) -> int:
        locking = await asyncpg.connect(database.url)
        try:
            async with locking.transaction():
                await locking.execute("LOCK TABLE consumer_cursor")
                client.lpush(CONSUMER_QUEUE, json.dumps(envelope()))
                await asyncio.to_thread(
                    wait_until, lambda: client.llen(CONSUMER_QUEUE) == 0, "the message is taken", 20
                )
                await asyncio.sleep(0.5)
                children = psutil.Process(pair.worker.pid).children()
                for child in children:
                    child.kill()
                return len(children)
        finally:
            await locking.close()

    with pair.client() as client, pair.worker:
        wait_until(partial(logged, pair.worker, "ready"), "the worker is ready", 20)
        killed = run(kill_all_while_they_work(client))
        wait_until(lambda: "WorkerLostError" in pair.worker.log, f"the task is logged {pair.worker.log}", 20)
        ended = "exited with 'signal 9 (SIGKILL)'"
        wait_until(lambda: pair.worker.log.count(ended) >= killed, "the children are logged", 20)
        lines = pair.worker.log.splitlines()
        assert sum(ended in line for line in lines) == killed
        for line in lines:
            assert re.match(r"\d{4}-\d\d-\d\dT\S+Z \[\w+ *\] ", line), line


def test_a_worker_that_is_told_to_stop_while_it_is_busy_stops_in_time(pair: Pair) -> None:
    """Whatever it does when the signal comes: it may be in the middle of speaking to one of its children."""
    seed = 14
    print(f"seed {seed}")
    rng = random.Random(seed)
    with pair.client() as client:
        for _ in range(6):
            client.lpush(CONSUMER_QUEUE, *[json.dumps(envelope()) for _ in range(3_000)])
            waiting = client.llen(CONSUMER_QUEUE)
            pair.worker.start()
            wait_until(lambda: client.llen(CONSUMER_QUEUE) < waiting - 20, "messages are read", 20)  # noqa: B023 (it is called at once)
            time.sleep(rng.uniform(0, 0.3))
            assert pair.worker.stop() == 0


def test_a_worker_that_ends_by_a_fault_has_an_exit_status(
    own_valkey: EmbeddedValkey, postgres_url: str, tmp_path: Path
) -> None:
    """So that whatever supervises it starts it again."""
    # No file can be opened any more once these are used up: Celery ends in silence then.
    command = f"ulimit -n 40; exec {sys.executable} -m worker.main"
    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=ROOT,
            env=environment(postgres_url, own_valkey.url),
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1, (tmp_path / "log").read_text()


def test_a_child_that_is_dead_but_not_reaped_does_not_end_a_worker_that_connects_again() -> None:
    """The kernel closes a dying child's descriptors a moment before it can be waited for."""
    from kombu.asynchronous import Hub

    from worker.queue_reader import Pool

    pool: Any = Pool(1, app=app, threads=False, initargs=(app, "test"))
    pool.start()
    processes = pool._pool
    hub = Hub()
    try:
        pool.register_with_event_loop(hub)
        (child,) = processes._pool
        # What the pool does when the descriptor is closed; then it finds that the child has no exit code yet.
        processes._untrack_child_process(child, hub)
        pool.register_with_event_loop(hub)  # as after each new connection
        os.kill(child.pid, signal.SIGKILL)
        child.join(30)
        processes.maintain_pool()
        (another,) = processes._pool
        assert another.pid != child.pid
    finally:
        pool.terminate()
        hub.close()
