"""Reading webhooks, their deliveries with attempts, and what they missed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from api.http.json_text import encode_text
from api.http.pages import Page
from api.http.times import utc_text
from api.webhooks.errors import DeliveryNotFoundError, WebhookNotFoundError
from shared.change_log import WEBHOOK_DELIVERIES
from shared.database.rows import Row, row, rows

STATUSES = ("pending", "retrying", "delivered", "exhausted", "disabled")
REASONS = ("pending", "retrying", "exhausted", "disabled", "filtered")

ATTEMPTS_SHOWN = 20
"""The newest attempts at a delivery; replays may have made more."""


def shown_webhook(found: Row) -> dict[str, Any]:
    """Give a webhook as callers see it, without a secret."""
    disabled_at, failing_since = found["disabled_at"], found["failing_since"]
    return {
        "id": str(found["id"]),
        "url": found["url"],
        "types": found["types"],
        "calendars": found["calendars"],
        "description": found["description"],
        "enabled": disabled_at is None,
        "disabled": {"at": utc_text(disabled_at), "reason": found["disabled_reason"]}
        if disabled_at
        else None,
        "failing_since": utc_text(failing_since) if failing_since else None,
        "after": found["starts_after"],
        "created_at": utc_text(found["created_at"]),
        "updated_at": utc_text(found["updated_at"]),
    }


async def find_webhook(webhook_id: int) -> Row:
    """Read a webhook.

    Raises:
        WebhookNotFoundError: there is none.

    """
    found = await row("SELECT * FROM webhook WHERE id = $1 AND deleted_at IS NULL", webhook_id)
    if found is None:
        raise WebhookNotFoundError(webhook_id)
    return found


async def list_webhooks(after: int, limit: int) -> Page:
    """List webhooks by id."""
    found = await rows(
        "SELECT * FROM webhook WHERE deleted_at IS NULL AND id > $1 ORDER BY id LIMIT $2", after, limit + 1
    )
    shown = found[:limit]
    return Page(
        [encode_text(shown_webhook(one)) for one in shown],
        [shown[-1]["id"]] if len(found) > limit else None,
    )


# An attempt without an end is under way if it began under the lease of now: a webhook gets one request at a
# time. Otherwise whoever made it was killed.
_DELIVERIES = f"""
SELECT d.*, coalesce((
    SELECT json_agg(json_build_object(
        'at', utc_text(a.started_at), 'latency_ms', a.latency_ms, 'status', a.status,
        'answer', a.answer, 'error', a.error
    ) ORDER BY a.id)
    FROM (
        SELECT * FROM webhook_attempt WHERE delivery_id = d.id AND latency_ms IS NOT NULL
        ORDER BY id DESC LIMIT {ATTEMPTS_SHOWN}
    ) AS a
), '[]') AS made, coalesce((
    SELECT json_agg(json_build_object('at', utc_text(a.started_at), 'under_way', a.under_way) ORDER BY a.id)
    FROM (
        SELECT a.*, coalesce(w.leased_until > now() AND a.started_at >= w.served_at, false) AS under_way
        FROM webhook_attempt AS a JOIN webhook AS w ON w.id = d.webhook_id
        WHERE a.delivery_id = d.id AND a.latency_ms IS NULL
        ORDER BY a.id DESC LIMIT {ATTEMPTS_SHOWN}
    ) AS a
), '[]') AS without_end
FROM webhook_delivery AS d
"""


def _shown_delivery(found: Row) -> str:
    without_end = msgspec.json.decode(found["without_end"])
    head = {
        "id": str(found["id"]),
        "event": str(found["event_id"]),
        "type": found["type"],
        "position": found["position"],
        "order": str(found["order_id"]) if found["order_id"] is not None else None,
        "status": found["state"],
        "created_at": utc_text(found["created_at"]),
        "acknowledged_at": utc_text(found["acknowledged_at"]) if found["acknowledged_at"] else None,
        "next_attempt_at": utc_text(found["next_attempt_at"]) if found["next_attempt_at"] else None,
        "attempts": msgspec.json.decode(found["made"]),
        "under_way_since": next((one["at"] for one in without_end if one["under_way"]), None),
        "interrupted": [one["at"] for one in without_end if not one["under_way"]],
    }
    return encode_text(head)


async def delivery_of(webhook_id: int, delivery_id: int) -> str:
    """Read a delivery of a webhook, as it is shown.

    Raises:
        DeliveryNotFoundError: it has none with this id.

    """
    found = await row(f"{_DELIVERIES} WHERE d.webhook_id = $1 AND d.id = $2", webhook_id, delivery_id)
    if found is None:
        raise DeliveryNotFoundError(delivery_id)
    return _shown_delivery(found)


async def list_deliveries(webhook_id: int, status: str | None, before: int | None, limit: int) -> Page:
    """List a webhook's deliveries, newest first."""
    found = await rows(
        f"""
        {_DELIVERIES}
        WHERE d.webhook_id = $1 AND ($2::text IS NULL OR d.state = $2) AND ($3::bigint IS NULL OR d.id < $3)
        ORDER BY d.id DESC LIMIT $4
        """,
        webhook_id,
        status,
        before,
        limit + 1,
    )
    shown = found[:limit]
    return Page([_shown_delivery(one) for one in shown], [shown[-1]["id"]] if len(found) > limit else None)


