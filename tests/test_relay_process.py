"""The relay as a process: whatever happens to Redis, to PostgreSQL's sessions, and to another relay."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests.builders import later
from tests.drivers import Database, wait_until
from tests.processes import ServiceProcess
from tests.steps import applied, place
from tests.task_queue import Queue
from worker.fee_summaries.consumer import apply_changes

if TYPE_CHECKING:
    from pathlib import Path

    from stack.embedded_valkey import EmbeddedValkey

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


def assigned(database: Database) -> int:
    """Count the assigned positions."""
    return int(database.value("SELECT last_position FROM change_log"))


def is_assigned(database: Database, position: int) -> bool:
    """Whether this is the last assigned position."""
    return assigned(database) == position


def test_positions_are_assigned_while_redis_is_unreachable_and_published_later(
    run: Run, database: Database, own_valkey: EmbeddedValkey, postgres_url: str
) -> None:
    """The log and its readers do not depend on Redis."""
    own_valkey.kill()
    with ServiceProcess("api.relay.main", database=postgres_url, redis=own_valkey.url) as relay:
        run(place(later(days=0)))
        wait_until(lambda: assigned(database) == 1, "assigned without Redis")
        run(place(later(days=1)))
        wait_until(lambda: assigned(database) == 2, "assigned without Redis, again")
        wait_until(lambda: "queue_unavailable" in relay.log, "the outage is logged")
        own_valkey.start()
        queue = Queue(own_valkey.url)
        wait_until(lambda: bool(len(queue)), "published")
        wait_until(lambda: run(_apply(queue)) == 2, "applied")
        assert relay.log.count("queue_unavailable") == 1  # once, and not with every check
        assert "queue_available_again" in relay.log


def test_a_redis_that_refuses_or_hangs_neither_ends_nor_blocks_the_relay(
    run: Run, database: Database, own_valkey: EmbeddedValkey, postgres_url: str
) -> None:
    """Out of memory, then stopped with SIGSTOP; the relay also stops within ten seconds after SIGTERM."""
    queue = Queue(own_valkey.url)
    with ServiceProcess("api.relay.main", database=postgres_url, redis=own_valkey.url) as relay:
        run(place(later(days=0)))
        wait_until(lambda: run(_apply(queue)) == 1, "applied")

        queue.client.config_set("maxmemory", "1")
        run(place(later(days=1)))
        wait_until(lambda: "queue_unavailable" in relay.log, "Redis refuses to store")
        queue.client.config_set("maxmemory", "0")
        wait_until(lambda: run(_apply(queue)) == 2, "applied")

        assert own_valkey.process is not None
        os.kill(own_valkey.process.pid, signal.SIGSTOP)
        try:
            before = time.monotonic()
            for day in (2, 3):
                run(place(later(days=day)))
                wait_until(partial(is_assigned, database, day + 1), "assigned while Redis hangs")
            print(f"twice assigned while Redis hung: {time.monotonic() - before:.1f} s")
            before = time.monotonic()
            relay.stop()
            print(f"stopped while Redis hung: {time.monotonic() - before:.1f} s")
        finally:
            os.kill(own_valkey.process.pid, signal.SIGCONT)
        relay.start()
        wait_until(lambda: run(_apply(queue)) == 4, "applied")
        assert database.wrong_summaries() == []


def test_a_standby_relay_takes_over_when_the_leading_one_is_killed(
    run: Run, database: Database, redis_url: str, queue: Queue, postgres_url: str
) -> None:
    """One leads, and the next one begins as soon as the first has ended."""
    with ExitStack() as processes:

        def start_relay() -> ServiceProcess:
            process = ServiceProcess("api.relay.main", database=postgres_url, redis=redis_url)
            return processes.enter_context(process)

        leading = start_relay()
        wait_until(lambda: "leading" in leading.log, "the first relay leads")
        standby = start_relay()
        wait_until(lambda: "started" in standby.log, "the standby relay has started")
        run(place(later(days=0)))
        wait_until(lambda: run(_apply(queue)) == 1, "applied")
        assert "leading" not in standby.log

        leading.kill()
        run(place(later(days=1)))
        wait_until(lambda: run(_apply(queue)) == 2, "applied after the take-over")
        assert "leading" in standby.log
        assert database.wrong_summaries() == []


def test_postgresql_sessions_that_end_as_they_begin_do_not_end_the_relay(
    run: Run, database: Database, tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    """The server may end a session before its first statement, which asyncpg then refuses to send.

    The relay's first session reads the time zone, and the next one is to hold the lock.
    """
    with (
        terminating_proxy(range(1, 3), tmp_path, postgres_url) as url,
        ServiceProcess("api.relay.main", database=url, redis=redis_url) as relay,
    ):
        run(place(later(days=0)))
        wait_until(lambda: is_assigned(database, 1), f"assigned: {relay.log}")
        assert relay.log.count("database_unavailable") == 2


def test_a_heartbeat_that_cannot_be_written_does_not_end_the_relay(
    run: Run, database: Database, tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    """With a full disk its health check fails and its log has one line about it, but the relay runs."""
    missing = str(tmp_path / "missing" / "beat")
    with ServiceProcess(
        "api.relay.main", database=postgres_url, redis=redis_url, OMS_HEARTBEAT_FILE=missing
    ) as relay:
        run(place(later(days=0)))
        wait_until(lambda: is_assigned(database, 1), "assigned")
        assert relay.log.count("heartbeat_failed") == 1
        assert "database_unavailable" not in relay.log


TERMINATED = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
READY = b"Z\0\0\0\x05I"


@contextmanager
def terminating_proxy(unlucky: range, folder: Path, postgres_url: str) -> Iterator[str]:
    """A proxy of PostgreSQL that ends some sessions as they are opened, as pg_terminate_backend may."""
    address = next(iter(parse_qs(urlsplit(postgres_url).query)["host"]))
    sessions = count()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, terminate: bool) -> None:
        while data := await reader.read(65_536):
            if terminate and READY in data:
                data += b"E" + (len(TERMINATED) + 4).to_bytes(4) + TERMINATED
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(f"{address}/.s.PGSQL.5432")
        terminate = next(sessions) in unlucky
        await asyncio.gather(
            forward(reader, to_server, terminate=False),
            forward(from_server, writer, terminate=terminate),
        )

    async def listen() -> None:
        async with await asyncio.start_unix_server(serve, folder / ".s.PGSQL.5432"):
            listening.set()
            await asyncio.to_thread(over.wait)

    listening, over = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as thread:
        proxy = thread.submit(asyncio.run, listen())
        try:
            assert listening.wait(5)
            yield postgres_url.replace(quote(address, safe="/"), quote(str(folder), safe="/"))
        finally:
            over.set()
            proxy.result(10)


async def _apply(queue: Queue) -> int:
    """Do the worker's work on all waiting messages; return the position reached."""
    for position in queue.taken():
        await apply_changes(position)
    return await applied()


