"""Fee summaries: apply batches of changes, each exactly once, behind a cursor of their own.

Rows and cursor move in one transaction, see ``worker/batches.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.change_log import FEE_SUMMARIES
from shared.database.rows import row, rows
from shared.fee_summaries import FURTHEST_BACK
from shared.settings import settings
from worker.batches import apply_once

if TYPE_CHECKING:
    from shared.changes import Batch


# Subtract what each order was, add what it is: one statement for the whole batch, whose cost depends on
# the batch alone. An order counts under service 0 as a whole, and under each of its services by its share.
_APPLY = """
WITH change AS ({changes}), effect AS (
    SELECT order_state AS state, 1 AS sign FROM change WHERE order_state IS NOT NULL
    UNION ALL
    SELECT previous_state, -1 FROM change WHERE previous_state IS NOT NULL
), delta AS (
    SELECT e.day, c.id AS calendar_id, e.service_id, e.share, sum(effect.sign)::int AS orders
    FROM effect
    CROSS JOIN LATERAL fee_effects(effect.state, $1) AS e
    JOIN calendar AS c ON c.name = e.calendar
    GROUP BY 1, 2, 3, 4 HAVING sum(effect.sign) <> 0
)
MERGE INTO fee_summary AS kept USING delta
ON (kept.generation, kept.day, kept.calendar_id, kept.service_id, kept.share)
    = ($2, delta.day, delta.calendar_id, delta.service_id, delta.share)
WHEN MATCHED AND kept.orders + delta.orders = 0 THEN DELETE
WHEN MATCHED THEN UPDATE SET orders = kept.orders + delta.orders
WHEN NOT MATCHED THEN INSERT (generation, day, calendar_id, service_id, share, orders)
    VALUES ($2, delta.day, delta.calendar_id, delta.service_id, delta.share, delta.orders)
"""
_APPLY_NOTIFICATIONS = _APPLY.format(
    changes="""
    SELECT (n #>> '{data,order}')::json AS order_state, (n #>> '{data,previous}')::json AS previous_state
    FROM json_array_elements($3::json) AS n WHERE (n ->> 'sequence')::bigint > $4
    """
)
_APPLY_LOGGED = _APPLY.format(
    changes="SELECT order_state, previous_state FROM order_change WHERE position > $3 AND position <= $4"
)


class ChangesForgottenError(Exception):
    """Changes that have to be added were removed by the retention meanwhile."""

    def __init__(self, first: int) -> None:
        super().__init__(f"changes from position {first} on are no longer retained (OMS_CHANGE_RETENTION)")


@dataclass(frozen=True)
class Generation:
    """Rows of one making: all of one time zone's days, with a number of their own."""

    number: int
    time_zone: str


async def current_generation() -> Generation:
    """Give the generation that is read and kept up to date.

    With the cursor held it can't change before the transaction ends.
    """
    found = await row("SELECT generation, time_zone FROM fee_summary_state WHERE id = 1")
    if found is None:
        message = "fee_summary_state has no row"
        raise LookupError(message)
    return Generation(found["generation"], found["time_zone"])


async def apply_changes(batch: Batch) -> int:
    """Apply a batch of changes; return how many of them were not applied yet.

    Raises:
        BatchAheadError: the batch does not continue the cursor; nothing was applied.
        ForeignBatchError: its changes are not those of this database; nothing was applied.

    """
    return await apply_once(FEE_SUMMARIES, batch, _sum_up)


async def _sum_up(batch: Batch, position: int) -> None:
    generation = await _generation_to_add_to()
    await _look_rows_up()
    await rows(_APPLY_NOTIFICATIONS, generation.time_zone, generation.number, batch.notifications, position)
    await _remember_step()


async def _generation_to_add_to() -> Generation:
    """Give the current generation, its zone taken from the settings if there is no row to contradict it."""
    current = await current_generation()
    if current.time_zone == settings().time_zone:
        return current
    # With rows there, the stored zone stays: theirs are its days. Who is told another one refuses to start.
    await rows(
        """
        UPDATE fee_summary_state SET time_zone = $1
        WHERE NOT EXISTS (SELECT FROM fee_summary AS f WHERE f.generation = fee_summary_state.generation)
        """,
        settings().time_zone,
    )
    return await current_generation()


async def _look_rows_up() -> None:
    """Have the rest of this transaction find rows by the index, one by one, whatever the planner thinks.

    It takes a batch for forty times what it is and would rather read the whole table once: the cost of a
    change would grow with the history (2.3 times from 4,000 to 160,000 rows, measured).
    """
    await rows(
        "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"
    )


async def _remember_step() -> None:
    """Keep when the cursor got where it is, and forget what is too far back to be asked for."""
    await rows(
        """
        WITH step AS (
            INSERT INTO fee_summary_step (position, moved_at)
            SELECT position, moved_at FROM consumer_cursor WHERE consumer = $1
            ON CONFLICT (position) DO UPDATE SET moved_at = excluded.moved_at
            RETURNING position
        )
        DELETE FROM fee_summary_step AS old USING step WHERE old.position < step.position - $2::bigint
        """,
        FEE_SUMMARIES,
        FURTHEST_BACK,
    )


async def add_logged_changes(generation: Generation, after: int, last: int) -> None:
    """Add the changes of positions ``after + 1`` … ``last`` to a generation, in the current transaction.

    Raises:
        ChangesForgottenError: some of them are no longer retained.

    """
    await _look_rows_up()
    await rows(_APPLY_LOGGED, generation.time_zone, generation.number, after, last)
    # Asked afterwards: the retention only removes, so what is there now was there to be added.
    found = await row(
        "SELECT count(*) AS there FROM order_change WHERE position > $1 AND position <= $2", after, last
    )
    if found is None or found["there"] < last - after:
        raise ChangesForgottenError(after + 1)
