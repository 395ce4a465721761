"""Migrations of a filled database while an earlier release serves it: nothing waits long, none fails."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.drivers import Database
from tests.processes import ROOT
from tests.test_migrations import run_migrate_as_process, run_piccolo
from tests.test_order_texts import COLUMNS, EARLIER, PLACE, UNLIKE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


RENDERED = "2026-11-29T12:30:00:000000"
"""The last migration of the release whose orders have no reference, metadata or status."""

CREATE = """
INSERT INTO orders (service_ids, service_names, calendar_id, datetime, totalfee)
SELECT '{123}', '{Inspection}', 1, timestamptz '2031-06-01Z' + $1 * interval '3 hours', 7
ON CONFLICT DO NOTHING RETURNING id
"""
CHANGE = """
UPDATE orders SET totalfee = totalfee + 1, version = version + 1, updated_at = clock_timestamp() WHERE id = $1
"""


@pytest.fixture
def earlier_url(new_database_url: str) -> str:
    """A database of the release that stored no texts, with 3,000 orders."""
    run_piccolo(ROOT, new_database_url, "forwards", "shared", EARLIER)
    with Database(new_database_url) as database:
        database.add_services()
        database.rows("INSERT INTO calendar (id, name) VALUES (1, 'default')")
        database.rows(PLACE, 3_000)
    return new_database_url


@asynccontextmanager
async def lock_held(url: str, lock: str) -> AsyncIterator[None]:
    """Hold a lock of a table during a block."""
    holder = await asyncpg.connect(url)
    try:
        async with holder.transaction():
            await holder.execute(f"LOCK TABLE {lock} MODE")
            yield
    finally:
        await holder.close()


async def longest_read(url: str, seconds: float) -> float:
    """Read an order again and again for some seconds; return how long the slowest read took."""
    reader = await asyncpg.connect(url)
    longest, end = 0.0, time.monotonic() + seconds
    try:
        while (began := time.monotonic()) < end:
            await reader.fetch("SELECT id FROM orders ORDER BY id LIMIT 1")
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(0.01)
    finally:
        await reader.close()
    return longest


@pytest.mark.parametrize(
    ("first", "lock"),
    [
        (EARLIER, "orders IN ACCESS SHARE"),  # an export
        (EARLIER, "idempotency_key IN ROW EXCLUSIVE"),  # a create that has claimed its key
        (COLUMNS, "orders IN ACCESS SHARE"),
        (COLUMNS, "orders IN SHARE UPDATE EXCLUSIVE"),  # a vacuum
        (RENDERED, "orders IN ACCESS SHARE"),
        (RENDERED, "order_change IN ACCESS SHARE"),  # a page of the feed
    ],
)
def test_a_migration_waits_for_others_without_making_requests_wait(
    earlier_url: str, first: str, lock: str
) -> None:
    """It succeeds as soon as they have ended."""
    run_piccolo(ROOT, earlier_url, "forwards", "shared", first)

    async def upgrade() -> float:
        async with lock_held(earlier_url, lock):
            migrating = asyncio.create_task(asyncio.to_thread(run_migrate_as_process, earlier_url))
            longest = await longest_read(earlier_url, 4)
            assert not migrating.done()
        done = await migrating
        assert done.returncode == 0, done.stderr
        return longest

    assert asyncio.run(upgrade()) < 1
    with Database(earlier_url) as database:
        assert database.value(UNLIKE) == 0


async def write_as_the_earlier_release(url: str, done: asyncio.Event) -> tuple[int, float]:
    """Create, change and delete orders until ``done``; return how many, and how long the slowest took."""
    writer = await asyncpg.connect(url, server_settings={"application_name": "oms"})
    number, longest = 0, 0.0
    try:
        while not done.is_set():
            began = time.monotonic()
            number += 1
            order_id = await writer.fetchval(CREATE, number)
            await writer.execute(CHANGE, order_id)
            if number % 3 == 0:
                await writer.execute("DELETE FROM orders WHERE id = $1", order_id)
            longest = max(longest, time.monotonic() - began)
    finally:
        await writer.close()
    return number, longest


def test_an_earlier_release_writes_while_orders_get_new_members(earlier_url: str) -> None:
    """Nothing that it writes fails or waits long, and afterwards all orders look alike."""
    run_piccolo(ROOT, earlier_url, "forwards", "shared", RENDERED)

    async def upgrade() -> tuple[int, float]:
        done = asyncio.Event()
        writing = asyncio.create_task(write_as_the_earlier_release(earlier_url, done))
        await asyncio.sleep(0.5)
        migrated = await asyncio.to_thread(run_migrate_as_process, earlier_url)
        await asyncio.sleep(0.5)
        done.set()
        assert migrated.returncode == 0, migrated.stderr
        return await writing

    orders, longest = asyncio.run(upgrade())
    assert orders > 100
    assert longest < 1
    with Database(earlier_url) as database:
        assert database.value(UNLIKE) == 0
        assert database.value("SELECT count(*) FROM orders WHERE format <> 2") == 0
        assert database.value("SELECT count(*) FROM order_change WHERE actor IS NOT NULL") == 0
        assert (
            database.value("SELECT count(*) FROM order_change WHERE order_version > 1")
            == orders + orders // 3
        )
        assert database.too_close_pairs() == []
