"""Forgetting changes that are older than OMS_CHANGE_RETENTION; the log remembers where it begins since."""

from __future__ import annotations

from shared.database.rows import row, rows
from shared.database.transaction import transaction
from shared.settings import settings

TRIM_AT_ONCE = 1_000
"""Changes in one transaction: whoever assigns positions waits for it."""


async def trim_log(most: int = TRIM_AT_ONCE) -> int:
    """Remove the oldest changes if they are older than the retention; return how many.

    Only from the beginning, so that the log stays without a hole, and nothing that a consumer has still to
    apply: a worker that is away for longer than the retention misses nothing.
    """
    async with transaction():
        bounds = await row("SELECT first_position, last_position FROM change_log WHERE id = 1 FOR UPDATE")
        if bounds is None:  # a migration puts the row there
            return 0
        first = bounds["first_position"]
        # The first change that has to stay; recorded in another order than positions were given, so it is the
        # first that is young enough, and not the last that is too old.
        found = await row(
            """
            WITH oldest AS (
                SELECT position, recorded_at FROM order_change WHERE position >= $1 ORDER BY position LIMIT $2
            )
            SELECT least(
                (SELECT min(position) FROM oldest WHERE recorded_at >= clock_timestamp() - $3::interval),
                (SELECT max(position) + 1 FROM oldest),
                (SELECT min(position) + 1 FROM consumer_cursor)
            ) AS stays
            """,
            first,
            most,
            settings().change_retention,
        )
        stays = found["stays"] if found else None
        if stays is None or stays <= first or first > bounds["last_position"]:
            return 0
        await rows("DELETE FROM order_change WHERE position >= $1 AND position < $2", first, stays)
        await rows("UPDATE change_log SET first_position = $1 WHERE id = 1", stays)
    return int(stays - first)
