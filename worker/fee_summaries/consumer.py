"""The consumer of fee summaries: applies batches of changes, each exactly once.

Rows and cursor move in one transaction, see ``worker/batches.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.change_log import FEE_SUMMARIES
from shared.database.statements import execute, fetch_one, fetch_value
from shared.fee_summaries import FURTHEST_BACK
from shared.settings import settings
from worker.batches import apply_once

# Subtract each order's previous state and add its new one: one statement for the whole batch, whose cost
# depends on the batch alone. An order counts under service 0 as a whole, and under each of its services by
# its share. $1 is the generation's time zone, $2 its number. Returns how many changes there were.
_ADD_CHANGES = """
WITH change AS MATERIALIZED (
    SELECT order_state, calendar_id, previous_state, previous_calendar_id
    FROM order_change WHERE position > $3 AND position <= $4
), effect AS (
    SELECT order_state AS state, calendar_id, 1 AS sign FROM change WHERE order_state IS NOT NULL
    UNION ALL
    SELECT previous_state, previous_calendar_id, -1 FROM change WHERE previous_state IS NOT NULL
), delta AS (
    SELECT e.day, effect.calendar_id, e.service_id, e.share, sum(effect.sign)::int AS orders
    FROM effect CROSS JOIN LATERAL fee_effects(effect.state, $1) AS e
    GROUP BY 1, 2, 3, 4 HAVING sum(effect.sign) <> 0
), merged AS (
    MERGE INTO fee_summary AS kept USING delta
    ON (kept.generation, kept.day, kept.calendar_id, kept.service_id, kept.share)
        = ($2, delta.day, delta.calendar_id, delta.service_id, delta.share)
    WHEN MATCHED AND kept.orders + delta.orders = 0 THEN DELETE
    WHEN MATCHED THEN UPDATE SET orders = kept.orders + delta.orders
    WHEN NOT MATCHED THEN INSERT (generation, day, calendar_id, service_id, share, orders)
        VALUES ($2, delta.day, delta.calendar_id, delta.service_id, delta.share, delta.orders)
    RETURNING 1
)
SELECT count(*) FROM change
"""

_CURRENT_GENERATION = "SELECT generation AS number, time_zone FROM fee_summary_state WHERE id = 1"

_SET_TIME_ZONE_IF_EMPTY = """
UPDATE fee_summary_state SET time_zone = $1
WHERE NOT EXISTS (SELECT FROM fee_summary AS f WHERE f.generation = fee_summary_state.generation)
"""

_USE_INDEXES = """
SELECT
    set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
    set_config('enable_seqscan', 'off', true), set_config('enable_material', 'off', true),
    set_config('plan_cache_mode', 'force_generic_plan', true)
"""

_RECORD_STEP = """
WITH step AS (
    INSERT INTO fee_summary_step (position, moved_at)
    SELECT position, moved_at FROM consumer_cursor WHERE consumer = $1
    ON CONFLICT (position) DO UPDATE SET moved_at = excluded.moved_at
    RETURNING position
)
DELETE FROM fee_summary_step AS old USING step WHERE old.position < step.position - $2::bigint
"""


class ChangesDeletedError(Exception):
    """Changes that have to be added were deleted meanwhile: they are older than ``OMS_CHANGE_RETENTION``."""

    def __init__(self, first: int) -> None:
        super().__init__(f"changes from position {first} on are no longer retained (OMS_CHANGE_RETENTION)")


@dataclass(frozen=True)
class Generation:
    """Fee summaries that were built together: all in the days of one time zone, under one number."""

    number: int
    time_zone: str


async def current_generation() -> Generation:
    """Return the generation that is read and kept up to date.

    While the cursor is locked it can't change before the transaction ends.
    """
    return await fetch_one(Generation, _CURRENT_GENERATION)


async def apply_changes(last: int) -> int:
    """Apply the next batch of changes, up to a position; return how many they were.

    Raises:
        ChangesDeletedError: some of them are no longer retained; nothing was applied.

    """
    return await apply_once(FEE_SUMMARIES, last, _add_batch)


async def _add_batch(after: int, last: int) -> None:
    await add_logged_changes(await _generation_to_add_to(), after, last)
    await _record_step()


async def _generation_to_add_to() -> Generation:
    """Return the current generation, in the zone of the settings if it has no rows yet."""
    current = await current_generation()
    if current.time_zone == settings().time_zone:
        return current
    # If there are rows, the stored zone stays, since they count in its days. A process that is configured
    # with another zone refuses to start.
    await execute(_SET_TIME_ZONE_IF_EMPTY, settings().time_zone)
    return await current_generation()


async def _use_indexes() -> None:
    """Make the rest of this transaction find rows by the index, one by one, whatever the planner expects.

    The planner overestimates the rows of a batch forty-fold and would read the whole table once: the cost of
    a change would grow with the history (2.3 times from 4,000 to 160,000 rows, measured). And it would plan
    each batch anew, which takes longer than to apply one of a few changes. A plan that was made while there
    were no summaries must suit a batch that finds many.
    """
    await execute(_USE_INDEXES)


async def _record_step() -> None:
    """Store when the cursor reached its position; delete steps too far back for a report to name them."""
    await execute(_RECORD_STEP, FEE_SUMMARIES, FURTHEST_BACK)


async def add_logged_changes(generation: Generation, after: int, last: int) -> None:
    """Add the changes of positions ``after + 1`` … ``last`` to a generation, in the current transaction.

    Raises:
        ChangesDeletedError: some of them are no longer retained.

    """
    await _use_indexes()
    added = await fetch_value(int, _ADD_CHANGES, generation.time_zone, generation.number, after, last)
    if added < last - after:
        raise ChangesDeletedError(after + 1)
