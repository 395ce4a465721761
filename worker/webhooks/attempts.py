"""Attempts: send the deliveries that are due, each until it is delivered or its retry schedule ends.

One task at a time (``attempt_due``) leases every webhook that has something due, many at once, each for a
child task of its own that sends one request after another. So a webhook that is slow, or does not answer,
delays no other, and notifications are first sent in the order of their positions. The lease is renewed with
each attempt: when a worker is killed, the lease ends and another task attempts the delivery again, with the
same ``webhook-id``. So a notification is sent at least once.

Deliveries are **due** if they are ``pending`` (never attempted since they were created or replayed) or
``retrying`` (an attempt failed), once their ``next_attempt_at`` has come. ``worker/webhooks/outcomes.py``
decides what a delivery becomes after an attempt, ``worker/webhooks/schedule.py`` when the next one is.

**Order**: first attempts and replays arrive in the order of positions. A retry comes later, perhaps after
newer changes: a receiver that needs order compares the ``version`` of the order, or ``sequence``.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from uuid import UUID, uuid4

import msgspec
import structlog

from shared.change_log import CHANGE
from shared.changes import Change
from shared.database.engine import DatabaseUnavailableError
from shared.database.locks import ATTEMPTS_LOCK, only_one
from shared.database.statements import execute, fetch_all, fetch_optional, read_row
from shared.secret_keys import UnreadableSecretError
from shared.settings import settings
from shared.webhooks import IS_DUE, secret_row
from worker.metrics import ATTEMPTS
from worker.webhooks.client import Message, Outcome, WebhookClient
from worker.webhooks.outcomes import Attempt, record_attempt
from worker.webhooks.traces import attempt_in_trace

log = structlog.get_logger("worker")


LEASING_SECONDS = 15.0
"""How long a task leases webhooks; it then finishes its running attempts, well within its limit of 50 s."""

LEASE_MARGIN_SECONDS = 5.0
"""How much longer a lease lasts than an attempt may."""

RECORDING_PAUSE_SECONDS = 0.2
"""Pause before the end of an attempt that could not be stored is stored again."""

SLICE_ATTEMPTS = 100
SLICE_SECONDS = 5.0
"""After so many attempts, or so long, a webhook is released, so that its backlog delays no other webhook."""

POLL_SECONDS = 0.05
"""Pause between two polls for webhooks that have something due."""

# Webhooks that have waited longest come first. Failing ones get $4 of the $3 leases at most. The condition on
# leased_until is repeated for the locked row, which may have been leased since this statement's snapshot.
_LEASE_WEBHOOKS = f"""
WITH due AS (
    SELECT w.id, w.failing_since, w.served_at FROM webhook AS w WHERE {IS_DUE}
), chosen AS (
    (SELECT id FROM due WHERE failing_since IS NULL ORDER BY served_at NULLS FIRST LIMIT $3)
    UNION ALL
    (SELECT id FROM due WHERE failing_since IS NOT NULL ORDER BY served_at NULLS FIRST LIMIT $4)
    LIMIT $3
), locked AS (
    SELECT id FROM webhook WHERE id IN (SELECT id FROM chosen)
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE webhook AS w SET lease = $1, leased_until = now() + $2 * interval '1 second', served_at = now()
FROM locked WHERE w.id = locked.id AND (w.leased_until IS NULL OR w.leased_until < now())
RETURNING w.id AS webhook_id, w.lease AS token, w.failing_since IS NOT NULL AS failing
"""

_RELEASE_WEBHOOK = "UPDATE webhook SET lease = NULL, leased_until = NULL WHERE id = $1 AND lease = $2"

_BEGIN_NEXT_ATTEMPT = f"""
WITH held AS (
    UPDATE webhook SET leased_until = now() + $3 * interval '1 second'
    WHERE id = $1 AND lease = $2 AND disabled_at IS NULL AND deleted_at IS NULL RETURNING id, url
), d AS (
    -- LATERAL with LIMIT 1: with 2,000 due, joining first made 31 deliveries a second instead of 295.
    SELECT w.url, due.* FROM held AS w CROSS JOIN LATERAL (
        SELECT * FROM webhook_delivery AS due
        WHERE due.webhook_id = w.id AND due.next_attempt_at <= now()
            -- Retention deletes a change before its deliveries: without the change there is nothing to send.
            AND (due.payload IS NOT NULL OR EXISTS (
                SELECT FROM order_change AS c WHERE c.position = due.position
            ))
        ORDER BY due.position NULLS FIRST, due.id LIMIT 1
    ) AS due
), begun AS (
    INSERT INTO webhook_attempt (delivery_id, started_at, answer)
    SELECT id, clock_timestamp(), '' FROM d RETURNING id
)
SELECT
    begun.id AS attempt_id, d.url, d.id AS delivery_id, d.round, d.position, d.event_id, d.type, d.payload,
    d.order_id, c.order_version, c.time, c."order", c.previous, c.actor, c.reason, c.cell, c.traceparent,
    valid.secret_ids, valid.secrets
FROM d CROSS JOIN begun
CROSS JOIN LATERAL (
    SELECT
        coalesce(array_agg(s.id ORDER BY s.id DESC), '{{}}') AS secret_ids,
        coalesce(array_agg(s.secret ORDER BY s.id DESC), '{{}}') AS secrets
    FROM webhook_secret AS s
    WHERE s.webhook_id = d.webhook_id AND (s.valid_until IS NULL OR s.valid_until > now())
) AS valid
LEFT JOIN LATERAL (SELECT {CHANGE}, traceparent FROM order_change WHERE position = d.position) AS c ON true
"""


@dataclass(frozen=True)
class Lease:
    """The right to send to a webhook, until the lease ends."""

    webhook_id: int
    token: UUID
    failing: bool
    """Whether its latest attempts all failed."""


class _BegunAttempt(msgspec.Struct, frozen=True):
    """An attempt that was just stored, with the delivery; the change's columns are null if it has none."""

    attempt_id: int
    url: str
    delivery_id: int
    round: int
    position: int | None
    event_id: UUID
    type: str
    payload: str | None
    """The notification; None if it is of a change, which is encoded for each attempt."""
    order_id: int | None
    order_version: int | None
    time: str | None
    order: str | None
    previous: str | None
    actor: str | None
    reason: str | None
    cell: str | None
    traceparent: str | None
    secret_ids: list[int]
    secrets: list[str]
    """As they are stored."""

    def notification(self) -> str:
        return self.payload or read_row(Change, msgspec.structs.asdict(self)).notification()


async def attempt_due(client: WebhookClient, leasing_seconds: float = LEASING_SECONDS) -> int:
    """Attempt what is due, until nothing is or the time has run out; return how many attempts ended.

    One call at a time leases webhooks: another one returns 0 at once. After ``leasing_seconds`` it lets the
    next call begin, and only finishes its running attempts, each of which may take an attempt's whole time
    limit.

    Raises:
        DatabaseUnavailableError: no more webhooks could be leased. The attempts under way have ended.

    """
    tasks: dict[asyncio.Task[int], Lease] = {}
    attempted = 0
    deadline = time.monotonic() + leasing_seconds
    unavailable = None
    try:
        try:
            async with only_one(ATTEMPTS_LOCK) as is_locked:
                while is_locked and time.monotonic() < deadline:
                    for lease in await _lease_webhooks(list(tasks.values())):
                        # Never inside a transaction: a child task would inherit its connection.
                        tasks[asyncio.create_task(_attempt_deliveries(lease, client, deadline))] = lease
                    if not tasks:
                        break
                    attempted += await _wait_for_tasks(tasks, POLL_SECONDS)
        except DatabaseUnavailableError as error:
            # Perhaps only for a moment: what is under way has been sent, and may still be recorded.
            unavailable = error
        while tasks:
            attempted += await _wait_for_tasks(tasks, None)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if unavailable is not None:
        raise unavailable
    return attempted


async def _wait_for_tasks(tasks: dict[asyncio.Task[int], Lease], seconds: float | None) -> int:
    """Wait until a task ends, or the time has run out; remove the ended tasks and return their attempts."""
    ended, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    return sum(_attempts_of(task, tasks.pop(task)) for task in ended)


def _attempts_of(task: asyncio.Task[int], lease: Lease) -> int:
    # Nothing that happens to one webhook may stop the others, neither a bug nor a lock on its rows: it is
    # skipped until its lease ends.
    if task.cancelled():
        log.error("webhook_not_served", webhook=lease.webhook_id, reason="cancelled")
        return 0
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, DatabaseUnavailableError):
        log.warning("webhook_not_served", webhook=lease.webhook_id, reason=str(error))
    else:
        log.error("webhook_not_served", webhook=lease.webhook_id, exc_info=error)
    return 0


