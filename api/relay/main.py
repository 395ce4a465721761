"""The relay: ``python -m api.relay.main``. Only one works at a time; others wait to take over.

It assigns positions to committed changes, publishes them to the consumers and to the Redis stream, sends the
worker the tasks that are due, and deletes expired rows.
"""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import replace

import asyncpg
import structlog

from api.relay.leadership import STATEMENT_SECONDS, keep_leading, try_to_lead
from api.relay.metrics import DATABASE_FAILURES, LEADING, ROUNDS, assign_and_count
from api.relay.publisher import Publisher
from api.relay.redis_stream import RedisStream
from api.relay.retention import delete_expired_once
from api.relay.scheduler import Scheduler
from api.relay.sender import Sender
from api.relay.traces import RoundTraces
from shared.change_log import read_progress
from shared.database.engine import DB, DatabaseUnavailableError
from shared.database.stored_cell import check_cell
from shared.fee_summaries import check_time_zone
from shared.heartbeat import beat
from shared.logs import configure_logs
from shared.metrics.endpoint import serve_metrics
from shared.redis_cluster import check_no_cluster
from shared.settings import settings
from shared.tracing.spans import begin_tracing, check_tracing, end_tracing

log = structlog.get_logger("relay")

FIRST_PAUSE_SECONDS = 0.005
"""Pause after a round that had something to do: what is committed meanwhile shares the next round."""

PAUSE_GROWTH = 1.25
"""How many times as long each further pause is, up to OMS_RELAY_INTERVAL. So a change waits about a fifth of
the time since the one before it, at most."""

ATTEMPTS_SECONDS = 0.1
"""Pause between two checks whether deliveries to webhooks are due."""

RETENTION_SECONDS = 60.0
"""Pause between two deletions of expired rows, and between two checks whether a proof is due."""


class Relay:
    """Runs in rounds: assign positions, publish changes, send tasks that are due."""

    def __init__(self) -> None:
        """Start without knowing what was published: the first round reads the cursors."""
        self._sender = Sender()
        self._publisher = Publisher(self._sender)
        self._scheduler = Scheduler(self._sender)
        self._traces = RoundTraces()
        self._has_webhooks = True
        self._last_position = -1
        self.assigned = asyncio.Event()
        """Set when the log has new positions, which this relay or another assigned."""

    async def relay_once(self) -> int:
        """Assign positions and publish changes, within the window; return the sum of both.

        Raises:
            DatabaseUnavailableError: PostgreSQL is unavailable. Without Redis, the next round tries again.

        """
        began = time.time_ns()
        progress = await read_progress()
        before = progress.last_position
        self._has_webhooks = progress.has_webhooks
        assigned = await assign_and_count() if progress.is_waiting else 0
        # Positions have no gap, so the log now ends there, or later.
        progress = replace(progress, last_position=progress.last_position + assigned)
        if progress.last_position != self._last_position:
            self._last_position = progress.last_position
            self.assigned.set()
        self._sender.begin_round()
        published = await self._publisher.publish_once(progress)
        await self._traces.record_once(began, before, progress.last_position)
        return assigned + published

    async def request_attempts_once(self) -> bool:
        """Request attempts if deliveries to webhooks are due; return whether the request was sent."""
        return self._has_webhooks and await self._scheduler.request_attempts_once()

    async def request_proof_once(self) -> bool:
        """Request a proof of the fee summaries if one is due; return whether it was requested."""
        return await self._scheduler.request_proof_once()


async def relay_until(stop: asyncio.Event) -> None:
    """Relay until ``stop`` is set: wait while another relay works, and start over after errors.

    Raises:
        OtherTimeZoneError: the fee summaries count days in another zone than OMS_TIME_ZONE.
        OtherCellError: the database is of another cell than OMS_CELL.

    """
    zone_checked = False
    while not stop.is_set():
        beat()
        try:
            # Checked once, when PostgreSQL is first available: the relay counts no days, so a zone that a
            # rebuild adopts later does not matter to it.
            if not zone_checked:
                await check_time_zone()
                await check_cell()
                zone_checked = True
            await _relay_while_leading(stop)
        except (DatabaseUnavailableError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            log.warning("database_unavailable", reason=str(error) or type(error).__name__)
            DATABASE_FAILURES.add()
        await _pause(stop, 1)


async def _relay_while_leading(stop: asyncio.Event) -> None:
    # The lock lives as long as this session. If the session is lost while this relay still works, another may
    # begin: positions stay right (assigning has a lock of its own), and consumers drop repeats. That it works
    # is recorded in this session, so a session whose server is gone or became read-only is noticed.
    connection = await DB.connect()
    tasks: list[asyncio.Task[None]] = []
    ended = asyncio.Event()
    try:
        while not await try_to_lead(connection):
            beat()
            await _pause(stop, STATEMENT_SECONDS)
            if stop.is_set():
                return
        log.info("leading")
        LEADING.set(1)
        relay = Relay()
        deleted_at = attempts_at = 0.0
        pause = FIRST_PAUSE_SECONDS
        leading = asyncio.create_task(keep_leading(connection))
        # In a task of its own: if Redis hangs, only the stream is delayed.
        publishing = asyncio.create_task(RedisStream().publish_until(ended, relay.assigned))
        tasks = [leading, publishing]
        while not stop.is_set() and not connection.is_closed() and not leading.done():
            beat()
            if time.monotonic() - deleted_at > RETENTION_SECONDS and await delete_expired_once():
                deleted_at = time.monotonic()
                await relay.request_proof_once()
            began = time.perf_counter()
            relayed = await relay.relay_once()
            ROUNDS.observe(time.perf_counter() - began)
            if time.monotonic() - attempts_at > ATTEMPTS_SECONDS:
                await relay.request_attempts_once()
                attempts_at = time.monotonic()
            pause = FIRST_PAUSE_SECONDS if relayed else pause * PAUSE_GROWTH
            pause = min(pause, settings().relay_interval)
            await _pause(stop, pause)
        if leading.done():
            leading.result()  # raises why the session has ended
    finally:
        LEADING.set(0)
        # Both: if cleaning up fails, that error replaces the cancellation, and the task would continue.
        ended.set()
        for task in tasks:
            task.cancel()
        connection.terminate()
        await asyncio.gather(*tasks, return_exceptions=True)


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
    check_tracing()
    begin_tracing("relay")
    await check_no_cluster()
    serve_metrics()
    log.info("started")
    # One connection for the loop and one for the Redis stream's task.
    await DB.start(size=2, positioning=True)
    try:
        await relay_until(stop)
    finally:
        await asyncio.to_thread(end_tracing)
    await DB.stop()
    log.info("stopped")


if __name__ == "__main__":
    asyncio.run(_main())
