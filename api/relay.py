"""The relay: change log → queue and Redis stream. ``python -m api.relay``; one at a time does the work.

Three numbers say everything, for each consumer: assigned ≥ published ≥ applied. The relay gives committed
changes their positions, publishes what is assigned, never more than a window ahead of what is applied, and
publishes again from the cursor when that stands still. Where it has published to is only remembered, not
stored: after a restart it begins at the cursor, and what arrives twice is dropped there.
"""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import astuple, dataclass, field

import asyncpg
import structlog
from kombu.exceptions import OperationalError

from api.change_retention import TRIM_AT_ONCE, trim_log
from api.key_retention import FORGET_AT_ONCE, forget_expired
from api.redis_stream import RedisStream
from api.webhooks.upkeep import FORGET_AT_ONCE as FORGET_DELIVERIES_AT_ONCE
from api.webhooks.upkeep import are_attempts_due, forget_old_deliveries
from shared.change_log import FEE_SUMMARIES, WEBHOOK_DELIVERIES, assign_positions, changes_after, cursor_of
from shared.changes import Batch, batch_of
from shared.database.engine import DB, DatabaseUnavailableError, translate_connection_errors
from shared.database.locks import ATTEMPTS_LOCK, RELAY_LOCK
from shared.database.rows import row
from shared.fee_summaries import check_time_zone
from shared.heartbeat import beat
from shared.logs import configure_logs
from shared.settings import settings
from shared.task_queue import (
    APPLY_TO_FEE_SUMMARIES,
    APPLY_TO_WEBHOOK_DELIVERIES,
    ATTEMPT_DUE_DELIVERIES,
    ATTEMPTS_QUEUE,
    CONSUMER_QUEUE,
    PROVE_FEE_SUMMARIES,
    send_unless_full,
)

log = structlog.get_logger("relay")


CONSUMERS = {
    FEE_SUMMARIES: APPLY_TO_FEE_SUMMARIES,
    WEBHOOK_DELIVERIES: APPLY_TO_WEBHOOK_DELIVERIES,
}
"""Each consumer's cursor, and the task that moves it."""

ASSIGN_AT_ONCE = 5_000

TIDYING_SECONDS = 60.0
"""Pause between two looks for what may be forgotten."""


@dataclass
class Publication:
    """How far changes were published to one consumer, as far as this process knows."""

    consumer: str
    task: str
    published: int = -1
    """-1: not known yet, begin at the cursor."""
    applied: int = -1
    still_since: float = field(default_factory=time.monotonic)
    """When the cursor last moved, or had nothing left to do (monotonic seconds)."""


class Relay:
    """Gives changes their positions and publishes them to every consumer."""

    def __init__(self) -> None:
        """Know nothing yet; the cursors say where to begin."""
        self._publications = [Publication(consumer, task) for consumer, task in CONSUMERS.items()]
        self._queue_is_away = False
        self._queue_is_full = False
        self._gave_up = False
        """Whether Redis failed in this round: one that hangs costs it one time limit, not several."""

    async def relay_once(self) -> int:
        """Assign and publish what there is, within the window; return how many changes were moved on.

        Raises:
            DatabaseUnavailableError: PostgreSQL is away. Redis being away is logged, and tried again later.

        """
        moved = await assign_positions(ASSIGN_AT_ONCE)
        self._gave_up = False
        for publication in self._publications:
            if not self._gave_up:
                moved += await self._publish_once(publication)
        if not self._gave_up:
            await self._ask_for_attempts()
        return moved

    async def ask_for_proof_once(self) -> bool:
        """Have the fee summaries proved if the last proof is a day old; tell whether it was asked for.

        What the worker did not do within an hour (it was stopped, or Redis lost it) is asked for again.
        """
        due = await row(
            """
            UPDATE fee_summary_proof SET asked_at = now()
            WHERE asked_at < now() - interval '1 hour'
                AND (finished_at IS NULL OR finished_at < now() - interval '1 day')
            RETURNING id
            """
        )
        return due is not None and await self._send(PROVE_FEE_SUMMARIES, (), most_waiting(), CONSUMER_QUEUE)

    async def _ask_for_attempts(self) -> None:
        """Wake the worker when deliveries to webhooks are due and nobody attends to them.

        When they are due stands in PostgreSQL alone; the message says only "look". So one that waits is
        enough, and one that is lost is sent again at the next look.
        """
        if await are_attempts_due(ATTEMPTS_LOCK):
            await self._send(ATTEMPT_DUE_DELIVERIES, (), 1, ATTEMPTS_QUEUE)

    async def _publish_once(self, publication: Publication) -> int:
        newest = await self._look_at_cursor(publication)
        published = 0
        # Most rounds find nothing new, and need not look for it.
        while (
            publication.published < newest
            and (room := settings().relay_window - (publication.published - publication.applied)) > 0
        ):
            changes = await changes_after(publication.published, min(settings().relay_batch, room))
            if not changes:
                break
            # Deliveries look their changes up in the log: Redis need not carry them twice.
            batch = batch_of(changes, carried=publication.consumer != WEBHOOK_DELIVERIES)
            if not await self._send_batch(publication.task, batch):
                break
            publication.published = changes[-1].position
            published += len(changes)
        return published

    async def _look_at_cursor(self, publication: Publication) -> int:
        """Note how far the consumer has got; return the last position that was given."""
        applied, newest = await cursor_of(publication.consumer)
        now = time.monotonic()
        if applied != publication.applied or publication.published <= applied:
            publication.still_since = now
        went_back = applied < publication.applied
        publication.applied = applied
        if publication.published < applied or went_back:
            # The first look, or another relay published meanwhile; or the database was restored or the
            # summaries rebuilt, and everything behind the cursor has to come again.
            publication.published = applied
        elif now - publication.still_since > settings().republish_after:
            log.warning(
                "publishing_again",
                consumer=publication.consumer,
                applied=applied,
                published=publication.published,
            )
            publication.published = applied
            publication.still_since = now
        return newest

    async def _send_batch(self, task: str, batch: Batch) -> bool:
        sent = await self._send(task, astuple(batch), most_waiting(), CONSUMER_QUEUE)
        if not sent and not self._queue_is_away and not self._queue_is_full:
            log.warning("queue_full", most_waiting=most_waiting())
        self._queue_is_full = not sent and not self._queue_is_away
        return sent

    async def _send(self, task: str, arguments: tuple[object, ...], most: int, queue: str) -> bool:
        try:
            # In a thread: publishing blocks, up to the socket's time limit when Redis hangs. Subscribers that
            # need no Redis must not notice, so positions are given meanwhile.
            sending = asyncio.ensure_future(asyncio.to_thread(send_unless_full, task, arguments, most, queue))
            while not (await asyncio.wait({sending}, timeout=settings().relay_interval))[0]:
                await assign_positions(ASSIGN_AT_ONCE)
            sent = sending.result()
        except (OperationalError, OSError) as error:
            if not self._queue_is_away:
                log.warning("queue_unavailable", reason=str(error))
            self._queue_is_away = self._gave_up = True
            return False
        if self._queue_is_away:
            log.info("queue_available_again")
        self._queue_is_away = False
        return sent


