"""While a migration holds a table, writes wait for it; they succeed as soon as it is free again."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from api.http.row_streams import stream_rows
from api.orders import commands, updates
from api.orders.bodies import NewOrder, OrderPatch
from shared.database.engine import DB
from tests.builders import later, order_body
from tests.steps import ANYONE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from tests.drivers import Database

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def serving(database: Database, setting: Callable[..., None]) -> Iterator[Run]:
    """Run commands in this process, as an API would."""
    database.add_services()
    setting(lock_wait=0.1, statement_timeout=10)
    with asyncio.Runner() as runner:
        runner.run(DB.start(size=6, serving=True))
        try:
            yield runner.run
        finally:
            runner.run(DB.stop())


def new_order(day: int, **fields: Any) -> NewOrder:
    """Return the content of an order of its own day."""
    return NewOrder.model_validate(order_body(at=later(days=day), **fields))


@pytest.mark.parametrize("table", ["orders", "service", "calendar"])
def test_writes_that_met_a_locked_table_succeed_soon_after_it_is_released(
    serving: Run, postgres_url: str, table: str
) -> None:
    """Also if they waited for a row before: a command that has its turn to retry waits for no other."""

    async def write() -> float:
        for day in range(8):
            await commands.create_order(new_order(day, id=day + 1), ANYONE)
        locking = await asyncpg.connect(postgres_url)
        async with locking.transaction():
            await locking.execute("SELECT FROM orders FOR UPDATE")
            fee = OrderPatch.model_validate({"totalfee": 7})
            writes: list[asyncio.Task[Any]] = [
                asyncio.create_task(updates.update_order(n + 1, fee, ANYONE)) for n in range(8)
            ]
            writes += [
                asyncio.create_task(commands.create_order(new_order(n + 10), ANYONE)) for n in range(8)
            ]
            await asyncio.sleep(0.5)  # updates wait for their rows
            await locking.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(1)
        released = time.monotonic()
        await asyncio.gather(*writes)
        await locking.close()
        return time.monotonic() - released

    assert serving(write()) < 5


def test_an_export_waits_while_a_migration_holds_its_table(serving: Run, postgres_url: str) -> None:
    async def export() -> bytes:
        await commands.create_order(new_order(1, id=1), ANYONE)
        locking = await asyncpg.connect(postgres_url)
        async with locking.transaction():
            await locking.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            statement = "SELECT id FROM orders"
            opening = asyncio.create_task(stream_rows(statement, [], lambda rows: repr(rows).encode()))
            await asyncio.sleep(0.5)
        chunks = [chunk async for chunk in await opening]
        await locking.close()
        return b"".join(chunks)

    assert b"id=1" in serving(export())
