"""Webhook deliveries: fan changes out to webhooks, and attempt what is due.

**Fan-out** is a consumer of changes like any other: each change becomes a delivery for every webhook that
asks for it, exactly once, behind a cursor. A webhook that is disabled gets its deliveries too, as
``disabled``: nothing that matched is ever without a row.

**Attempts**: one task at a time (`attempt_due`) takes on every webhook that has something due, many at once,
each by a child task of its own that sends one request after another. So a webhook that is slow, or dead,
holds up nobody else, and notifications begin their way in the order of their positions. A webhook is served
under a lease, renewed with each attempt: when a worker is killed half way, the lease ends and somebody
attempts again, with the same ``webhook-id``. At least once, never less.

**Order**: first attempts and replays arrive in the order of positions. What failed comes again later, when
newer changes may have arrived: a receiver that needs order compares the ``version`` of the order, or
``sequence``.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from uuid import UUID, uuid4

import structlog

from shared.change_log import CHANGE
from shared.changes import Change
from shared.database.engine import DatabaseUnavailableError
from shared.database.locks import ATTEMPTS_LOCK, only_one
from shared.database.rows import Row, row, rows
from shared.settings import settings
from worker.webhooks.client import Message, WebhookClient
from worker.webhooks.outcomes import Attempt, record_attempt

log = structlog.get_logger("worker")


TAKE_SECONDS = 15.0
"""How long a task takes on more; with what is then under way it ends well within a task's limit of 50 s."""

LEASE_MARGIN_SECONDS = 5.0
"""What a lease lasts longer than an attempt may."""

SLICE_ATTEMPTS = 100
SLICE_SECONDS = 5.0
"""After so much a webhook makes room, so that one with much to come keeps nobody waiting."""

LOOK_SECONDS = 0.05
"""Pause between two looks for webhooks that have something due."""


@dataclass(frozen=True)
class Lease:
    """The right to serve a webhook until it ends."""

    webhook_id: int
    token: UUID
    failing: bool
    """Whether all it has seen lately were failures."""


async def attempt_due(client: WebhookClient, take_seconds: float = TAKE_SECONDS) -> int:
    """Attempt what is due, until nothing is or the time is over; return how many attempts ended.

    One at a time takes on more, whoever calls it: a second call returns 0 at once. When its time is over it
    lets the next one begin, and only finishes what is under way, which a dead endpoint may draw out.
    """
    serving: dict[asyncio.Task[int], Lease] = {}
    attempted = 0
    until = time.monotonic() + take_seconds
    try:
        async with only_one(ATTEMPTS_LOCK) as alone:
            while alone and time.monotonic() < until:
                for lease in await _take(list(serving.values())):
                    # Never inside a transaction: a child task would inherit its connection.
                    serving[asyncio.create_task(_serve(lease, client, until))] = lease
                if not serving:
                    break
                attempted += await _ended(serving, LOOK_SECONDS)
        while serving:
            attempted += await _ended(serving, None)
    finally:
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
    return attempted


async def _ended(serving: dict[asyncio.Task[int], Lease], seconds: float | None) -> int:
    """Wait until somebody is served, or the time is over; return how many attempts that was."""
    ended, _ = await asyncio.wait(serving, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    return sum(_result_of(task, serving.pop(task)) for task in ended)


def _result_of(task: asyncio.Task[int], lease: Lease) -> int:
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, DatabaseUnavailableError):
        raise error
    # A fault of ours with one webhook is nobody else's: it rests until its lease ends.
    log.error("webhook_not_served", webhook=lease.webhook_id, exc_info=error)
    return 0


async def _take(served: list[Lease]) -> list[Lease]:
    """Take webhooks that have something due, who waited longest first, as many as there is room for.

    Those that fail get half of the room at most: dead endpoints, each of which takes the whole time limit,
    never keep one that works waiting.
    """
    at_once = settings().webhook_endpoints_at_once
    room = at_once - len(served)
    if room <= 0:
        return []
    token = uuid4()
    taken = await rows(
        """
        WITH due AS (
            SELECT w.id, w.failing_since, w.served_at FROM webhook AS w
            WHERE w.disabled_at IS NULL AND w.deleted_at IS NULL
                AND (w.leased_until IS NULL OR w.leased_until < now())
                AND EXISTS (
                    SELECT FROM webhook_delivery AS d WHERE d.webhook_id = w.id AND d.next_attempt_at <= now()
                )
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
        RETURNING w.id, w.failing_since IS NOT NULL AS failing
        """,
        token,
        _lease_seconds(),
        room,
        max(0, at_once // 2 - sum(lease.failing for lease in served)),
    )
    return [Lease(found["id"], token, found["failing"]) for found in taken]


def _lease_seconds() -> float:
    return settings().webhook_timeout + LEASE_MARGIN_SECONDS


async def _serve(lease: Lease, client: WebhookClient, until: float) -> int:
    """Attempt what is due for one webhook, one after another; return how many attempts ended."""
    until = min(until, time.monotonic() + SLICE_SECONDS)
    attempted = 0
    while (attempted == 0 or time.monotonic() < until) and attempted < SLICE_ATTEMPTS:
        attempt = await _next_attempt(lease)
        if attempt is None:
            break
        outcome = await client.attempt(attempt.message)
        await record_attempt(attempt, outcome)
        attempted += 1
    await rows(
        "UPDATE webhook SET lease = NULL, leased_until = NULL WHERE id = $1 AND lease = $2",
        lease.webhook_id,
        lease.token,
    )
    return attempted


async def _next_attempt(lease: Lease) -> Attempt | None:
    """Begin an attempt at what is to be sent next, by position; None if there is nothing, or no lease.

    That it began is stored before anything is sent, and the lease is renewed: what is killed from here on was
    an attempt. The webhook is read again for each, so a new URL, a rotated secret or an end counts at once.
    """
    found = await row(
        f"""
        WITH held AS (
            UPDATE webhook SET leased_until = now() + $3 * interval '1 second'
            WHERE id = $1 AND lease = $2 AND disabled_at IS NULL AND deleted_at IS NULL RETURNING id, url
        ), d AS (
            SELECT w.url, due.* FROM held AS w CROSS JOIN LATERAL (
                SELECT * FROM webhook_delivery AS due
                WHERE due.webhook_id = w.id AND due.next_attempt_at <= now()
                    -- Unless its change was forgotten a moment ago, and it will be.
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
            begun.id AS attempt, d.url, d.id, d.round, d.position, d.event_id, d.type, d.payload,
            d.order_id, c.order_version, c.time, c."order", c.previous,
            ARRAY(
                SELECT secret FROM webhook_secret AS s
                WHERE s.webhook_id = d.webhook_id AND (s.valid_until IS NULL OR s.valid_until > now())
                ORDER BY s.id DESC
            ) AS secrets
        FROM d CROSS JOIN begun
        LEFT JOIN LATERAL (SELECT {CHANGE} FROM order_change WHERE position = d.position) AS c ON true
        """,
        lease.webhook_id,
        lease.token,
        _lease_seconds(),
    )
    if found is None:
        return None
    body = found["payload"] or _change_of(found).notification()
    message = Message(found["url"], str(found["event_id"]), body, found["secrets"])
    return Attempt(found["attempt"], lease.webhook_id, found["id"], found["round"], message)


def _change_of(delivery: Row) -> Change:
    return Change(
        position=delivery["position"],
        event_id=delivery["event_id"],
        type=delivery["type"],
        order_id=delivery["order_id"],
        order_version=delivery["order_version"],
        time=delivery["time"],
        order=delivery["order"],
        previous=delivery["previous"],
    )
