"""The command that sends notifications again: one transaction, committed here; locks as in ``commands``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from api.changes.queries import check_position
from api.webhooks.commands import lock_enabled_webhook
from api.webhooks.errors import TooMuchToReplayError
from shared.change_log import WEBHOOK_DELIVERIES, Bounds, lock_cursor, log_bounds
from shared.database.statements import execute, fetch_one
from shared.database.transaction import retry_on_lock_timeout, transaction

if TYPE_CHECKING:
    from api.webhooks.bodies import Replay

REPLAYED_AT_ONCE = 100_000
"""Changes that one replay covers: five seconds' work, during which the webhook consumer waits."""

_REPLAY_MISSED = """
UPDATE webhook_delivery SET
    state = 'pending', round = round + 1, attempts = 0, next_attempt_at = now()
WHERE id IN (
    SELECT id FROM webhook_delivery
    WHERE webhook_id = $1 AND position IS NOT NULL AND state <> 'delivered' AND state <> 'pending'
    ORDER BY position LIMIT $2
)
"""

_REPLAY_AFTER = """
WITH due AS (
    INSERT INTO webhook_delivery AS d
        (webhook_id, position, event_id, type, order_id, state, next_attempt_at)
    SELECT w.id, c.position, c.event_id, c.type, c.order_id, 'pending', now()
    FROM order_change AS c JOIN webhook AS w ON w.id = $1 AND webhook_wants(w, c)
    WHERE c.position > $2 AND c.position <= $3
    ORDER BY c.position
    ON CONFLICT (webhook_id, position) DO UPDATE SET
        state = 'pending', round = d.round + 1, attempts = 0, next_attempt_at = now(), acknowledged_at = NULL
    RETURNING position
)
SELECT count(due.position) AS deliveries, first_position AS first, last_position AS last
FROM due RIGHT JOIN change_log ON true GROUP BY first_position, last_position
"""


@retry_on_lock_timeout
async def replay(webhook_id: int, requested: Replay) -> int:
    """Make what was missed, or everything after a position, due again; return the number of deliveries.

    With a position, it is everything that the webhook's filters match now: delivered before or not, and also
    from before the webhook was created. Changes that the consumer has not reached yet follow anyway.

    Raises:
        WebhookNotFoundError: no webhook has this id.
        WebhookDisabledError: nothing is sent to it.
        PositionNotInLogError: the log does not have everything after the position, or ends before it.
        TooMuchToReplayError: more changes follow the position than one replay covers.

    """
    async with transaction():
        applied = await lock_cursor(WEBHOOK_DELIVERIES)
        await lock_enabled_webhook(webhook_id)
        if requested.after is None:
            return await execute(_REPLAY_MISSED, webhook_id, REPLAYED_AT_ONCE)
        return await _replay_after(webhook_id, requested.after, applied)


class _Replayed(msgspec.Struct, frozen=True):
    """How many deliveries are due, and the log's bounds in the same snapshot."""

    deliveries: int
    first: int
    last: int


async def _replay_after(webhook_id: int, after: int, applied: int) -> int:
    check_position(after, await log_bounds())
    if after < applied - REPLAYED_AT_ONCE:
        raise TooMuchToReplayError(applied - REPLAYED_AT_ONCE)
    await execute(
        "UPDATE webhook SET starts_after = least(starts_after, $2) WHERE id = $1", webhook_id, after
    )
    replayed = await fetch_one(_Replayed, _REPLAY_AFTER, webhook_id, after, applied)
    # Checked again, in the snapshot that was replayed: the log may have been trimmed since the first check.
    check_position(after, Bounds(replayed.first, replayed.last))
    return replayed.deliveries
