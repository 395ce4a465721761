"""Orders that were stored before get their texts, some thousands in each transaction.

It may be interrupted and run again: an order that has its text is left alone. Requests are served meanwhile, and
what they write has its text already.
"""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from shared.database.statements import execute, fetch_values

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
        await execute(_RENDER, ids)
        ids = await fetch_values(int, _NEXT_IDS, ids[-1], _BATCH)
    # Checked without a lock that keeps writers out; the next migration makes the column NOT NULL with it.
    await execute("ALTER TABLE orders DROP CONSTRAINT IF EXISTS orders_rendered")
    await execute("ALTER TABLE orders ADD CONSTRAINT orders_rendered CHECK (rendered IS NOT NULL) NOT VALID")
    await execute("ALTER TABLE orders VALIDATE CONSTRAINT orders_rendered")


async def forwards() -> MigrationManager:
    """Render them, each batch in a transaction of its own."""
    manager = MigrationManager(
        migration_id=ID, app_name="shared", description=DESCRIPTION, wrap_in_transaction=False
    )
    manager.add_raw(_render)
    return manager
