"""Rebuild the fee summaries while they are in use: ``oms rebuild``.

Rows of a new generation are counted from one snapshot of the orders, then later changes are added until few
are missing; one short transaction, which locks the consumer's cursor, adds the rest and makes the new
generation the current one. Readers see the old rows until it commits and the new ones afterwards, never a
mixture; writers and the consumer are not interrupted. The new rows count in days of OMS_TIME_ZONE.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from shared.change_log import FEE_SUMMARIES, cursor_of, last_position, lock_cursor, move_cursor
from shared.database.statements import execute, fetch_one
from shared.database.transaction import transaction
from shared.progress import ReportProgress, ignore_progress
from shared.settings import settings
from worker.fee_summaries.consumer import ChangesDeletedError, Generation, add_logged_changes
from worker.fee_summaries.recount import COUNTED, EXPECTED_SUMMARIES, CountedRow, OrderChunks, open_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

FEW_CHANGES = 500
"""Changes that may be added while the cursor is locked: one batch, so the consumer hardly waits."""

ADDED_AT_ONCE = 5_000
REMOVED_AT_ONCE = 20_000

_COUNT = f"""
WITH {EXPECTED_SUMMARIES}, added AS (
    INSERT INTO fee_summary (generation, day, calendar_id, service_id, share, orders)
    SELECT $4, day, calendar_id, service_id, share, orders FROM expected
)
{COUNTED}
"""

_BEGIN_GENERATION = """
UPDATE fee_summary_state SET building = building + 1 WHERE id = 1 RETURNING building, generation AS current
"""

_MAKE_CURRENT = """
UPDATE fee_summary_state SET generation = building, time_zone = $2 WHERE building = $1
"""

_REMOVE_SOME = """
DELETE FROM fee_summary WHERE id = ANY (ARRAY(
    SELECT id FROM fee_summary WHERE generation >= $1 AND generation < $2 LIMIT $3
))
"""


class RebuildSupersededError(Exception):
    """Another rebuild began after this one, which must stop."""


@dataclass(frozen=True)
class Rebuilt:
    """The result of a rebuild."""

    position: int
    """The position at which the new rows became the current ones."""
    orders: int
    """How many orders were counted."""
    time_zone: str
    seconds: float


async def rebuild(
    progress: ReportProgress = ignore_progress,
    on_swap: Callable[[int], None] = lambda _position: None,
) -> Rebuilt:
    """Rebuild the fee summaries while they are read and kept up to date.

    Args:
        progress: called with how many orders are counted.
        on_swap: called with the position at which the new rows became the current ones; removing the old
            rows then takes about as long as building the new ones.

    Raises:
        RebuildSupersededError: another one began; nothing has changed.
        ChangesDeletedError: it took longer than changes are retained; nothing has changed.

    """
    began = time.monotonic()
    new = await _begin_generation()
    async with open_snapshot(new.time_zone) as snapshot:
        chunks = OrderChunks(snapshot, progress)
        async for _ in chunks.fetch(CountedRow, _COUNT, new.number):
            pass
    try:
        swapped_at = await _catch_up_and_swap(new, snapshot.position)
    except (RebuildSupersededError, ChangesDeletedError):
        # A rebuild that superseded this one saw none of these rows before the snapshot's transaction ended.
        await _remove_generations(new.number, new.number + 1)
        raise
    on_swap(swapped_at)
    # Readers that began before the swap still see these rows, in their snapshots.
    await _remove_generations(0, new.number)
    return Rebuilt(swapped_at, chunks.counted, new.time_zone, time.monotonic() - began)


async def _catch_up_and_swap(new: Generation, position: int) -> int:
    while (swapped_at := await _swap_if_close(new, position)) is None:
        last = min(*await cursor_of(FEE_SUMMARIES), position + ADDED_AT_ONCE)
        async with transaction():
            await add_logged_changes(new, position, last)
        position = last
    return swapped_at


class _GenerationNumbers(msgspec.Struct, frozen=True):
    building: int
    current: int


async def _begin_generation() -> Generation:
    """Take the next number, which supersedes a running rebuild; remove the rows that earlier ones left."""
    numbers = await fetch_one(_GenerationNumbers, _BEGIN_GENERATION)
    await _remove_generations(0, numbers.current)
    await _remove_generations(numbers.current + 1, numbers.building)
    return Generation(numbers.building, settings().time_zone)


async def _swap_if_close(new: Generation, position: int) -> int | None:
    """Add the last few changes and make the new generation the current one; None: too many are missing.

    Raises:
        RebuildSupersededError: the new generation is no longer the newest; another rebuild may have removed
            rows of it.

    """
    async with transaction():
        # The consumer waits here, so nothing is added to the old rows that the new ones would miss.
        applied, assigned = await lock_cursor(FEE_SUMMARIES), await last_position()
        if applied > assigned:
            # The cursor is damaged: the next changes would be dropped as repeats.
            await move_cursor(FEE_SUMMARIES, applied := assigned)
        if applied - position > FEW_CHANGES:
            return None
        await add_logged_changes(new, position, applied)
        if await execute(_MAKE_CURRENT, new.number, new.time_zone) == 0:
            raise RebuildSupersededError
        return applied


async def _remove_generations(first: int, end: int) -> None:
    """Remove the rows of generations ``first`` … ``end - 1``, which nobody reads, some at a time."""
    while await execute(_REMOVE_SOME, first, end, REMOVED_AT_ONCE) == REMOVED_AT_ONCE:
        pass