def test_a_change_soon_after_another_does_not_wait_for_the_longest_pause(
    run: Run, database: Database, redis_url: str, postgres_url: str
) -> None:
    """The pause begins anew with each change, and gets longer only while there are none."""
    run(place(later(days=0)))
    with ServiceProcess("api.relay.main", database=postgres_url, redis=redis_url, OMS_RELAY_INTERVAL="3600"):
        for day in range(1, 6):
            wait_until(partial(is_assigned, database, day), "the change has a position")
            run(place(later(days=day)))
        wait_until(partial(is_assigned, database, 6), "the last change has a position")


def leads(relay: ServiceProcess, times: int) -> bool:
    """Whether the relay has become the leader so many times."""
    return relay.log.count("leading") == times


def test_a_relay_becomes_leader_again_however_often_its_sessions_are_terminated(
    own_database_url: str, redis_url: str
) -> None:
    """Ended at random moments; a lost cancellation must not leave the relay waiting for itself."""
    seed = 5
    print(f"seed {seed}")
    rng = random.Random(seed)
    with (
        Database(own_database_url) as database,
        ServiceProcess(
            "api.relay.main", database=own_database_url, redis=redis_url, OMS_RELAY_INTERVAL="0.01"
        ) as relay,
    ):
        for times in range(1, 13):
            wait_until(partial(leads, relay, times), "the relay leads")
            time.sleep(0.02 + rng.random() * 0.05)
            database.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        wait_until(partial(leads, relay, 13), "the relay leads")
