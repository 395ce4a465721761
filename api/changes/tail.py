"""The tail of the change log: one reader for all streams and long polls of this process.

It polls PostgreSQL ten times a second while there are *followers* (streams and waiting requests), encodes
each change once, and keeps the latest ones in a ring buffer, *the ring*. A follower has a position and no
queue that could grow. Followers within the ring share the same chunks; one that is behind it reads PostgreSQL
in pages until it has caught up.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from contextvars import Context
from typing import TYPE_CHECKING, Any

import structlog

from api.changes.events import Entry, encode_event
from api.http.errors import TooManyStreamsError
from api.http.open_connections import most_connections
from api.http.request_metrics import process_gauge
from shared.change_log import CHANGE, Bounds, log_bounds
from shared.changes import Change
from shared.database.engine import DB, DatabaseUnavailableError
from shared.database.read_places import reading_at
from shared.database.standbys import STANDBYS
from shared.database.statements import read_row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from api.changes.queries import ChangeFilters

log = structlog.get_logger("order_change_tail")

POLL_SECONDS = 0.1
PAUSE_WHEN_UNAVAILABLE_SECONDS = 1.0
CHANGES_PER_POLL = 1_000

RING_CHANGES = 5_000
RING_BYTES = 8 * 1024 * 1024
CHUNK_BYTES = 256 * 1024
CHUNKS_KEPT = 32
"""Followers at different positions need different chunks: at most 8 MiB of them are kept."""

MAX_FOLLOWERS = 1_500
"""Followers of one process: fewer than the connections that it accepts, so orders can still be placed."""

# The changes from a position on, each with the names of its calendars and the log's bounds. At least one row.
_CHANGES_FROM = f"""
SELECT {CHANGE}, l.first_position AS first, l.last_position AS last,
    ARRAY(SELECT name FROM calendar WHERE id IN (c.calendar_id, c.previous_calendar_id)) AS calendars
