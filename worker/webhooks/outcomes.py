"""What happens to a delivery, and to its webhook, when an attempt has ended.

The delivery becomes ``delivered`` (answered 2xx), ``retrying`` (another attempt follows, see
``worker/webhooks/schedule.py``), ``exhausted`` (the retry schedule has ended) or ``disabled`` (the webhook
was disabled or deleted during the attempt). A webhook that answers 410, or has only failed for days, is
disabled.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
import structlog

from shared.database.statements import execute, fetch_one, fetch_optional
from shared.database.transaction import transaction
from shared.webhooks import DISABLE_DELIVERIES, notification
from worker.metrics import DELIVERIES, DISABLED_WEBHOOKS
from worker.webhooks.schedule import (
    PAUSE_WHILE_IMPOSSIBLE_SECONDS,
    failing_since_when,
    must_be_disabled,
    pause_before_next,
)

if TYPE_CHECKING:
    from worker.webhooks.client import Message, Outcome

log = structlog.get_logger("worker")

GONE = 410
TEST = "webhook.test"
DISABLED = "webhook.disabled"

DisabledReason = Literal["gone", "failing"]
"""``gone``: it answered 410; ``failing``: it has only failed, for ``schedule.DISABLED_AFTER``."""

_LOCK_WEBHOOK = """
SELECT id, url, disabled_at, deleted_at, failing_since, last_failure_at, clock_timestamp() AS now
FROM webhook WHERE id = $1 FOR NO KEY UPDATE
"""

_LOCK_DELIVERY = "SELECT type, round, attempts FROM webhook_delivery WHERE id = $1 FOR UPDATE"

_END_ATTEMPT = """
UPDATE webhook_attempt SET latency_ms = $2, status = $3, answer = $4, error = $5
WHERE id = $1 AND latency_ms IS NULL
"""

_UPDATE_DELIVERY = """
UPDATE webhook_delivery SET
    state = $2, attempts = $3, next_attempt_at = clock_timestamp() + $4 * interval '1 second',
    acknowledged_at = CASE WHEN $2 = 'delivered' THEN clock_timestamp() END
WHERE id = $1
"""

_CLEAR_FAILURES = "UPDATE webhook SET failing_since = NULL WHERE id = $1"

_RECORD_FAILURE = "UPDATE webhook SET failing_since = $2, last_failure_at = $3 WHERE id = $1"

_DISABLE_WEBHOOK = """
UPDATE webhook
SET disabled_at = clock_timestamp(), disabled_reason = $2, updated_at = clock_timestamp()
WHERE id = $1
"""

_NEW_EVENT = "SELECT uuidv7() AS id, utc_text(clock_timestamp()) AS time"

_INSERT_ANNOUNCEMENTS = """
INSERT INTO webhook_delivery (webhook_id, event_id, type, payload, state, next_attempt_at)
SELECT id, $1, $2, $3, 'pending', now() FROM webhook
WHERE $2 = ANY (types) AND disabled_at IS NULL AND deleted_at IS NULL AND id <> $4
"""


@dataclass(frozen=True)
class Attempt:
    """An attempt at a delivery that has begun."""

    id: int
    webhook_id: int
    delivery_id: int
    round: int
    message: Message
    obstacle: str | None = None
    """Why it can't be made, because of this service itself."""


class _Webhook(msgspec.Struct, frozen=True):
    id: int
    url: str
    disabled_at: datetime | None
    deleted_at: datetime | None
    failing_since: datetime | None
    last_failure_at: datetime | None
    now: datetime

    @property
    def is_active(self) -> bool:
        return self.disabled_at is None and self.deleted_at is None


class _Delivery(msgspec.Struct, frozen=True):
    type: str
    round: int
    attempts: int

    @property
    def is_of_change(self) -> bool:
        return self.type.startswith("order.")


class _Event(msgspec.Struct, frozen=True):
    id: UUID
    time: str


