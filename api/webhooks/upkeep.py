"""What the relay does for webhooks: see whether attempts are due, and forget what is old."""

from __future__ import annotations

from shared.database.rows import row, rows

FORGET_AT_ONCE = 1_000

TESTS_KEPT = "30 days"
"""How long tests and announcements are kept, which belong to no change."""


async def are_attempts_due(lock: int) -> bool:
    """Tell whether a delivery is due that nobody attends to; ``lock`` is held by whoever attempts.

    A webhook under a lease is being served, or was by a task that was killed: then its lease ends soon.
    """
    found = await row(
        """
        SELECT EXISTS (
            SELECT FROM webhook AS w
            WHERE w.disabled_at IS NULL AND w.deleted_at IS NULL
                AND (w.leased_until IS NULL OR w.leased_until < now())
                AND EXISTS (
                    SELECT FROM webhook_delivery AS d WHERE d.webhook_id = w.id AND d.next_attempt_at <= now()
                )
        ) AND NOT EXISTS (
            SELECT FROM pg_locks
            WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid::bigint = $1 AND objsubid = 1
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        ) AS due
        """,
        lock,
    )
    return bool(found and found["due"])


async def forget_old_deliveries() -> int:
    """Forget deliveries of changes that the log forgot, old tests, deleted webhooks; return how many.

    The relay calls this now and then, some at a time.
    """
    forgotten = await rows(
        f"""
        DELETE FROM webhook_delivery WHERE id IN (
            SELECT d.id FROM webhook_delivery AS d
            WHERE d.position < (SELECT first_position FROM change_log)
                OR (d.position IS NULL AND d.created_at < now() - interval '{TESTS_KEPT}')
                OR d.webhook_id IN (SELECT id FROM webhook WHERE deleted_at IS NOT NULL)
            LIMIT {FORGET_AT_ONCE}
        ) RETURNING 1
        """
    )
    if len(forgotten) < FORGET_AT_ONCE:
        await rows(
            """
            DELETE FROM webhook AS w WHERE deleted_at < now() - interval '1 hour'
                AND NOT EXISTS (SELECT FROM webhook_delivery AS d WHERE d.webhook_id = w.id)
            """
        )
    return len(forgotten)
