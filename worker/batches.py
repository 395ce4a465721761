"""Applying changes exactly once, with a cursor for each consumer.

A message only says up to which position there are changes. They are read from the log, from the consumer's
cursor on, and never beyond what is committed. A batch of changes is applied and the cursor moved in one
transaction. So a message may be lost, repeated, late or forged: it can only make a consumer apply what it has
to apply anyway.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from shared.change_log import lock_cursor_and_read_log, move_cursor
from shared.database.transaction import transaction
from shared.settings import settings
from worker.traces import BatchTrace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SECONDS_PER_MESSAGE = 5.0
"""How long batches are applied for one message; the relay's next messages continue."""


async def apply_once(consumer: str, last: int, apply: Callable[[int, int], Awaitable[object]]) -> int:
    """Apply the next batch of changes that a consumer has not applied; return how many changes it has.

    Args:
        consumer: the name of its cursor.
        last: the last position to apply; any number. A batch has ``OMS_RELAY_BATCH`` changes at most.
        apply: called in this transaction with two positions: the changes after the first, up to the second,
            are to be applied. The cursor has already moved, which other transactions see after the commit.

    """
    async with BatchTrace(consumer) as trace, transaction():
        position, last_position = await lock_cursor_and_read_log(consumer)
        # Positions are assigned to committed changes and become visible together with the last one, so all
        # changes up to that one are in the snapshots of the statements that follow.
        last = min(last, last_position, position + settings().relay_batch)
        if last <= position:
            return 0
        await trace.begin(position, last)
        await move_cursor(consumer, last)
        await apply(position, last)
        return last - position


async def apply_up_to(last: int, apply_changes: Callable[[int], Awaitable[int]]) -> int:
    """Apply batches up to a position, for some seconds; return how many changes they had.

    One batch is usually enough. If messages were lost, this one makes up for them.

    Args:
        last: the last position to apply; any number.
        apply_changes: applies the next batch up to a position, and returns how many changes it had.

    """
    applied = 0
    deadline = time.monotonic() + SECONDS_PER_MESSAGE
    while batch := await apply_changes(last):
        applied += batch
        if batch < settings().relay_batch or time.monotonic() > deadline:
            break
    return applied
