"""What becomes of a delivery, and of its webhook, when an attempt has ended."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID

import structlog

from shared.database.rows import Row, row, rows
from shared.database.transaction import transaction
from worker.webhooks.schedule import is_given_up, pause_before_next, series_begins

if TYPE_CHECKING:
    from worker.webhooks.client import Message, Outcome

log = structlog.get_logger("worker")

GONE = 410
TEST = "webhook.test"
DISABLED = "webhook.disabled"


@dataclass(frozen=True)
class Attempt:
    """An attempt at a delivery, under way."""

    id: int
    webhook_id: int
    delivery_id: int
    round: int
    message: Message


async def record_attempt(attempt: Attempt, outcome: Outcome) -> None:
    """Keep how an attempt ended and say what follows: all in one transaction.

    The webhook's row is locked first, so what a caller does to it meanwhile comes wholly before or after.
    """
    async with transaction():
        webhook = await row(
            "SELECT *, clock_timestamp() AS now FROM webhook WHERE id = $1 FOR NO KEY UPDATE",
            attempt.webhook_id,
        )
        delivery = await row(
            "SELECT type, round, attempts FROM webhook_delivery WHERE id = $1 FOR UPDATE", attempt.delivery_id
        )
        if webhook is None or delivery is None:
            return  # forgotten meanwhile
        await _end_attempt(attempt, outcome)
        if delivery["round"] == attempt.round:
            # Otherwise a replay asked for it again while this attempt was under way.
            await _move_delivery(attempt, outcome, webhook, delivery)
        if webhook["disabled_at"] is None and webhook["deleted_at"] is None:
            await _judge(webhook, outcome, of_change=delivery["type"].startswith("order."))


async def _end_attempt(attempt: Attempt, outcome: Outcome) -> None:
    await rows(
        "UPDATE webhook_attempt SET latency_ms = $2, status = $3, answer = $4, error = $5 WHERE id = $1",
        attempt.id,
        outcome.latency_ms,
        outcome.status,
        outcome.answer,
        outcome.error,
    )


async def _move_delivery(attempt: Attempt, outcome: Outcome, webhook: Row, delivery: Row) -> None:
    made = delivery["attempts"] + 1
    pause = None
    if outcome.delivered:
        state = "delivered"
    elif webhook["disabled_at"] is not None or webhook["deleted_at"] is not None:
        state = "disabled"
    else:
        # A test is attempted once: whoever asked for it is waiting to see how it goes.
        if delivery["type"] != TEST:
            pause = pause_before_next(made, random.random(), outcome.retry_after)  # noqa: S311 (spreads load)
        state = "exhausted" if pause is None else "retrying"
    await rows(
        """
        UPDATE webhook_delivery SET
            state = $2, attempts = $3, next_attempt_at = clock_timestamp() + $4 * interval '1 second',
            acknowledged_at = CASE WHEN $2 = 'delivered' THEN clock_timestamp() END
        WHERE id = $1
        """,
        attempt.delivery_id,
        state,
        made,
        pause,
    )


async def _judge(webhook: Row, outcome: Outcome, *, of_change: bool) -> None:
    """Say what an attempt tells about the webhook itself."""
    if outcome.status == GONE:
        await disable(webhook, "gone")
    elif outcome.delivered:
        if webhook["failing_since"] is not None:
            await rows("UPDATE webhook SET failing_since = NULL WHERE id = $1", webhook["id"])
    elif of_change:
        now: datetime = webhook["now"]
        since = series_begins(webhook["failing_since"], webhook["last_failure_at"], now)
        await rows(
            "UPDATE webhook SET failing_since = $2, last_failure_at = $3 WHERE id = $1",
            webhook["id"],
            since,
            now,
        )
        if is_given_up(since, now):
            await disable(webhook, "failing")


async def disable(webhook: Row, reason: str) -> None:
    """Send nothing more to a webhook; what is under way is kept as ``disabled``, to be replayed.

    Who can be told is told: the webhooks that ask for ``webhook.disabled`` by name.
    """
    await rows(
        """
        UPDATE webhook
        SET disabled_at = clock_timestamp(), disabled_reason = $2, updated_at = clock_timestamp()
        WHERE id = $1
        """,
        webhook["id"],
        reason,
    )
    await rows(
        """
        UPDATE webhook_delivery SET state = 'disabled', next_attempt_at = NULL
        WHERE webhook_id = $1 AND next_attempt_at IS NOT NULL
        """,
        webhook["id"],
    )
    log.warning("webhook_disabled", webhook=webhook["id"], reason=reason)
    event = await row("SELECT uuidv7() AS id, utc_text(clock_timestamp()) AS time")
    assert event is not None  # noqa: S101 (a row without FROM)
    await rows(
        """
        INSERT INTO webhook_delivery (webhook_id, event_id, type, payload, state, next_attempt_at)
        SELECT id, $1, $2, $3, 'pending', now() FROM webhook
        WHERE $2 = ANY (types) AND disabled_at IS NULL AND deleted_at IS NULL AND id <> $4
        """,
        event["id"],
        DISABLED,
        _announcement(event["id"], event["time"], webhook, reason),
        webhook["id"],
    )


def _origin(url: str) -> str:
    # The rest of an address often is what lets a sender in, and this goes to other subscribers.
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/"


def _announcement(event_id: UUID, time: str, webhook: Row, reason: str) -> str:
    return json.dumps(
        {
            "specversion": "1.0",
            "id": str(event_id),
            "source": "/webhooks",
            "type": DISABLED,
            "subject": str(webhook["id"]),
            "time": time,
            "datacontenttype": "application/json",
            "data": {"webhook": str(webhook["id"]), "url": _origin(webhook["url"]), "reason": reason},
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )
