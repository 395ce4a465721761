"""The Redis stream ``order-changes``, for services that live next to Redis.

An entry's id is ``<position>-0`` and its one field, ``notification``, the change's notification. What the
stream holds is asked from Redis each time and never remembered: after a wipe, a failover or a restore from
an old file it is filled again from where it then stands, and publishing twice changes nothing.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import redis.asyncio as redis_client
import structlog
from redis.exceptions import RedisError, ResponseError, WatchError

from shared.change_log import changes_after, is_change_at, log_bounds
from shared.database.engine import DatabaseUnavailableError
from shared.settings import settings

if TYPE_CHECKING:
    from redis.asyncio.client import Pipeline

    from shared.change_log import Bounds
    from shared.changes import Change

log = structlog.get_logger("redis_stream")

STREAM = "order-changes"
FIELD = "notification"

BATCH = 500
"""Changes in one transaction of Redis."""

TIMEOUT_SECONDS = 1.0
"""How long Redis may take to answer. Nothing else waits meanwhile: the stream has a task of its own."""

PAUSE_WHEN_AWAY_SECONDS = 1.0


@dataclass(frozen=True)
class _StreamEnd:
    """Where the stream ends: its greatest id ever, and the change that is its last entry."""

    position: int
    event_id: str | None


class RedisStream:
    """Publishes changes to the stream."""

    def __init__(self) -> None:
        self._client = redis_client.from_url(
            settings().redis_url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=None,
            health_check_interval=10,
        )
        self._is_away = False

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    async def publish_until(self, stop: asyncio.Event) -> None:
        """Publish until told to stop, through whatever happens to Redis or PostgreSQL."""
        try:
            while not stop.is_set():
                pause = settings().relay_interval
                try:
                    if await self.publish_once() == BATCH:
                        pause = 0
                except DatabaseUnavailableError:
                    pause = PAUSE_WHEN_AWAY_SECONDS  # the relay says so in the log
                except (RedisError, OSError) as error:
                    if not self._is_away:
                        log.warning("redis_unavailable", reason=str(error) or type(error).__name__)
                    self._is_away, pause = True, PAUSE_WHEN_AWAY_SECONDS
                except Exception as error:
                    # Nobody waits for this task: ended, it would be missed by the stream's readers alone.
                    log.exception("publishing_failed", exc_info=error)
                    pause = PAUSE_WHEN_AWAY_SECONDS
                else:
                    if self._is_away:
                        log.info("redis_available_again")
                    self._is_away = False
                await asyncio.sleep(pause)
        finally:
            await self.close()

    async def publish_once(self) -> int:
        """Publish a batch of what the stream has not yet; return how many changes that were.

        Raises:
            RedisError: Redis is away, full, or does not answer in time.
            DatabaseUnavailableError: PostgreSQL is away.

        """
        async with self._client.pipeline(transaction=True) as pipeline:
            # Watched: if anything writes to the stream or wipes it from here on, nothing is added. Otherwise
            # a wipe between asking and adding would leave a stream that begins in the middle.
            await pipeline.watch(STREAM)
            end = await _read_end(pipeline)
            bounds = await log_bounds()
            is_foreign = end is not None and not await _is_of_this_log(end, bounds)
            length = settings().redis_stream_length
            # No further back than the stream may hold, nor than the log does.
            begin = max(bounds.first - 1, bounds.last - length)
            if end and not is_foreign:
                begin = max(begin, end.position)
            if begin >= bounds.last and not is_foreign:
                return 0
            changes = await changes_after(begin, BATCH)
            if changes and changes[0].position != begin + 1:
                return 0  # trimmed in between: look again
            if not changes and not is_foreign:
                return 0
            pipeline.multi()
            if is_foreign:
                log.warning("foreign_stream_removed", stream_end=end, latest=bounds.last)
                pipeline.delete(STREAM)
            _add(pipeline, changes, length)
            try:
                await pipeline.execute()
            except WatchError:
                return 0
            except ResponseError as error:
                if "equal or smaller" not in str(error):
                    raise
                return 0  # another relay was faster: the entry is there
        return len(changes)


async def _read_end(pipeline: Pipeline) -> _StreamEnd | None:
    """Read where the stream ends; None if there is no stream."""
    # In this mode, between WATCH and MULTI, commands are run at once.
    kind = await pipeline.type(STREAM)
    if kind in (b"none", "none"):
        return None
    if kind not in (b"stream", "stream"):
        return _StreamEnd(0, None)
    info: dict[Any, Any] = await pipeline.xinfo_stream(STREAM)
    position = int(_text(info["last-generated-id"]).partition("-")[0])
    entry = info.get("last-entry")
    event_id = None
    if entry:
        fields = {_text(name): _text(value) for name, value in entry[1].items()}
        try:
            event_id = str(UUID(str(json.loads(fields[FIELD])["id"])))
        except (ValueError, KeyError, TypeError, RecursionError):
            log.warning("foreign_entry", entry=_text(entry[0]))
    return _StreamEnd(position, event_id)


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


async def _is_of_this_log(end: _StreamEnd, bounds: Bounds) -> bool:
    # Positions begin again in a database that was restored or replaced, and the stream would refuse them.
    if end.event_id is None or end.position > bounds.last:
        return False
    if end.position < bounds.first:
        return True  # trimmed since: nothing left to compare it with
    if await is_change_at(end.position, end.event_id):
        return True
    # Or trimmed between the two looks: what is no longer retained is no reason to delete anything.
    return end.position < (await log_bounds()).first


def _add(pipeline: Pipeline, changes: list[Change], length: int) -> None:
    for change in changes:
        pipeline.xadd(
            STREAM,
            {FIELD: change.notification()},
            id=f"{change.position}-0",
            maxlen=length,
            approximate=True,
        )
