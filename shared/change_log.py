"""The change log: assigning positions to committed changes, reading changes in order, and cursors.

Changes are recorded by the database in the order's own transaction (triggers of ``orders``),
without a position: a number taken from a sequence inside a transaction becomes visible out of order, and a
reader that had passed it would miss the change. Positions are assigned afterwards, to committed changes, by
one assigner at a time. They are dense and final, and ascend with the versions of each order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from shared.changes import Change
from shared.database.statements import RowMissingError, execute, fetch_all, fetch_one, fetch_value

if TYPE_CHECKING:
    from collections.abc import Mapping

FEE_SUMMARIES = "fee_summaries"
WEBHOOK_DELIVERIES = "webhook_deliveries"
"""The consumers, by the names of their cursors."""

CHANGE = """
    position, event_id, type, order_id, order_version, utc_text(recorded_at) AS time,
    order_state AS order, previous_state AS previous, actor, reason,
    CASE WHEN position > (SELECT starts_after FROM cell) THEN (SELECT name FROM cell) END AS cell
"""
"""The columns of ``order_change`` that are the fields of a ``Change``."""


_LAST_POSITION = "SELECT last_position FROM change_log WHERE id = 1"

_CURSOR = """
SELECT position, (SELECT coalesce(max(last_position), 0) FROM change_log) AS last_position
FROM consumer_cursor WHERE consumer = $1
"""

# Ordered, so that PostgreSQL uses the index of the changes without a position and never reads the table.
_PROGRESS = """
SELECT
    consumer, position AS applied,
    (SELECT coalesce(max(last_position), 0) FROM change_log) AS last_position,
    (SELECT id FROM order_change WHERE position IS NULL ORDER BY id LIMIT 1) IS NOT NULL AS is_waiting,
    EXISTS (SELECT FROM webhook WHERE deleted_at IS NULL) AS has_webhooks
FROM consumer_cursor
"""

_TRACES = """
SELECT position, traceparent FROM order_change
WHERE position > $1 AND position <= $2 AND traceparent IS NOT NULL ORDER BY position
"""


async def assign_positions(most: int = 5_000) -> int:
    """Assign the next positions to committed changes that have none; return how many.

    The database's function of the same name does it, in one statement (``shared/database/schema.sql``).
    """
    return await fetch_value(int, "SELECT assign_positions($1)", most)


@dataclass(frozen=True)
class Bounds:
    """The first and the last position in the log; ``first`` is ``last + 1`` when nothing is retained."""

    first: int
    last: int


async def log_bounds() -> Bounds:
    """Read the current bounds of the log."""
    return await fetch_one(
        Bounds, "SELECT first_position AS first, last_position AS last FROM change_log WHERE id = 1"
    )


async def last_position() -> int:
    """Return the newest position that is assigned; 0 if no position is yet."""
    return await fetch_value(int, _LAST_POSITION)


async def changes_after(position: int, limit: int) -> list[Change]:
    """Read changes after a position, in order."""
    return await fetch_all(
        Change,
        f"SELECT {CHANGE} FROM order_change WHERE position > $1 ORDER BY position LIMIT $2",
        position,
        limit,
    )


class ChangeTrace(NamedTuple):
    """A change, and the span of the request that made it."""

    position: int
    traceparent: str


async def traces_after(position: int, last: int) -> list[ChangeTrace]:
    """Read the traces of changes after a position, up to another; changes that have none are left out."""
    return await fetch_all(ChangeTrace, _TRACES, position, last)


async def is_change_at(position: int, event_id: str) -> bool:
    """Return whether the change at a position is the one with this id."""
    return await fetch_value(
        bool,
        "SELECT EXISTS (SELECT FROM order_change WHERE position = $1 AND event_id = $2)",
        position,
        event_id,
    )


@dataclass(frozen=True)
class LogProgress:
    """How far the log and its consumers are, in one snapshot."""

    last_position: int
    """The newest position in the log."""
    is_waiting: bool
    """Whether there are committed changes without a position."""
    has_webhooks: bool
    applied: Mapping[str, int]
    """The position of each consumer's cursor."""


class _CursorProgress(NamedTuple):
    consumer: str
    applied: int
    last_position: int
    is_waiting: bool
    has_webhooks: bool


async def read_progress() -> LogProgress:
    """Read how far the log and its consumers are.

    Raises:
        RowMissingError: there are no consumers.

    """
    rows = await fetch_all(_CursorProgress, _PROGRESS)
    if not rows:
        raise RowMissingError(_PROGRESS)
    return LogProgress(
        rows[0].last_position,
        rows[0].is_waiting,
        rows[0].has_webhooks,
        {row.consumer: row.applied for row in rows},
    )


class Cursor(NamedTuple):
    """The position of a consumer in the change log."""

    position: int
    """The consumer has applied all changes up to this one."""
    last_position: int
    """The newest position in the log."""


async def cursor_of(consumer: str) -> Cursor:
    """Read a consumer's cursor.

    Raises:
        RowMissingError: there is no such consumer.

    """
    return await fetch_one(Cursor, _CURSOR, consumer)


async def lock_cursor_and_read_log(consumer: str) -> Cursor:
    """Lock a consumer's cursor as ``lock_cursor`` does, and return it with the end of the log.

    The end is as of the beginning of this one statement: if it waits for the lock, positions that are
    assigned meanwhile are missing, and the end may even be before the cursor.
    """
    return await fetch_one(Cursor, f"{_CURSOR} FOR UPDATE OF consumer_cursor", consumer)


async def lock_cursor(consumer: str) -> int:
    """Lock a consumer's cursor until the transaction ends, and return its position.

    With the lock, two batches that arrive at the same time are applied one after the other.

    Raises:
        RowMissingError: there is no such consumer.

    """
    return await fetch_value(
        int, "SELECT position FROM consumer_cursor WHERE consumer = $1 FOR UPDATE", consumer
    )


async def move_cursor(consumer: str, position: int) -> None:
    """Record, in the transaction that applied them, that all changes up to a position are applied."""
    await execute(
        "UPDATE consumer_cursor SET position = $2, moved_at = clock_timestamp() WHERE consumer = $1",
        consumer,
        position,
    )
