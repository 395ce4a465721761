"""Reading webhooks, and their deliveries with attempts."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from piccolo.columns.combination import And

from api.http.json_text import encode_text
from api.http.pages import Page
from api.http.times import utc_text
from api.webhooks.errors import DeliveryNotFoundError, WebhookNotFoundError
from shared.database.statements import fetch_all, fetch_optional
from shared.database.tables import Webhook

STATUSES = ("pending", "retrying", "delivered", "exhausted", "disabled")

ATTEMPTS_SHOWN = 20
"""How many attempts at a delivery are shown, the newest ones; replays may have made more."""

# A webhook gets one request at a time, under a lease. An attempt without an end is under way if it began
# under the current lease. Otherwise its worker was killed.
_DELIVERIES = f"""
SELECT
    d.id, d.event_id, d.type, d.position, d.order_id, d.state,
    d.created_at, d.acknowledged_at, d.next_attempt_at,
    coalesce((
        SELECT json_agg(json_build_object(
            'at', utc_text(a.started_at), 'latency_ms', a.latency_ms, 'status', a.status,
            'answer', a.answer, 'error', a.error
        ) ORDER BY a.id)
        FROM (
            SELECT * FROM webhook_attempt WHERE delivery_id = d.id AND latency_ms IS NOT NULL
            ORDER BY id DESC LIMIT {ATTEMPTS_SHOWN}
        ) AS a
    ), '[]') AS ended_attempts,
    coalesce((
        SELECT json_agg(json_build_object(
            'at', utc_text(a.started_at), 'under_way', a.under_way
        ) ORDER BY a.id)
        FROM (
            SELECT a.*, coalesce(w.leased_until > now() AND a.started_at >= w.served_at, false) AS under_way
            FROM webhook_attempt AS a JOIN webhook AS w ON w.id = d.webhook_id
            WHERE a.delivery_id = d.id AND a.latency_ms IS NULL
            ORDER BY a.id DESC LIMIT {ATTEMPTS_SHOWN}
        ) AS a
    ), '[]') AS unended_attempts
FROM webhook_delivery AS d
"""

_DELIVERY = f"{_DELIVERIES} WHERE d.webhook_id = $1 AND d.id = $2"

_DELIVERIES_BEFORE = f"""
{_DELIVERIES}
WHERE d.webhook_id = $1 AND ($2::text IS NULL OR d.state = $2) AND ($3::bigint IS NULL OR d.id < $3)
ORDER BY d.id DESC LIMIT $4
"""


class StoredWebhook(msgspec.Struct, frozen=True):
    """The columns of ``webhook`` that concern callers."""

    id: int
    url: str
    types: list[str]
    calendars: list[str]
    description: str
    starts_after: int
    created_at: datetime
    updated_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None
    failing_since: datetime | None

    def members(self) -> dict[str, Any]:
        """Return the webhook's members in JSON, without a secret."""
        disabled = None
        if self.disabled_at is not None:
            disabled = {"at": utc_text(self.disabled_at), "reason": self.disabled_reason}
        return {
            "id": str(self.id),
            "url": self.url,
            "types": self.types,
            "calendars": self.calendars,
            "description": self.description,
            "enabled": self.disabled_at is None,
            "disabled": disabled,
            "failing_since": optional_utc_text(self.failing_since),
            "after": self.starts_after,
            "created_at": utc_text(self.created_at),
            "updated_at": utc_text(self.updated_at),
        }

    def json(self) -> str:
        """Return the webhook as JSON, without a secret."""
        return encode_text(self.members())


WEBHOOK_COLUMNS = ", ".join(StoredWebhook.__struct_fields__)
"""The columns that make a ``StoredWebhook``, for SQL."""


class _UnendedAttempt(msgspec.Struct, frozen=True):
    """An attempt without an end: under way, or interrupted when its worker was killed."""

    at: str
    under_way: bool


class StoredDelivery(msgspec.Struct, frozen=True):
    """A row of ``webhook_delivery`` with its newest attempts."""

    id: int
    event_id: UUID
    type: str
    position: int | None
    order_id: int | None
    state: str
    created_at: datetime
    acknowledged_at: datetime | None
    next_attempt_at: datetime | None
    ended_attempts: str
    """JSON, as callers see them, oldest first."""
    unended_attempts: str
    """JSON of ``_UnendedAttempt``, oldest first."""

    def json(self) -> str:
        """Return the delivery as JSON."""
        unended = msgspec.json.decode(self.unended_attempts, type=list[_UnendedAttempt])
        return encode_text(
            {
                "id": str(self.id),
                "event": str(self.event_id),
                "type": self.type,
                "position": self.position,
                "order": None if self.order_id is None else str(self.order_id),
                "status": self.state,
                "created_at": utc_text(self.created_at),
                "acknowledged_at": optional_utc_text(self.acknowledged_at),
                "next_attempt_at": optional_utc_text(self.next_attempt_at),
                "attempts": msgspec.json.decode(self.ended_attempts),
                "under_way_since": next((attempt.at for attempt in unended if attempt.under_way), None),
                "interrupted": [attempt.at for attempt in unended if not attempt.under_way],
            }
        )


def optional_utc_text(at: datetime | None) -> str | None:
    """Write a time as RFC 3339 in UTC, if there is one."""
    return None if at is None else utc_text(at)


async def find_webhook(webhook_id: int) -> StoredWebhook:
    """Find a webhook.

    Raises:
        WebhookNotFoundError: no webhook has this id.

    """
    row = (
        await Webhook.select(*StoredWebhook.__struct_fields__)
        .where(And(Webhook.id == webhook_id, Webhook.deleted_at.is_null()))
        .first()
    )
    if row is None:
        raise WebhookNotFoundError(webhook_id)
    return StoredWebhook(**row)


async def list_webhooks(after: int, limit: int) -> Page:
    """List webhooks by id, beginning after the id ``after``."""
    rows = (
        await Webhook.select(*StoredWebhook.__struct_fields__)
        .where(And(Webhook.id > after, Webhook.deleted_at.is_null()))
        .order_by(Webhook.id)
        .limit(limit + 1)
    )
    return Page.of(
        [StoredWebhook(**row) for row in rows], limit, StoredWebhook.json, lambda webhook: [webhook.id]
    )


async def find_delivery(webhook_id: int, delivery_id: int) -> StoredDelivery:
    """Find a delivery of a webhook.

    Raises:
        DeliveryNotFoundError: the webhook has none with this id.

    """
    delivery = await fetch_optional(StoredDelivery, _DELIVERY, webhook_id, delivery_id)
    if delivery is None:
        raise DeliveryNotFoundError(delivery_id)
    return delivery


async def list_deliveries(webhook_id: int, status: str | None, before: int | None, limit: int) -> Page:
    """List a webhook's deliveries, newest first, beginning before the id ``before``."""
    deliveries = await fetch_all(StoredDelivery, _DELIVERIES_BEFORE, webhook_id, status, before, limit + 1)
    return Page.of(deliveries, limit, StoredDelivery.json, lambda delivery: [delivery.id])
