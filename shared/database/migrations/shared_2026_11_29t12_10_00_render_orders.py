"""Orders that were stored before get their texts, some thousands in each transaction.

It may be interrupted and run again: an order that has its text is left alone. Requests are served meanwhile, and
what they write has its text already.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from shared.database.statements import execute, fetch_values
from shared.database.transaction import transaction

ID = "2026-11-29T12:10:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "render orders"

_BATCH = 2_000
"""Few enough that nobody waits long for one of their rows."""

_NEXT_IDS = "SELECT id FROM orders WHERE id > $1 ORDER BY id LIMIT $2"

# Anything that writes the row has it rendered.
_RENDER = "UPDATE orders SET format = format WHERE id = ANY($1) AND rendered IS NULL"


async def _render() -> None:
    ids = await fetch_values(int, _NEXT_IDS, 0, _BATCH)
    while ids:
        async with _without_timeout():
            await execute(_RENDER, ids)
        ids = await fetch_values(int, _NEXT_IDS, ids[-1], _BATCH)
    async with transaction():
        await execute(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
    async with _without_timeout():
        await execute("ALTER TABLE orders VALIDATE CONSTRAINT orders_rendered")


@asynccontextmanager
async def _without_timeout() -> AsyncIterator[None]:
    """Run a transaction whose statements may take longer than those of a request."""
    async with transaction():
        await execute("SET LOCAL statement_timeout = 0")
        yield


async def forwards() -> MigrationManager:
    """Render them, each batch in a transaction of its own."""
    manager = MigrationManager(
        migration_id=ID, app_name="shared", description=DESCRIPTION, wrap_in_transaction=False
    )
    manager.add_raw(_render)
    return manager
