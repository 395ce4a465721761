"""Fan-out: each change becomes a delivery for every webhook that asks for it, exactly once.

This is a consumer of changes with its own cursor, see ``worker/batches.py``. A delivery begins as
``pending``, due at once. A disabled webhook gets its deliveries too, as ``disabled``, so every change that it
asks for has a row. ``worker/webhooks/attempts.py`` sends what is due.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.change_log import WEBHOOK_DELIVERIES
from shared.database.statements import execute, fetch_values
from worker.batches import apply_once

if TYPE_CHECKING:
    from shared.changes import Batch

_LOCK_WEBHOOKS = "SELECT id FROM webhook WHERE deleted_at IS NULL ORDER BY id FOR SHARE"

_INSERT_DELIVERIES = """
INSERT INTO webhook_delivery (webhook_id, position, event_id, type, order_id, state, next_attempt_at)
SELECT
    w.id, c.position, c.event_id, c.type, c.order_id,
    CASE WHEN w.disabled_at IS NULL THEN 'pending' ELSE 'disabled' END,
    CASE WHEN w.disabled_at IS NULL THEN now() END
FROM order_change AS c JOIN webhook AS w ON webhook_wants(w, c)
WHERE c.position > $1 AND c.position <= $2 AND w.deleted_at IS NULL
ORDER BY c.position, w.id
ON CONFLICT (webhook_id, position) DO NOTHING
"""


async def apply_changes(batch: Batch) -> int:
    """Create the deliveries of a batch of changes; return how many changes were not applied yet.

    Raises:
        BatchAheadError: the batch does not continue the cursor; nothing was applied.
        ForeignBatchError: its changes are not those of this database; nothing was applied.

    """
    return await apply_once(WEBHOOK_DELIVERIES, batch, _fan_out)


async def _fan_out(batch: Batch, position: int) -> None:
    # The lock first, in a statement of its own: it waits for a transaction that is disabling a webhook, and
    # the next statement sees the result. Otherwise a delivery would be due for a webhook that is disabled.
    if await fetch_values(int, _LOCK_WEBHOOKS):
        await execute(_INSERT_DELIVERIES, position, batch.last)
