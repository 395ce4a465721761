"""Reading what webhooks missed, so that a caller can prove that it knows of every change."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from api.http.json_text import encode_text
from api.http.pages import Page
from api.webhooks.errors import WebhookNotFoundError
from api.webhooks.queries import optional_utc_text
from shared.change_log import WEBHOOK_DELIVERIES
from shared.database.engine import DB
from shared.database.statements import read_row

REASONS = ("pending", "retrying", "exhausted", "disabled", "filtered")

# One statement, so one snapshot: every change in the page's range is either counted as acknowledged or
# listed, never both. The next page begins where this range ends, so its snapshot may be another. Up to the
# consumer's cursor, a delivery says what happened to a change, and no delivery means that the webhook's
# filters excluded it. Beyond the cursor, the webhook's current types and calendars decide.
_MISSED = """
WITH followed AS (
    SELECT w.*, log.last_position, cursor.position AS applied,
        greatest(w.starts_after, log.first_position - 1, $3) AS after
    FROM webhook AS w, change_log AS log, consumer_cursor AS cursor
    WHERE w.id = $1 AND w.deleted_at IS NULL AND cursor.consumer = $2
), missed AS (
    SELECT c.position, c.event_id, c.type, c.order_id, d.id AS delivery_id, d.next_attempt_at,
        CASE
            WHEN d.state IS NOT NULL THEN d.state
            WHEN c.position <= followed.applied THEN 'filtered'
            WHEN NOT (SELECT webhook_wants(w, c) FROM webhook AS w WHERE w.id = $1) THEN 'filtered'
            WHEN followed.disabled_at IS NOT NULL THEN 'disabled'
            ELSE 'pending'
        END AS reason
    FROM followed
    JOIN order_change AS c
        ON c.position > followed.after AND c.position <= followed.last_position
    LEFT JOIN webhook_delivery AS d ON d.webhook_id = $1 AND d.position = c.position
    WHERE d.state IS DISTINCT FROM 'delivered'
), page AS (
    -- One more than the page has: whether another page follows.
    SELECT * FROM missed WHERE $4::text IS NULL OR reason = $4 ORDER BY position LIMIT $5 + 1
), covered AS (
    SELECT after, CASE
        WHEN (SELECT count(*) FROM page) > $5
        THEN (SELECT position FROM page ORDER BY position LIMIT 1 OFFSET $5 - 1)
        ELSE greatest(after, last_position)
    END AS up_to
    FROM followed
)
SELECT
    covered.after, covered.up_to, page.*,
    (
        SELECT count(*) FROM webhook_delivery AS d
        WHERE d.webhook_id = $1 AND d.state = 'delivered'
            AND d.position > covered.after AND d.position <= covered.up_to
    ) AS acknowledged
FROM covered LEFT JOIN page ON true ORDER BY page.position
"""


class Miss(msgspec.Struct, frozen=True):
    """A change that a webhook did not acknowledge, and why."""

    position: int
    event_id: UUID
    type: str
    order_id: int
    reason: str
    delivery_id: int | None
    next_attempt_at: datetime | None

    def json(self) -> str:
        """Return the missed change as JSON."""
        return encode_text(
            {
                "position": self.position,
                "event": str(self.event_id),
                "type": self.type,
                "order": str(self.order_id),
                "reason": self.reason,
                "delivery": None if self.delivery_id is None else str(self.delivery_id),
                "next_attempt_at": optional_utc_text(self.next_attempt_at),
            }
        )


@dataclass(frozen=True)
class Missed:
    """A page of what a webhook missed, and the changes that the page is about."""

    page: Page
    after: int
    """The page is about the changes after this position …"""
    position: int
    """… up to this one: that of its last item, or, on the last page, the last in the log."""
    acknowledged: int
    """How many of these changes were acknowledged. The page has the others."""


class _Range(msgspec.Struct, frozen=True):
    """The changes that a page of missed ones is about, in each of its rows."""

    after: int
    up_to: int
    acknowledged: int


async def list_missed(webhook_id: int, reason: str | None, after: int, limit: int) -> Missed:
    """List every change after a position that a webhook did not acknowledge, by position, and why.

    The pages of one list need not be of one moment: each accounts for every change in its own range, and the
    next page's range begins where this one's ends.

    Raises:
        WebhookNotFoundError: no webhook has this id.

    """
    rows = await DB.fetch(_MISSED, webhook_id, WEBHOOK_DELIVERIES, after, reason, limit)
    if not rows:
        raise WebhookNotFoundError(webhook_id)
    # If nothing was missed there is one row, with the range and no change.
    misses = [read_row(Miss, row) for row in rows if row["position"] is not None]
    about = read_row(_Range, rows[0])
    return Missed(
        Page.of(misses, limit, Miss.json, lambda miss: [miss.position]),
        after=about.after,
        position=about.up_to,
        acknowledged=about.acknowledged,
    )
