"""The Redis stream: the log's latest changes, whatever happens to Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from api.relay.redis_stream import CHECK_SECONDS, STREAM, RedisStream
from api.relay.retention import trim_log
from shared.change_log import is_change_at, log_bounds
from shared.database.engine import DB
from stack.embedded_valkey import EmbeddedValkey
from tests.builders import later
from tests.drivers import wait_until
from tests.processes import ServiceProcess
from tests.steps import apply_every_change, assign_all, place, whole_log
from tests.subscribers import RedisReader

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from shared.change_log import Bounds
    from tests.drivers import Database

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def reader(redis_url: str, database: Database) -> Iterator[RedisReader]:
    """A reader of this process's stream, which is empty."""
    database.add_services()
    reader = RedisReader(redis_url)
    reader.client.flushdb()
    yield reader
    reader.client.flushdb()
    reader.client.close()


async def publish_all() -> int:
    """Publish until the stream has everything; return the number of changes."""
    stream = RedisStream()
    published = 0
    try:
        while more := await stream.publish_once():
            published += more
    finally:
        await stream.close()
    return published


def is_assigned(database: Database, position: int) -> bool:
    """Whether this is the last assigned position."""
    return bool(database.value("SELECT last_position FROM change_log") == position)


def place_and_assign(run: Run, *days: int) -> list[str]:
    """Place orders and return the whole log."""
    for day in days:
        run(place(later(days=day)))
    run(assign_all())
    return [change.notification() for change in run(whole_log())]


def test_an_entry_of_the_redis_stream_is_a_notification_whose_id_is_its_position(
    run: Run, reader: RedisReader
) -> None:
    log = place_and_assign(run, 0, 1, 2)
    assert run(publish_all()) == 3
    assert reader.entries() == [(f"{n}-0", notification) for n, notification in enumerate(log, 1)]
    assert run(publish_all()) == 0
    log = place_and_assign(run, 3)
    assert run(publish_all()) == 1
    assert reader.read_page() == log


def test_publishing_repeatedly_or_concurrently_adds_no_duplicates(run: Run, reader: RedisReader) -> None:
    log = place_and_assign(run, *range(5))

    async def at_once() -> None:
        await asyncio.gather(*(publish_all() for _ in range(4)))

    run(at_once())
    run(publish_all())
    assert [notification for _, notification in reader.entries()] == log


def test_a_wiped_redis_stream_is_filled_again(run: Run, reader: RedisReader) -> None:
    log = place_and_assign(run, *range(4))
    run(publish_all())
    assert reader.read_page() == log
    reader.client.flushdb()
    log = place_and_assign(run, 5)
    run(publish_all())
    assert [notification for _, notification in reader.entries()] == log
    assert reader.read_page() == log[4:]  # a reader from before continues


def test_a_redis_stream_that_lost_its_last_entries_is_repaired(run: Run, reader: RedisReader) -> None:
    log = place_and_assign(run, *range(2))
    run(publish_all())
    saved: Any = reader.client.dump(STREAM)
    log = place_and_assign(run, *range(2, 5))
    run(publish_all())
    reader.client.restore(STREAM, 0, saved, replace=True)  # a failover to a replica that was behind
    run(publish_all())
    assert [notification for _, notification in reader.entries()] == log


def test_a_redis_stream_of_another_change_log_is_replaced(
    run: Run, reader: RedisReader, database: Database
) -> None:
    place_and_assign(run, *range(4))
    run(publish_all())
    database.clean()
    database.add_services()
    run(publish_all())
    assert reader.entries() == []
    place_and_assign(run, *range(4))
    run(publish_all())
    database.clean()
    database.add_services()
    log = place_and_assign(run, *range(9))  # further than the other log had come
    run(publish_all())
    assert [notification for _, notification in reader.entries()] == log
    reader.client.delete(STREAM)
    reader.client.rpush(STREAM, "something else")
    run(publish_all())
    assert [notification for _, notification in reader.entries()] == log


def test_a_redis_stream_with_an_unreadable_entry_is_replaced(run: Run, reader: RedisReader) -> None:
    log = place_and_assign(run, 0, 1)
    for foreign in ("[" * 200_000, "no JSON", "[]", "{}", '{"id": 5}', '{"id": "no-uuid"}'):
        reader.client.delete(STREAM)
        reader.client.xadd(STREAM, {"notification": foreign}, id="1-0")
        run(publish_all())
        run(publish_all())
        assert [notification for _, notification in reader.entries()] == log, foreign[:20]


def test_publishing_continues_after_every_error(run: Run, reader: RedisReader, database: Database) -> None:
    """No error of PostgreSQL or Redis may end it permanently and unnoticed."""
    log = place_and_assign(run, 0, 1)
    database.rows("ALTER TABLE order_change RENAME TO elsewhere")

    async def publish() -> None:
        stop = asyncio.Event()
        publishing = asyncio.create_task(RedisStream().publish_until(stop, asyncio.Event()))
        try:
            await asyncio.sleep(0.2)
            await DB.execute("ALTER TABLE elsewhere RENAME TO order_change")
            await asyncio.to_thread(wait_until, lambda: len(reader.entries()) == len(log), "all is published")
        finally:
            stop.set()
            await publishing

    try:
        run(publish())
    finally:
        database.rows("ALTER TABLE IF EXISTS elsewhere RENAME TO order_change")
    assert [notification for _, notification in reader.entries()] == log