FROM change_log AS l LEFT JOIN order_change AS c ON c.position >= $1 WHERE l.id = 1
ORDER BY position LIMIT $2
"""

_followers = process_gauge(
    "order_changes_followers",
    "Streams and waiting requests for order changes, in all processes of this server.",
)


class Tail:
    """The latest changes, and methods to wait for more."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start empty, in the event loop that runs the application from now on."""
        self.ended = False
        """The process is stopping: followers end their answers."""
        self.departures = 0
        """Incremented when all followers of that moment are asked to come back by another connection."""
        self.generation = 0
        """Incremented when the log was replaced (by a restored database): streams end, clients reconnect."""
        self.followers = 0
        _followers.set(0)
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self._polled = asyncio.Event()
        self._polls_begun = self._polls_done = 0
        self._clear()

    def _clear(self) -> None:
        self._ring: dict[int, Entry] = {}
        self._bytes = 0
        self._last: int | None = None
        self._chunks: dict[int, tuple[bytes, int]] = {}

    @property
    def last(self) -> int | None:
        """The position up to which the log was read; None before the first poll."""
        return self._last

    def covers(self, after: int) -> bool:
        """Return whether the ring has every change after a position, up to ``last``."""
        return self._last is not None and after >= self._last - len(self._ring)

    @contextmanager
    def follow(self) -> Iterator[None]:
        """Keep the tail polling while the block runs."""
        self.followers += 1
        _followers.inc()
        if self._task is None or self._task.done():
            self._clear()
            # In a context of its own: the place that a follower's request reads at is not the tail's.
            self._task = asyncio.get_running_loop().create_task(self._poll_until_unused(), context=Context())
        try:
            yield
        finally:
            self.followers -= 1
            _followers.dec()

    def check_capacity(self) -> None:
        """Check that one more follower is allowed.

        Raises:
            TooManyStreamsError: it is not.

        """
        # Some connections are always left for other requests, where only few files may be open.
        limit = min(MAX_FOLLOWERS, most_connections() // 2)
        if self.followers >= limit:
            raise TooManyStreamsError(limit, "streams and waiting requests")

    def end(self) -> None:
        """Tell all followers that the process is stopping."""
        self.ended = True
        self._polled.set()
        self._wake()

    def dismiss(self) -> None:
        """Ask the followers of this moment to end their answers; later ones are served until the end."""
        self.departures += 1
        self._wake_from_polls()
        self._wake()

    def is_over(self, departures: int) -> bool:
        """Return whether a follower has to end its answer.

        Args:
            departures: how many there had been when it began.

        """
        return self.ended or self.departures != departures

    def _wake_from_polls(self) -> None:
        polled, self._polled = self._polled, asyncio.Event()
        polled.set()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def wait_for_poll(self, departures: int) -> None:
        """Wait for a poll that begins after this call, and so notices whether the log was replaced.

        Before it, the ring may hold changes of a log that was replaced a moment ago.
        """
        begun = self._polls_begun
        while self._polls_done <= begun and not self.is_over(departures):
            await self._polled.wait()

    async def wait_beyond(self, after: int, seconds: float, departures: int) -> None:
        """Wait for changes after a position, for a reason to end or a replaced log, at most ``seconds``."""
        generation = self.generation
        deadline = time.monotonic() + seconds
        while (
            (self._last is None or self._last <= after)
            and not self.is_over(departures)
            and generation == self.generation
        ):
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._moved.wait()
            except TimeoutError:
                return

    def any_matches(self, filters: ChangeFilters, after: int) -> bool:
        """Return whether filters match any change in the ring after a position."""
        last = self._last or 0
        return any(self._ring[position].matches(filters) for position in range(after + 1, last + 1))

    def chunk(self, after: int) -> tuple[bytes, int]:
        """Return the events that follow a position in the ring, as one chunk, and the position of the last.

        The chunk is made once for all followers that get to that position at about the same time.
        """
        chunk = self._chunks.get(after)
        if chunk is None:
            events: list[bytes] = []
            size, position = 0, after
            while position + 1 in self._ring and size < CHUNK_BYTES:
                position += 1
                events.append(self._ring[position].event)
                size += len(events[-1])
            chunk = self._chunks[after] = b"".join(events), position
            if len(self._chunks) > CHUNKS_KEPT:
                self._chunks.pop(next(iter(self._chunks)))
        return chunk

    async def _poll_until_unused(self) -> None:
        is_unavailable = False
        while self.followers and not self.ended:
            pause = POLL_SECONDS
            try:
                if await self.poll_once() == CHANGES_PER_POLL:
                    pause = 0
                if is_unavailable:
                    log.info("database_available_again")
                is_unavailable = False
            except DatabaseUnavailableError as error:
                # Streams stay open meanwhile, and get what they missed when PostgreSQL is back.
                if not is_unavailable:
                    log.warning("database_unavailable", reason=str(error))
                is_unavailable, pause = True, PAUSE_WHEN_UNAVAILABLE_SECONDS
            except Exception as error:
                log.exception("tail_failed", exc_info=error)
                pause = PAUSE_WHEN_UNAVAILABLE_SECONDS
            await asyncio.sleep(pause)

    async def poll_once(self) -> int:
        """Read new changes of the log into the ring; return how many there were."""
        self._polls_begun += 1
        new = await self._poll()
        self._polls_done = self._polls_begun
        self._wake_from_polls()
        return new

    async def _poll(self) -> int:
        if self._last is None:
            self._last = (await log_bounds()).last
            self._wake()
        # Read from the last known change on, not after it: if it is no longer the same change, the log was
        # replaced.
        last = self._last
        with reading_at(STANDBYS.place):
            rows = await DB.fetch(_CHANGES_FROM, last, CHANGES_PER_POLL + 1)
        bounds = read_row(Bounds, rows[0])
        if STANDBYS.all and self._is_of_another_log(rows, bounds):  # or the standby is behind
            rows = await DB.fetch(_CHANGES_FROM, last, CHANGES_PER_POLL + 1)
            bounds = read_row(Bounds, rows[0])
        if self._is_of_another_log(rows, bounds):
            log.warning("log_replaced", known=last, latest=bounds.last)
            self._clear()
            self.generation += 1
            self._wake()
            return 0
        new = [row for row in rows if row["position"] is not None and row["position"] > last]
        for row in new:
            self._add(read_row(Change, row), frozenset(row["calendars"]))
        if new:
            self._chunks = {}
            self._wake()
        return len(new)

    def _is_of_another_log(self, rows: Sequence[Any], bounds: Bounds) -> bool:
        last = self._last or 0
        # If retention has deleted the last known change, it can no longer be compared.
        known = self._ring.get(last) if bounds.first <= last else None
        return bounds.last < last or (known is not None and rows[0]["event_id"] != known.event_id)

    def _add(self, change: Change, calendars: frozenset[str]) -> None:
        event = encode_event(change)
        entry = Entry(change.event_id, event, change.type, change.order_id, calendars, change.actor)
        self._ring[change.position] = entry
        self._bytes += len(entry.event)
        self._last = change.position
        while len(self._ring) > RING_CHANGES or self._bytes > RING_BYTES:
            oldest = next(iter(self._ring))
            self._bytes -= len(self._ring.pop(oldest).event)


TAIL = Tail()
"""This process's tail."""
