"""What API, relay and worker have in common about webhooks: statements, and notifications about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from shared.changes import source_in
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

# A webhook under a lease is being served, or was by a task that was killed: then its lease ends soon.
IS_DUE = """
    w.disabled_at IS NULL AND w.deleted_at IS NULL
    AND (w.leased_until IS NULL OR w.leased_until < now())
    AND EXISTS (SELECT FROM webhook_delivery AS d WHERE d.webhook_id = w.id AND d.next_attempt_at <= now())
"""
"""A condition on ``webhook AS w``: a task may attempt its deliveries now."""

DISABLE_DELIVERIES = """
UPDATE webhook_delivery SET state = 'disabled', next_attempt_at = NULL
WHERE webhook_id = $1 AND next_attempt_at IS NOT NULL
"""


def secret_row(webhook_id: int, secret_id: int) -> tuple[str, ...]:
    """Return what an encrypted secret is bound to: its row and its webhook."""
    return ("webhook_secret", str(webhook_id), str(secret_id))


def notification(event_id: UUID, time: str, kind: str, webhook_id: int, data: Mapping[str, Any]) -> str:
    """Encode a notification about a webhook, a CloudEvents 1.0 event in JSON.

    Args:
        event_id: its id.
        time: RFC 3339 in UTC.
        kind: its type, such as ``webhook.test``.
        webhook_id: the webhook that it is about.
        data: further members of its data.

    """
    event = {
        "specversion": "1.0",
        "id": str(event_id),
        "source": source_in(settings().cell, "/webhooks"),
        "type": kind,
        "subject": str(webhook_id),
        "time": time,
        "datacontenttype": "application/json",
        "data": {"webhook": str(webhook_id), **data},
    }
    return msgspec.json.encode(event).decode()
