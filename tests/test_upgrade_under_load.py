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
