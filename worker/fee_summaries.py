"""Fee summaries: apply batches of changes, each exactly once, behind a cursor of their own.

A batch is applied if it continues the cursor. One wholly behind it is a repeat and is dropped; one that
overlaps is applied from the cursor on; one that is ahead is dropped too, and the relay, which sees the
cursor stand still, publishes from there again. Rows and cursor move in one transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.change_log import hold_cursor, is_change_at, move_cursor
from shared.database import rows, transaction
from shared.settings import settings
from worker.batches import BatchAheadError, ForeignBatchError

if TYPE_CHECKING:
    from shared.changes import Batch

__all__ = ["CONSUMER", "BatchAheadError", "ForeignBatchError", "apply_changes"]

CONSUMER = "fee_summaries"

# Subtract what each order was, add what it is: one statement for the whole batch, whose cost depends on
# the batch alone. An order counts under service 0 as a whole, and under each of its services by its share.
_APPLY = """
WITH notification AS (
    SELECT n -> 'data' AS data FROM json_array_elements($1::json) AS n WHERE (n ->> 'sequence')::bigint > $2
), effect AS (
    SELECT data -> 'order' AS state, 1 AS sign FROM notification WHERE data ->> 'order' IS NOT NULL
    UNION ALL
    SELECT data -> 'previous', -1 FROM notification WHERE data ->> 'previous' IS NOT NULL
), delta AS (
    SELECT
        ((state ->> 'datetime')::timestamptz AT TIME ZONE $3)::date AS day,
        c.id AS calendar_id, s.service_id, s.share, sum(sign)::int AS orders
    FROM effect
    JOIN calendar AS c ON c.name = state ->> 'calendar'
    CROSS JOIN LATERAL fee_shares(
        (state ->> 'totalfee')::numeric,
        ARRAY(SELECT (o ->> 'id')::bigint FROM json_array_elements(state -> 'services') AS o)
    ) AS s
    GROUP BY 1, 2, 3, 4 HAVING sum(sign) <> 0
)
MERGE INTO fee_summary AS kept USING delta
ON (kept.day, kept.calendar_id, kept.service_id, kept.share)
    = (delta.day, delta.calendar_id, delta.service_id, delta.share)
WHEN MATCHED AND kept.orders + delta.orders = 0 THEN DELETE
WHEN MATCHED THEN UPDATE SET orders = kept.orders + delta.orders
WHEN NOT MATCHED THEN INSERT (day, calendar_id, service_id, share, orders)
    VALUES (delta.day, delta.calendar_id, delta.service_id, delta.share, delta.orders)
"""


async def apply_changes(batch: Batch) -> int:
    """Apply a batch of changes; return how many of them were not applied yet.

    Raises:
        BatchAheadError: the batch does not continue the cursor; nothing was applied.
        ForeignBatchError: its changes are not those of this database; nothing was applied.

    """
    async with transaction():
        position = await hold_cursor(CONSUMER)
        if batch.last <= position:
            return 0
        if batch.first > position + 1:
            raise BatchAheadError
        # Positions begin again in a database that was restored: without this look, what the queue still
        # holds from before would be counted in place of the changes that have these positions now.
        if not await is_change_at(batch.last, batch.last_event_id):
            raise ForeignBatchError
        await rows(_APPLY, batch.notifications, position, settings().time_zone)
        await move_cursor(CONSUMER, batch.last)
        return batch.last - position
