"""New indexes of orders; and every order is rendered anew, some thousands in each transaction.

It may be interrupted and run again: indexes are made again, and orders that have their text are left alone.
Requests are served meanwhile, and what they write has its text already.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from shared.database.engine import DB
from shared.database.statements import execute, fetch_value, fetch_values
from shared.database.transaction import transaction

ID = "2026-11-29T13:20:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "render with business"

_INDEXES = {
    "orders_reference": "CREATE UNIQUE INDEX CONCURRENTLY orders_reference ON orders (reference) "
    "WHERE reference IS NOT NULL",
    "orders_by_creation": "CREATE INDEX CONCURRENTLY orders_by_creation ON orders (created_at, id)",
    "orders_by_update": "CREATE INDEX CONCURRENTLY orders_by_update ON orders (updated_at, id)",
    "orders_cancelled_by_datetime": "CREATE INDEX CONCURRENTLY orders_cancelled_by_datetime "
    "ON orders (datetime, id) WHERE status = 'cancelled'",
    "orders_cancelled_by_id": "CREATE INDEX CONCURRENTLY orders_cancelled_by_id "
    "ON orders (id) WHERE status = 'cancelled'",
}

_CONSTRAINTS = {
    "orders": ("orders_reference_text", "orders_metadata_object", "orders_status", "orders_clear_until"),
    "order_change": ("order_change_states", "order_change_reason"),
    "claimed_order_id": ("claimed_order_id_by_caller",),
}

_BATCH = 2_000
"""Few enough that nobody waits long for one of their rows."""

_LAST_ID = "SELECT coalesce(max(id), 0) FROM orders"
_NEXT_IDS = "SELECT id FROM orders WHERE id > $1 AND id <= $3 ORDER BY id LIMIT $2"

_RENDER = "UPDATE orders SET format = 2 WHERE id = ANY($1) AND format < 2"


async def _apply() -> None:
    await _make_indexes()
    # Later orders have their text already. Without this end, the loop would follow a busy writer for ever.
    last = await fetch_value(int, _LAST_ID)
    ids = await fetch_values(int, _NEXT_IDS, 0, _BATCH, last)
    while ids:
        async with _without_timeout():
            await execute(_RENDER, ids)
        ids = await fetch_values(int, _NEXT_IDS, ids[-1], _BATCH, last)
    for table, constraints in _CONSTRAINTS.items():
        for constraint in constraints:
            async with _without_timeout():
                await execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}")


async def _make_indexes() -> None:
    # CONCURRENTLY is not possible in a transaction. An attempt that was interrupted leaves an invalid index.
    connection = await DB.connect()
    try:
        await connection.execute("SET statement_timeout = 0")
        for name, statement in _INDEXES.items():
            await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            await connection.execute(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def _without_timeout() -> AsyncIterator[None]:
    """Run a transaction whose statements may take longer than those of a request."""
    async with transaction():
        await execute("SET LOCAL statement_timeout = 0")
        yield


async def forwards() -> MigrationManager:
    """Make the indexes, and render the orders, each batch in a transaction of its own."""
    manager = MigrationManager(
        migration_id=ID, app_name="shared", description=DESCRIPTION, wrap_in_transaction=False
    )
    manager.add_raw(_apply)
    return manager
