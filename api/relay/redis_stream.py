"""The Redis stream ``order-changes``, for services that use the same Redis.

An entry's id is ``<position>-0`` and its one field, ``notification``, the change's notification. Where
the stream ends is read from Redis each time, never remembered. So after a wipe, a failover or a restore
from an old file, publishing continues from its actual end; publishing a change twice adds nothing.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from api.relay.metrics import FAILURES, STREAM_ENTRIES
from shared.change_log import changes_after, is_change_at, log_bounds
from shared.database.engine import DatabaseUnavailableError
from shared.redis_clients import async_client, close_client
from shared.redis_library import RedisError, ResponseError, WatchError
from shared.settings import settings

if TYPE_CHECKING:
    from shared.change_log import Bounds
    from shared.changes import Change
    from shared.redis_library import redis

log = structlog.get_logger("redis_stream")

STREAM = "order-changes"
FIELD = "notification"

BATCH = 500
"""Changes in one transaction of Redis."""

TIMEOUT_SECONDS = 1.0
"""How long Redis may take to answer. Nothing else waits for it: the stream has a task of its own."""

PAUSE_SECONDS = 0.1
"""Pause between two transactions, unless a whole batch waits: changes of this time share one."""

CHECK_SECONDS = 1.0
"""How long no position is assigned until the stream's end is read all the same: Redis may have lost it."""

PAUSE_WHEN_UNAVAILABLE_SECONDS = 1.0


# One command for all entries: with a command for each, the relay would spend most of its time on writing
# commands and reading replies.
_ADD_ENTRIES = """
for i = 3, #ARGV, 2 do
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], ARGV[i], ARGV[1], ARGV[i + 1])
end
"""


@dataclass(frozen=True)
class _StreamEnd:
    """Where the stream ends: the position of its last generated id, and the change in its last entry."""

    position: int
    event_id: str | None


class RedisStream:
    """Publishes changes to the stream."""

    def __init__(self) -> None:
        self._client = async_client(
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=None,
            health_check_interval=10,
        )
        self._is_unavailable = False

    async def close(self) -> None:
        """Close the connection."""
        await close_client(self._client)

    async def publish_until(self, stop: asyncio.Event, assigned: asyncio.Event) -> None:
        """Publish until ``stop`` is set, whatever happens to Redis or PostgreSQL.

        Args:
            stop: ends it, after a second at most.
            assigned: is set when the log has new positions; cleared here.

        """
        try:
            while not stop.is_set():
                has_all = False
                assigned.clear()
                try:
                    published = await self.publish_once()
                    has_all = published is not None and published < BATCH
                    pause = 0 if published == BATCH else PAUSE_SECONDS
                except DatabaseUnavailableError:
                    pause = PAUSE_WHEN_UNAVAILABLE_SECONDS  # the relay logs it
                except (RedisError, OSError) as error:
                    if not self._is_unavailable:
                        log.warning("redis_unavailable", reason=str(error) or type(error).__name__)
                    self._is_unavailable, pause = True, PAUSE_WHEN_UNAVAILABLE_SECONDS
                    FAILURES.add("stream", "unavailable")
                except Exception as error:
                    # Nothing waits for this task: if it ended, only the stream's readers would notice. What
                    # is no Redis may answer so that the client is confused.
                    if not self._is_unavailable:
                        log.exception("publishing_failed", exc_info=error)
                    self._is_unavailable, pause = True, PAUSE_WHEN_UNAVAILABLE_SECONDS
                    FAILURES.add("stream", "unavailable")
                else:
                    if self._is_unavailable:
                        log.info("redis_available_again")
                    self._is_unavailable = False
                await asyncio.sleep(pause)
                if has_all:
                    await _wait_for(assigned)
        finally:
            await self.close()

    async def publish_once(self) -> int | None:
        """Publish a batch of changes that the stream does not have yet; return how many.

        None: the stream or the log changed meanwhile, so nothing was published. Try again.

        Raises:
            RedisError: Redis is unavailable, full, or does not answer in time.
            DatabaseUnavailableError: PostgreSQL is unavailable.

        """
        async with self._client.pipeline(transaction=True) as pipeline:
            # WATCH: if anything writes to the stream or deletes it from here on, nothing is added. Otherwise
            # a deletion between the read and the write would leave a stream that begins in the middle.
            await pipeline.watch(STREAM)
            end = await _read_end(pipeline)
            bounds = await log_bounds()
            is_foreign = end is not None and not await _is_of_this_log(end, bounds)
            length = settings().redis_stream_length
            # Begin no further back than the stream's length or the log allows.
            begin = max(bounds.first - 1, bounds.last - length)
            if end and not is_foreign:
                begin = max(begin, end.position)
            if begin >= bounds.last and not is_foreign:
                return 0
            changes = await changes_after(begin, BATCH)
            is_trimmed = changes[0].position != begin + 1 if changes else not is_foreign
            if is_trimmed:
                return None
            pipeline.multi()
            if is_foreign:
                log.warning("foreign_stream_removed", stream_end=end, latest=bounds.last)
                pipeline.delete(STREAM)
            _add(pipeline, changes, length)
            try:
                await pipeline.execute()
            except WatchError:
                return None
            except ResponseError as error:
                if "equal or smaller" not in str(error):
                    raise
                return None  # another relay got there first: the entry exists
        STREAM_ENTRIES.add(amount=len(changes))
        return len(changes)


async def _wait_for(assigned: asyncio.Event) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(assigned.wait(), CHECK_SECONDS)


async def _read_end(pipeline: redis.asyncio.client.Pipeline) -> _StreamEnd | None:
    """Read where the stream ends; None if there is no stream."""
    # Between WATCH and MULTI, the pipeline runs each command immediately.
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
    # In a restored or replaced database positions start over, and the stream would refuse such ids.
    if end.event_id is None or end.position > bounds.last:
        return False
    if end.position < bounds.first:
        return True  # the log was trimmed: nothing left to compare it with
    if await is_change_at(end.position, end.event_id):
        return True
    # The log may have been trimmed between the two reads: then there is nothing left to compare it with.
    return end.position < (await log_bounds()).first


def _add(pipeline: redis.asyncio.client.Pipeline, changes: list[Change], length: int) -> None:
    entries = [(f"{change.position}-0", change.notification()) for change in changes]
    pipeline.eval(_ADD_ENTRIES, 1, STREAM, FIELD, length, *chain.from_iterable(entries))