async def record_attempt(attempt: Attempt, outcome: Outcome) -> None:
    """Store how an attempt ended and what follows from it: all in one transaction.

    Recording it again changes nothing.

    The webhook's row is locked first, so a caller's change to it happens entirely before or entirely after.
    """
    state, disabled = await _record(attempt, outcome)
    # Counted when it is committed, and once.
    if state is not None:
        DELIVERIES.add(state)
    if disabled is not None:
        DISABLED_WEBHOOKS.add(disabled)


async def _record(attempt: Attempt, outcome: Outcome) -> tuple[str | None, DisabledReason | None]:
    """Store it; return the new state of the delivery, and why the webhook was disabled, or None for each."""
    state = disabled = None
    async with transaction():
        webhook = await fetch_optional(_Webhook, _LOCK_WEBHOOK, attempt.webhook_id)
        delivery = await fetch_optional(_Delivery, _LOCK_DELIVERY, attempt.delivery_id)
        if webhook is None or delivery is None:
            return None, None  # deleted meanwhile
        ended = await execute(
            _END_ATTEMPT, attempt.id, outcome.latency_ms, outcome.status, outcome.answer, outcome.error
        )
        if not ended:
            return None, None  # recorded before: the connection broke during that COMMIT
        if delivery.round == attempt.round:
            # Otherwise a replay began a new round while this attempt was under way.
            state = await _update_delivery(attempt, outcome, webhook, delivery)
        if webhook.is_active and outcome.was_possible:
            disabled = await _update_webhook_health(webhook, delivery, outcome)
    return state, disabled


async def _update_delivery(attempt: Attempt, outcome: Outcome, webhook: _Webhook, delivery: _Delivery) -> str:
    attempts = delivery.attempts + outcome.was_possible
    pause = None
    if outcome.delivered:
        state = "delivered"
    elif not webhook.is_active:
        state = "disabled"
    elif not outcome.was_possible and delivery.type != TEST:
        # Its retry schedule does not go on meanwhile, so nothing is given up, however long this lasts.
        state, pause = "retrying", PAUSE_WHILE_IMPOSSIBLE_SECONDS
    else:
        # A test is attempted once: the caller that requested it is waiting for the result.
        if delivery.type != TEST:
            pause = pause_before_next(attempts, random.random(), outcome.retry_after)  # noqa: S311 (spreads load)
        state = "exhausted" if pause is None else "retrying"
    await execute(_UPDATE_DELIVERY, attempt.delivery_id, state, attempts, pause)
    return state


async def _update_webhook_health(
    webhook: _Webhook, delivery: _Delivery, outcome: Outcome
) -> DisabledReason | None:
    """Record since when the webhook has only failed; disable it if that is too long or it answered 410.

    Returns:
        Why it was disabled; None: it was not.

    """
    if outcome.status == GONE:
        await _disable(webhook, "gone")
        return "gone"
    if outcome.delivered:
        if webhook.failing_since is not None:
            await execute(_CLEAR_FAILURES, webhook.id)
    elif delivery.is_of_change:
        since = failing_since_when(webhook.failing_since, webhook.last_failure_at, webhook.now)
        await execute(_RECORD_FAILURE, webhook.id, since, webhook.now)
        if must_be_disabled(since, webhook.now):
            await _disable(webhook, "failing")
            return "failing"
    return None


async def _disable(webhook: _Webhook, reason: DisabledReason) -> None:
    """Disable a webhook; its pending and retrying deliveries become ``disabled``, and can be replayed.

    Webhooks that ask for ``webhook.disabled`` by name are notified.
    """
    await execute(_DISABLE_WEBHOOK, webhook.id, reason)
    await execute(DISABLE_DELIVERIES, webhook.id)
    log.warning("webhook_disabled", webhook=webhook.id, reason=reason)
    event = await fetch_one(_Event, _NEW_EVENT)
    await execute(
        _INSERT_ANNOUNCEMENTS, event.id, DISABLED, _announcement(event, webhook, reason), webhook.id
    )


def _origin(url: str) -> str:
    # The rest of a URL is often a credential, and this goes to other subscribers.
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/"


def _announcement(event: _Event, webhook: _Webhook, reason: DisabledReason) -> str:
    data = {"url": _origin(webhook.url), "reason": reason}
    return notification(event.id, event.time, DISABLED, webhook.id, data)
