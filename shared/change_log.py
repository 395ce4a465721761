"""The change log: giving committed changes their positions, reading them in order, and cursors.

Changes are recorded by the database in the order's own transaction (trigger ``orders_record_change``), so
without a position: a number drawn inside a transaction would show up out of order, and a reader that had
passed it would miss the change. Positions are given afterwards, to what is committed, one assigner at a
time; they are dense and final, and in every order's own sequence of versions.
"""

from __future__ import annotations

from shared.changes import Change
from shared.database.engine import DB
from shared.database.rows import row, rows
from shared.database.transaction import transaction

FEE_SUMMARIES = "fee_summaries"
WEBHOOK_DELIVERIES = "webhook_deliveries"
"""The consumers, by the names of their cursors."""


async def assign_positions(most: int = 5_000) -> int:
    """Give committed changes that have no position the next ones; return how many.

    Several statements on purpose: their snapshots begin when the lock is held, so they see all that another
    assigner did. In the order of ``id`` a change comes after every change it depends on: it was recorded
    after those had committed (the same order's earlier versions; the deletion that made room).
    """
    # As at most looks: without a transaction and a lock. In order, so that it never reads the whole table.
    if await row("SELECT FROM order_change WHERE position IS NULL ORDER BY id LIMIT 1") is None:
        return 0
    async with transaction():
        log = await row("SELECT last_position FROM change_log WHERE id = 1 FOR UPDATE")
        waiting = [
            change["id"]
            for change in await rows(
                "SELECT id FROM order_change WHERE position IS NULL ORDER BY id LIMIT $1", most
            )
        ]
        if log is None or not waiting:
            return 0
        # No join: if the table was analyzed while most of it was not committed yet, PostgreSQL takes it for
        # empty, and would look through all that wait for each change. This finds each place by halving; and
        # each change by a hash, if not by the index, as long as the ids are known to whoever plans.
        await DB.fetch_with_custom_plan(
            "UPDATE order_change SET position = $1::bigint + width_bucket(id, $2::bigint[]) "
            "WHERE id = ANY($2)",
            log["last_position"],
            waiting,
        )
        await rows("UPDATE change_log SET last_position = last_position + $1 WHERE id = 1", len(waiting))
    return len(waiting)


async def last_position() -> int:
    """Give the position of the newest change that has one; 0 when there is none."""
    found = await row("SELECT last_position FROM change_log WHERE id = 1")
    return int(found["last_position"]) if found else 0


CHANGE = """
    position, event_id, type, order_id, order_version, utc_text(recorded_at) AS time,
    order_state AS order, previous_state AS previous
"""
"""The columns of ``order_change`` that are the fields of a ``Change``."""


async def changes_after(position: int, limit: int) -> list[Change]:
    """Read changes behind a position, in order."""
    found = await rows(
        f"SELECT {CHANGE} FROM order_change WHERE position > $1 ORDER BY position LIMIT $2",
        position,
        limit,
    )
    return [Change(**change) for change in found]


async def is_change_at(position: int, event_id: str) -> bool:
    """Tell whether that very change stands at that position."""
    return (
        await row("SELECT FROM order_change WHERE position = $1 AND event_id = $2", position, event_id)
        is not None
    )


async def cursor_of(consumer: str) -> tuple[int, int]:
    """Give the position up to which a consumer has applied changes, and the last one that was given."""
    found = await row(
        "SELECT position, (SELECT coalesce(max(last_position), 0) FROM change_log) AS last_position "
        "FROM consumer_cursor WHERE consumer = $1",
        consumer,
    )
    if found is None:
        message = f"no consumer is called {consumer}"
        raise LookupError(message)
    return found["position"], found["last_position"]


async def hold_cursor(consumer: str) -> int:
    """Lock a consumer's cursor until the transaction ends, and give its position.

    Two batches that arrive at once are applied one after the other.
    """
    found = await row("SELECT position FROM consumer_cursor WHERE consumer = $1 FOR UPDATE", consumer)
    if found is None:
        message = f"no consumer is called {consumer}"
        raise LookupError(message)
    return int(found["position"])


async def move_cursor(consumer: str, position: int) -> None:
    """Say, in the transaction that applied them, that all changes up to a position are applied."""
    await rows(
        "UPDATE consumer_cursor SET position = $2, moved_at = clock_timestamp() WHERE consumer = $1",
        consumer,
        position,
    )
