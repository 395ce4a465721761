"""How long an ``Idempotency-Key`` and its answer are kept, and forgetting them after that."""

from __future__ import annotations

from shared.database.rows import rows
from shared.database.transaction import transaction

KEPT = "24 hours"
FORGET_AT_ONCE = 1_000


async def forget_expired() -> int:
    """Forget keys that are older than that; return how many. The relay calls this now and then."""
    async with transaction():
        forgotten = await rows(
            f"""
            DELETE FROM idempotency_key WHERE (caller, operation, key) IN (
                SELECT caller, operation, key FROM idempotency_key
                WHERE created_at < now() - interval '{KEPT}' LIMIT {FORGET_AT_ONCE} FOR UPDATE SKIP LOCKED
            ) RETURNING key
            """
        )
    return len(forgotten)