@dataclass(frozen=True)
class Missed:
    """A page of what a webhook missed, and what it is exact for."""

    page: Page
    after: int
    """Changes are its concern, and retained, behind this position …"""
    position: int
    """… up to this one, the last that there was."""
    acknowledged: int
    """How many of them it acknowledged. The others are the list."""


# One statement, so one snapshot: what was acknowledged and what is listed is everything, each once. Where the
# consumer has been, a row says what became of a change, and no row that the webhook did not ask for it;
# where it has not been yet, the webhook's wishes of now say what will be.
_MISSED = """
WITH held AS (
    SELECT w.*, log.last_position, cursor.position AS reached,
        greatest(w.starts_after, log.first_position - 1) AS after
    FROM webhook AS w, change_log AS log, consumer_cursor AS cursor
    WHERE w.id = $1 AND w.deleted_at IS NULL AND cursor.consumer = $2
), judged AS (
    SELECT c.position, c.event_id, c.type, c.order_id, d.id AS delivery_id, d.next_attempt_at,
        CASE
            WHEN d.state IS NOT NULL THEN d.state
            WHEN c.position <= held.reached OR NOT {wants} THEN 'filtered'
            WHEN held.disabled_at IS NOT NULL THEN 'disabled'
            ELSE 'pending'
        END AS reason
    FROM held
    JOIN order_change AS c ON c.position > greatest(held.after, $3) AND c.position <= held.last_position
    LEFT JOIN webhook_delivery AS d ON d.webhook_id = $1 AND d.position = c.position
    WHERE d.state IS DISTINCT FROM 'delivered'
), page AS (
    SELECT * FROM judged WHERE $4::text IS NULL OR reason = $4 ORDER BY position LIMIT $5
)
SELECT
    held.after, held.last_position, page.*,
    (
        SELECT count(*) FROM webhook_delivery AS d
        WHERE d.webhook_id = $1 AND d.state = 'delivered' AND d.position > held.after
    ) AS acknowledged
FROM held LEFT JOIN page ON true ORDER BY page.position
""".format(wants="(SELECT webhook_wants(w, c) FROM webhook AS w WHERE w.id = $1)")


async def list_missed(webhook_id: int, reason: str | None, after: int, limit: int) -> Missed:
    """List every change that a webhook did not acknowledge, by position, and why.

    Raises:
        WebhookNotFoundError: there is none.

    """
    found = await rows(_MISSED, webhook_id, WEBHOOK_DELIVERIES, after, reason, limit + 1)
    if not found:
        raise WebhookNotFoundError(webhook_id)
    items = [one for one in found if one["position"] is not None]
    shown = items[:limit]
    return Missed(
        Page([_shown_miss(one) for one in shown], [shown[-1]["position"]] if len(items) > limit else None),
        found[0]["after"],
        found[0]["last_position"],
        found[0]["acknowledged"],
    )


def _shown_miss(found: Row) -> str:
    next_attempt_at = found["next_attempt_at"]
    return encode_text(
        {
            "position": found["position"],
            "event": str(found["event_id"]),
            "type": found["type"],
            "order": str(found["order_id"]),
            "reason": found["reason"],
            "delivery": str(found["delivery_id"]) if found["delivery_id"] is not None else None,
            "next_attempt_at": utc_text(next_attempt_at) if next_attempt_at else None,
        }
    )
