"""Make the fee summaries anew: ``python -m worker.fee_summaries.rebuild``, ``make rebuild``.

Rows of a new generation are counted from one snapshot of the orders, then the changes since are added until
few are missing; the rest, and the step from the old generation to the new one, are one short transaction that
holds the consumer's cursor. Readers read the old rows until then and the new ones from then on, each whole;
writers and the consumer go on all the while. The new rows are of OMS_TIME_ZONE's days.

Exit status 0: done; 1: another rebuild began meanwhile, and this one gave way; 2: it could not be done.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from shared.change_log import FEE_SUMMARIES, cursor_of, last_position, lock_cursor, move_cursor
from shared.database.engine import DB, DatabaseUnavailableError
from shared.database.rows import row, rows
from shared.database.transaction import transaction
from shared.settings import settings
from worker.fee_summaries.consumer import ChangesForgottenError, Generation, add_logged_changes
from worker.fee_summaries.recount import EXPECTED, Progress, Strides, one_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

FEW_CHANGES = 500
"""Changes that may be added while the cursor is held: a batch of the consumer's, so not felt."""

ADDED_AT_ONCE = 5_000
REMOVED_AT_ONCE = 20_000

_COUNT = f"""
WITH {EXPECTED}, added AS (
    INSERT INTO fee_summary (generation, day, calendar_id, service_id, share, orders)
    SELECT $4, day, calendar_id, service_id, share, orders FROM expected
)
SELECT sum(orders) AS counted FROM expected WHERE service_id = 0
"""


class RebuildSupersededError(Exception):
    """Another rebuild began after this one, which left everything to it."""


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild did."""

    position: int
    """The position at which the new rows took over."""
    orders: int
    """How many orders were counted."""
    time_zone: str
    seconds: float


async def rebuild(
    progress: Callable[[int, int], None] = lambda _counted, _total: None,
    taken_over: Callable[[int], None] = lambda _position: None,
) -> Rebuilt:
    """Make the fee summaries anew while they are read and kept up to date.

    Args:
        progress: told how many of how many orders are counted.
        taken_over: told the position at which the new rows took over; removing the old ones takes about as
            long again.

    Raises:
        RebuildSupersededError: another one was begun; nothing has changed.
        ChangesForgottenError: it took longer than changes are retained; nothing has changed.

    """
    begun = time.monotonic()
    new = await _begin()
    async with one_snapshot(new.time_zone) as snapshot:
        strides = Strides(snapshot, progress)
        async for _ in strides.each(_COUNT, new.number):
            pass
    try:
        swapped = await _catch_up_and_swap(new, snapshot.position)
    except (RebuildSupersededError, ChangesForgottenError):
        # Whoever superseded it saw none of these rows before the snapshot's transaction ended.
        await _remove("generation = $1", new.number)
        raise
    taken_over(swapped)
    await _remove_older_than(new.number)
    return Rebuilt(swapped, strides.counted, new.time_zone, time.monotonic() - begun)


async def _catch_up_and_swap(new: Generation, position: int) -> int:
    while (swapped := await _swap_if_close(new, position)) is None:
        last = min(*await cursor_of(FEE_SUMMARIES), position + ADDED_AT_ONCE)
        async with transaction():
            await add_logged_changes(new, position, last)
        position = last
    return swapped


async def _begin() -> Generation:
    """Take the next number, which ends an earlier rebuild's claim, and remove what such a one left."""
    found = await row(
        "UPDATE fee_summary_state SET building = building + 1 WHERE id = 1 RETURNING building, generation"
    )
    if found is None:
        message = "fee_summary_state has no row"
        raise LookupError(message)
    await _remove("generation <> $1 AND generation < $2", found["generation"], found["building"])
    return Generation(found["building"], settings().time_zone)


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
            # Somebody damaged it: the next changes would be taken for repeats.
            await move_cursor(FEE_SUMMARIES, applied := assigned)
        if applied - position > FEW_CHANGES:
            return None
        await add_logged_changes(new, position, applied)
        swapped = await row(
            """
            UPDATE fee_summary_state SET generation = building, time_zone = $2
            WHERE building = $1 RETURNING id
            """,
            new.number,
            new.time_zone,
        )
        if swapped is None:
            raise RebuildSupersededError
        return applied


async def _remove_older_than(generation: int) -> None:
    # Readers that began before still see these rows, in their snapshots.
    await _remove("generation < $1", generation)


async def _remove(condition: str, *numbers: int) -> None:
    """Remove rows that nobody reads, some at a time."""
    statement = f"""
        WITH removed AS (
            DELETE FROM fee_summary WHERE id = ANY (ARRAY(
                SELECT id FROM fee_summary WHERE {condition} LIMIT {REMOVED_AT_ONCE}
            )) RETURNING id
        )
        SELECT count(*) AS removed FROM removed
    """
    while (await rows(statement, *numbers))[0]["removed"] == REMOVED_AT_ONCE:
        pass


async def _run() -> Rebuilt:
    await DB.start(size=1)
    try:
        progress = Progress("rebuild")
        return await rebuild(
            progress, lambda position: progress.note(f"in use since position {position:,}; removing old rows")
        )
    finally:
        await DB.stop()


def main() -> int:
    """Run from the command line."""
    try:
        done = asyncio.run(_run())
    except RebuildSupersededError:
        sys.stderr.write("rebuild: another one began meanwhile; this one changed nothing\n")
        return 1
    except (
        ChangesForgottenError,
        DatabaseUnavailableError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
    ) as error:
        sys.stderr.write(f"rebuild: {error}; unless it was at its end, nothing has changed\n")
        return 2
    print(  # noqa: T201 (a command prints)
        f"rebuilt from {done.orders:,} orders, in days of {done.time_zone}, at position {done.position:,}, "
        f"in {done.seconds:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
