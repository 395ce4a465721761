"""Fan-out: each change becomes a delivery for every webhook that asks for it, exactly once.

This is a consumer of changes with its own cursor, see ``worker/batches.py``. A delivery begins as
``pending``, due at once. A disabled webhook gets its deliveries too, as ``disabled``, so every change that it
asks for has a row. ``worker/webhooks/attempts.py`` sends what is due.
"""

from __future__ import annotations

from shared.change_log import WEBHOOK_DELIVERIES
from shared.database.statements import execute, fetch_values
from worker.batches import apply_once

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


async def apply_changes(last: int) -> int:
    """Create the deliveries of the next batch of changes, up to a position; return how many it has."""
    return await apply_once(WEBHOOK_DELIVERIES, last, _fan_out)


async def _fan_out(after: int, last: int) -> None:
    # The lock first, in a statement of its own: it waits for a transaction that is disabling a webhook, and
    # the next statement sees the result. Otherwise a delivery would be due for a webhook that is disabled.
    if await fetch_values(int, _LOCK_WEBHOOKS):
        await execute(_INSERT_DELIVERIES, after, last)