def test_a_command_at_the_same_moment_delays_the_redis_stream_only_briefly(
    run: Run, reader: RedisReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction is repeated at once, and not only when there is the next change."""
    place_and_assign(run, 0)
    run(publish_all())
    log = place_and_assign(run, 1)
    hours = iter((1, 2))

    async def write_then_read_bounds() -> Bounds:
        for hour in hours:
            reader.client.expire(STREAM, hour * 3_600)
            break
        return await log_bounds()

    monkeypatch.setattr("api.relay.redis_stream.log_bounds", write_then_read_bounds)

    async def publish() -> float:
        stop = asyncio.Event()
        began = time.monotonic()
        publishing = asyncio.create_task(RedisStream().publish_until(stop, asyncio.Event()))
        try:
            await asyncio.to_thread(wait_until, lambda: len(reader.entries()) == 2, "all is published")
            return time.monotonic() - began
        finally:
            stop.set()
            await publishing

    assert run(publish()) < CHECK_SECONDS
    assert [notification for _, notification in reader.entries()] == log


def test_the_redis_stream_has_a_maximum_length_even_when_filled_again(
    run: Run, reader: RedisReader, setting: Callable[..., None], database: Database
) -> None:
    setting(redis_stream_length=100)
    database.rows("INSERT INTO calendar (name) VALUES ('default')")
    database.rows(
        """
        INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
        SELECT at, 10, '{123}', '{Inspection}', 1
        FROM (SELECT $1::timestamptz + n * interval '3 hours' AS at FROM generate_series(1, 1000) AS n)
        """,
        later(),
    )
    run(assign_all())
    assert run(publish_all()) == 100
    assert [name for name, _ in reader.entries()] == [f"{n}-0" for n in range(901, 1_001)]
    for fee in range(5):
        database.rows("UPDATE orders SET totalfee = $1, version = version + 1 WHERE id % 10 = 0", fee)
        run(assign_all())
        run(publish_all())
    assert 100 <= reader.client.xlen(STREAM) < 300
    assert reader.entries()[-1][0] == "1500-0"


def test_a_redis_stream_is_kept_when_all_its_changes_were_removed_from_the_log(
    run: Run, reader: RedisReader, database: Database
) -> None:
    log = place_and_assign(run, *range(3))
    run(publish_all())
    run(apply_every_change())
    database.rows("UPDATE order_change SET recorded_at = recorded_at - interval '91 days'")
    assert run(trim_log()) == 3
    assert run(publish_all()) == 0
    assert [notification for _, notification in reader.entries()] == log
    place_and_assign(run, 4)
    assert run(publish_all()) == 1
    reader.client.flushdb()
    assert run(publish_all()) == 1
    assert [name for name, _ in reader.entries()] == ["4-0"]


def test_removing_changes_during_a_check_of_the_redis_stream_does_not_delete_the_stream(
    run: Run, reader: RedisReader, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its consumer groups would be lost with it."""
    log = place_and_assign(run, 0, 1)
    run(publish_all())
    reader.client.xgroup_create(STREAM, "billing")
    run(apply_every_change())
    database.rows("UPDATE order_change SET recorded_at = recorded_at - interval '91 days'")

    async def trim_then_check(position: int, event_id: str) -> bool:
        await trim_log()
        return await is_change_at(position, event_id)

    monkeypatch.setattr("api.relay.redis_stream.is_change_at", trim_then_check)
    run(publish_all())
    assert [notification for _, notification in reader.entries()] == log
    assert reader.client.xinfo_groups(STREAM)


def test_a_hanging_redis_delays_no_position_and_receives_everything_later(
    run: Run, database: Database, postgres_url: str, tmp_path: Path
) -> None:
    database.add_services()
    with (
        EmbeddedValkey(tmp_path / "valkey") as valkey,
        ServiceProcess("api.relay.main", database=postgres_url, redis=valkey.url) as relay,
    ):
        reader = RedisReader(valkey.url)
        run(place(later()))
        wait_until(lambda: len(reader.entries()) == 1, "published")
        assert valkey.process is not None
        os.kill(valkey.process.pid, signal.SIGSTOP)
        try:
            slowest = 0.0
            for day in range(1, 4):
                began = time.monotonic()
                run(place(later(days=day)))
                wait_until(
                    partial(is_assigned, database, day + 1),
                    "assigned while Redis hangs",
                )
                slowest = max(slowest, time.monotonic() - began)
        finally:
            os.kill(valkey.process.pid, signal.SIGCONT)
        assert slowest < 3
        print(f"assigned within {slowest:.2f} s while Redis hung")
        wait_until(lambda: len(reader.entries()) == 4, "caught up")
        assert relay.log.count("redis_unavailable") <= 1
