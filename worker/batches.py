"""Applying batches of changes exactly once, with a cursor for each consumer.

A batch is applied if it continues the cursor. One that ends at or below the cursor is a repeat and is
dropped; one that overlaps is applied from the cursor on; one that is ahead is dropped too, and the relay,
which sees that the cursor has not moved, publishes from there again. A batch is applied and the cursor moved
in one transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.change_log import is_change_at, lock_cursor, move_cursor
from shared.database.transaction import transaction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shared.changes import Batch


class BatchAheadError(Exception):
    """Changes between the cursor and the batch have not arrived yet."""


class ForeignBatchError(Exception):
    """The batch is of another log: PostgreSQL was restored or replaced while Redis kept its messages."""


async def apply_once(consumer: str, batch: Batch, apply: Callable[[Batch, int], Awaitable[object]]) -> int:
    """Apply what a consumer has not applied yet of a batch; return how many changes that were.

    Args:
        consumer: the name of its cursor.
        batch: consecutive changes.
        apply: called in this transaction with the batch and the position after which its changes are to be
            applied. The cursor has already moved, which other transactions see after the commit.

    Raises:
        BatchAheadError: the batch does not continue the cursor; nothing was applied.
        ForeignBatchError: its changes are not those of this database; nothing was applied.

    """
    async with transaction():
        position = await lock_cursor(consumer)
        if batch.last <= position:
            return 0
        if batch.first > position + 1:
            raise BatchAheadError
        # Positions begin again in a database that was restored: without this check, what the queue still
        # holds from before would be applied in place of the changes that have these positions now.
        if not await is_change_at(batch.last, batch.last_event_id):
            raise ForeignBatchError
        await move_cursor(consumer, batch.last)
        await apply(batch, position)
        return batch.last - position
