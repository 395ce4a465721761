"""Deletes expired idempotency keys, tickets, changes and deliveries. The relay runs this once a minute."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from api.http.idempotency_keys import KEY_RETENTION
from shared.change_log import Bounds
from shared.database.statements import execute, fetch_optional, fetch_value
from shared.database.transaction import transaction
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BATCH = 1_000
"""Rows deleted in one transaction. Assigning positions waits for it."""

LONGEST_SILENCE_SECONDS = 2
"""PostgreSQL ends a transaction whose relay says nothing for so long: one that is stopped in the middle of it
would hold locks that its successor waits for."""

TEST_RETENTION = "30 days"
"""How long deliveries without a change are kept: tests and announcements."""

_EXPIRED_KEYS = f"""
DELETE FROM idempotency_key WHERE (caller, operation, key) IN (
    SELECT caller, operation, key FROM idempotency_key
    WHERE created_at < now() - interval '{KEY_RETENTION}' LIMIT {BATCH} FOR UPDATE SKIP LOCKED
)
"""

_EXPIRED_TICKETS = f"""
DELETE FROM stream_ticket WHERE hash IN (
    SELECT hash FROM stream_ticket WHERE expires_at < now() LIMIT {BATCH} FOR UPDATE SKIP LOCKED
)
"""

# The first change to keep. Changes are not recorded in the order of their positions, so it is the first one
# that is young enough, not the one after the last that is too old.
_FIRST_TO_KEEP = """
WITH oldest AS (
    SELECT position, recorded_at FROM order_change WHERE position >= $1 ORDER BY position LIMIT $2
)
SELECT coalesce(least(
    (SELECT min(position) FROM oldest WHERE recorded_at >= clock_timestamp() - $3::interval),
    (SELECT max(position) + 1 FROM oldest),
    (SELECT min(position) + 1 FROM consumer_cursor)
), 0)
"""

# One index for each condition: with OR, PostgreSQL reads the whole table each minute. Each SELECT is sorted
# so that no other index serves; BETWEEN is no equality, which would leave only the ids to be sorted.
OLD_DELIVERIES = f"""
(
    SELECT id FROM webhook_delivery WHERE position < (SELECT first_position FROM change_log)
    ORDER BY position LIMIT {BATCH}
) UNION (
    SELECT id FROM webhook_delivery
    WHERE position IS NULL AND created_at < now() - interval '{TEST_RETENTION}'
    ORDER BY position LIMIT {BATCH}
) UNION (
    SELECT d.id FROM webhook AS w CROSS JOIN LATERAL (
        SELECT id FROM webhook_delivery WHERE webhook_id BETWEEN w.id AND w.id
        ORDER BY webhook_id, id LIMIT {BATCH}
    ) AS d WHERE w.deleted_at IS NOT NULL LIMIT {BATCH}
) LIMIT {BATCH}
"""
"""The ids of a batch of deliveries: of deleted changes, old tests and announcements, of deleted webhooks."""

_DELETE_OLD_DELIVERIES = f"DELETE FROM webhook_delivery WHERE id = ANY (ARRAY({OLD_DELIVERIES}))"

_DELETED_WEBHOOKS = """
DELETE FROM webhook AS w WHERE deleted_at < now() - interval '1 hour'
    AND NOT EXISTS (SELECT FROM webhook_delivery AS d WHERE d.webhook_id = w.id)
"""


@asynccontextmanager
async def short_transaction() -> AsyncIterator[None]:
    """Run a block in a transaction that ends soon after a relay that falls silent within it."""
    async with transaction():
        limit = f"{LONGEST_SILENCE_SECONDS}s"
        await fetch_value(str, "SELECT set_config('idle_in_transaction_session_timeout', $1, true)", limit)
        yield


async def delete_expired_once() -> bool:
    """Delete a batch of each kind; return whether nothing expired is left."""
    keys, tickets, changes = await delete_expired_keys(), await delete_expired_tickets(), await trim_log()
    # After the changes: a delivery is deleted with the change that it carries.
    deliveries = await delete_old_deliveries()
    return all(deleted < BATCH for deleted in (keys, tickets, changes, deliveries))


async def delete_expired_keys() -> int:
    """Delete a batch of expired idempotency keys; return how many."""
    async with short_transaction():
        return await execute(_EXPIRED_KEYS)


async def delete_expired_tickets() -> int:
    """Delete a batch of expired stream tickets; return how many."""
    async with short_transaction():
        return await execute(_EXPIRED_TICKETS)


async def trim_log(most: int = BATCH) -> int:
    """Delete the oldest changes if they are older than OMS_CHANGE_RETENTION; return how many.

    Only the oldest changes that all consumers have processed are deleted, so the log has no hole, and a
    worker that is stopped for longer than the retention misses nothing.
    """
    async with short_transaction():
        bounds = await fetch_optional(
            Bounds,
            "SELECT first_position AS first, last_position AS last FROM change_log WHERE id = 1 FOR UPDATE",
        )
        if bounds is None:
            return 0
        keep = await fetch_value(int, _FIRST_TO_KEEP, bounds.first, most, settings().change_retention)
        if keep <= bounds.first or bounds.first > bounds.last:
            return 0
        await execute("DELETE FROM order_change WHERE position >= $1 AND position < $2", bounds.first, keep)
        await execute("UPDATE change_log SET first_position = $1 WHERE id = 1", keep)
    return keep - bounds.first


async def delete_old_deliveries() -> int:
    """Delete a batch of deliveries: of deleted changes, old tests, deleted webhooks; return how many.

    A deleted webhook's own row is deleted after its deliveries.
    """
    deleted = await execute(_DELETE_OLD_DELIVERIES)
    if deleted < BATCH:
        await execute(_DELETED_WEBHOOKS)
    return deleted