def most_waiting() -> int:
    """Give the messages that may wait in the queue: what all consumers' windows need, twice.

    The window alone would not bound the queue: while the worker is stopped, the cursors stand still, so each
    window is published again and again, also by every relay that takes over.
    """
    return 2 * len(CONSUMERS) * max(1, settings().relay_window // settings().relay_batch)


async def relay_until(stop: asyncio.Event) -> None:
    """Relay until told to stop: standing by while another relay is at work, trying again after faults.

    Raises:
        OtherTimeZoneError: the fee summaries count in days of another zone than OMS_TIME_ZONE.

    """
    zone_checked = False
    while not stop.is_set():
        beat()
        try:
            # Once, when PostgreSQL is first there: a zone that a rebuild takes over later is not ours to
            # refuse, and nothing is counted here.
            if not zone_checked:
                await check_time_zone()
                zone_checked = True
            await _relay_while_leading(stop)
        except (DatabaseUnavailableError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            log.warning("database_unavailable", reason=str(error) or type(error).__name__)
        await _pause(stop, 1)


async def _relay_while_leading(stop: asyncio.Event) -> None:
    # The lock lives as long as this connection. If the connection is lost while we work on, another relay
    # may begin: positions stay right (assigning has a lock of its own), and repeats are dropped.
    connection = await DB.connect()
    publishing: asyncio.Task[None] | None = None
    try:
        async with translate_connection_errors():
            if not await connection.fetchval(f"SELECT pg_try_advisory_lock({RELAY_LOCK})"):
                return
        log.info("leading")
        relay = Relay()
        tidied = 0.0
        # Beside the loop: a Redis that hangs delays the stream and nothing else.
        publishing = asyncio.create_task(RedisStream().publish_until(stop))
        while not stop.is_set() and not connection.is_closed():
            beat()
            if time.monotonic() - tidied > TIDYING_SECONDS and await _tidy_once():
                tidied = time.monotonic()
                await relay.ask_for_proof_once()
            if await relay.relay_once() == 0:
                await _pause(stop, settings().relay_interval)
    finally:
        if publishing is not None:
            # More than once: where the connection that it must give back is lost too, that error takes the
            # cancellation's place. It would go on for ever, and this relay would wait for it and not lead.
            while not publishing.done():
                publishing.cancel()
                await asyncio.wait({publishing}, timeout=1)
        connection.terminate()


async def _tidy_once() -> bool:
    """Forget what is old enough, some at a time; tell whether that was all of it."""
    keys, changes = await forget_expired(), await trim_log()
    # After the changes: a delivery is forgotten with the change that it carries.
    deliveries = await forget_old_deliveries()
    return keys < FORGET_AT_ONCE and changes < TRIM_AT_ONCE and deliveries < FORGET_DELIVERIES_AT_ONCE


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return


async def _main() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    configure_logs()
    log.info("started")
    # One for the loop and one for the Redis stream beside it.
    await DB.start(size=2)
    await relay_until(stop)
    await DB.stop()
    log.info("stopped")


if __name__ == "__main__":
    asyncio.run(_main())