async def _lease_webhooks(leases: list[Lease]) -> list[Lease]:
    """Lease webhooks that have something due, in addition to ``leases``, up to the limit of the settings.

    Failing ones get half of the leases at most: endpoints that do not answer, each of which takes the whole
    time limit of an attempt, never delay one that works.
    """
    at_once = settings().webhook_endpoints_at_once
    free = at_once - len(leases)
    if free <= 0:
        return []
    free_for_failing = max(0, at_once // 2 - sum(lease.failing for lease in leases))
    return await fetch_all(Lease, _LEASE_WEBHOOKS, uuid4(), _lease_seconds(), free, free_for_failing)


def _lease_seconds() -> float:
    return settings().webhook_timeout + LEASE_MARGIN_SECONDS


async def _attempt_deliveries(lease: Lease, client: WebhookClient, deadline: float) -> int:
    """Attempt what is due for one webhook, one after another; return how many attempts ended."""
    deadline = min(deadline, time.monotonic() + SLICE_SECONDS)
    attempted = 0
    while (attempted == 0 or time.monotonic() < deadline) and attempted < SLICE_ATTEMPTS:
        attempt = await _begin_next_attempt(lease)
        if attempt is None:
            break
        if attempt.obstacle is not None:
            outcome = Outcome(latency_ms=0, error=f"not sent: {attempt.obstacle}", was_possible=False)
            await _record_while_leased(attempt, outcome)
            # The lease is kept until it ends: the webhook's other deliveries have the same obstacle.
            log.error("webhook_not_served", webhook=lease.webhook_id, reason=attempt.obstacle)
            return attempted + 1
        outcome = await attempt_in_trace(client, attempt)
        ATTEMPTS.observe(outcome.latency_ms / 1000, outcome.kind)
        await _record_while_leased(attempt, outcome)
        attempted += 1
    await execute(_RELEASE_WEBHOOK, lease.webhook_id, lease.token)
    return attempted


async def _record_while_leased(attempt: Attempt, outcome: Outcome) -> None:
    """Store how an attempt ended, also if PostgreSQL is unavailable for a moment."""
    deadline = time.monotonic() + LEASE_MARGIN_SECONDS
    while True:
        try:
            await record_attempt(attempt, outcome)
        except DatabaseUnavailableError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(RECORDING_PAUSE_SECONDS)
        else:
            return


async def _begin_next_attempt(lease: Lease) -> Attempt | None:
    """Begin an attempt at the next due delivery, by position; None: nothing is due, or the lease is lost.

    The attempt is stored before anything is sent, and the lease is renewed: if the worker is killed from here
    on, the attempt is still recorded. The webhook is read again for each attempt, so a new URL, a rotated
    secret or its deletion takes effect at once.
    """
    begun = await fetch_optional(
        _BegunAttempt, _BEGIN_NEXT_ATTEMPT, lease.webhook_id, lease.token, _lease_seconds()
    )
    if begun is None:
        return None
    obstacle, secrets = None, []
    try:
        secrets = [
            settings().secret_keys.decrypt(secret, secret_row(lease.webhook_id, secret_id))
            for secret_id, secret in zip(begun.secret_ids, begun.secrets, strict=True)
        ]
    except UnreadableSecretError as error:
        # Without one of the signatures, a receiver that knows only this secret would refuse what is genuine.
        obstacle = f"a secret of the webhook can't be read: {error}"
    message = Message(begun.url, str(begun.event_id), begun.notification(), secrets, begun.traceparent)
    return Attempt(begun.attempt_id, lease.webhook_id, begun.delivery_id, begun.round, message, obstacle)
