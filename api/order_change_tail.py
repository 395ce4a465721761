"""The tail of the change log: one reader for all streams and long polls of this process.

It looks at PostgreSQL ten times a second while anybody follows, encodes each change once, and keeps the
latest in a ring. A follower is nothing but a position: in the ring it is given what everybody is given;
behind it, it reads PostgreSQL in pages until it has caught up. So no follower has a queue that could grow.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from api.order_change_queries import log_bounds
from shared.change_log import CHANGE
from shared.changes import Change
from shared.database.engine import DatabaseUnavailableError
from shared.database.rows import Row, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from api.order_change_queries import ChangeFilters

log = structlog.get_logger("order_change_tail")

LOOK_EVERY_SECONDS = 0.1
PAUSE_WHEN_AWAY_SECONDS = 1.0
CHANGES_AT_ONCE = 1_000

RING_CHANGES = 5_000
RING_BYTES = 8 * 1024 * 1024
CHUNK_BYTES = 256 * 1024
CHUNKS_KEPT = 32
"""Followers that are not at the same position need chunks of their own: 8 MiB of them are kept."""


def encode_event(change: Change) -> bytes:
    """Encode a change as an event of a stream. A notification has no line breaks, so it is one data line."""
    notification = change.notification()
    return f"id: {change.position}\nevent: {change.type}\ndata: {notification}\n\n".encode()


@dataclass(frozen=True)
class Entry:
    """A change in the ring: its event, and what filters look at."""

    event_id: object
    event: bytes
    type: str
    order_id: int
    calendars: frozenset[str]

    def fits(self, filters: ChangeFilters) -> bool:
        """Tell whether filters let it through, as the database would."""
        return (
            filters.order in (None, self.order_id)
            and filters.type in (None, self.type)
            and (filters.calendar is None or filters.calendar in self.calendars)
        )


class Tail:
    """The latest changes, and a way to wait for more."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin, in the event loop that runs the application from now on."""
        self.ended = False
        """The process is stopping: whoever follows says goodbye."""
        self.generation = 0
        """Grows when the log turns out to be another one (a restored database): streams begin again."""
        self.followers = 0
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self._looked = asyncio.Event()
        self._looks_begun = self._looks_done = 0
        self._forget()

    def _forget(self) -> None:
        self._ring: dict[int, Entry] = {}
        self._bytes = 0
        self._last: int | None = None
        self._chunks: dict[int, tuple[bytes, int]] = {}

    @property
    def last(self) -> int | None:
        """The position up to which the log was looked at; None before the first look."""
        return self._last

    def reaches(self, after: int) -> bool:
        """Tell whether the ring has everything after a position, as far as that was looked at."""
        return self._last is not None and after >= self._last - len(self._ring)

    @contextmanager
    def follow(self) -> Iterator[None]:
        """Keep the tail at work while somebody follows."""
        self.followers += 1
        if self._task is None or self._task.done():
            self._forget()
            self._task = asyncio.create_task(self._look_on_and_on())
        try:
            yield
        finally:
            self.followers -= 1

    def end(self) -> None:
        """Tell everybody who follows that the process is stopping."""
        self.ended = True
        self._looked.set()
        self._wake()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def wait_for_a_look(self) -> None:
        """Wait for a look at the log that begins after this call: it sees whether that is the same log still.

        What is in the ring may be of a log that was replaced a moment ago.
        """
        begun = self._looks_begun
        while self._looks_done <= begun and not self.ended:
            await self._looked.wait()

    async def wait_beyond(self, after: int, seconds: float) -> None:
        """Wait until there is something after a position, the tail ends or begins again, or time is up."""
        generation = self.generation
        give_up = time.monotonic() + seconds
        while (
            (self._last is None or self._last <= after) and not self.ended and generation == self.generation
        ):
            try:
                async with asyncio.timeout(give_up - time.monotonic()):
                    await self._moved.wait()
            except TimeoutError:
                return

    def any_fits(self, filters: ChangeFilters, after: int) -> bool:
        """Tell whether something after a position, in the ring, is let through by filters."""
        last = self._last or 0
        return any(self._ring[position].fits(filters) for position in range(after + 1, last + 1))

    def chunk(self, after: int) -> tuple[bytes, int]:
        """Give the events that follow a position in the ring, as one chunk, and the position it leads to.

        The chunk is made once for all who come to that position at about the same time.
        """
        found = self._chunks.get(after)
        if found is None:
            events: list[bytes] = []
            size, position = 0, after
            while position + 1 in self._ring and size < CHUNK_BYTES:
                position += 1
                events.append(self._ring[position].event)
                size += len(events[-1])
            found = self._chunks[after] = b"".join(events), position
            if len(self._chunks) > CHUNKS_KEPT:
                self._chunks.pop(next(iter(self._chunks)))
        return found

    async def _look_on_and_on(self) -> None:
        is_away = False
        while self.followers and not self.ended:
            pause = LOOK_EVERY_SECONDS
            try:
                if await self.look_once() == CHANGES_AT_ONCE:
                    pause = 0
                if is_away:
                    log.info("database_available_again")
                is_away = False
            except DatabaseUnavailableError as error:
                # Streams stay open meanwhile; what they missed comes when PostgreSQL is back.
                if not is_away:
                    log.warning("database_unavailable", reason=str(error))
                is_away, pause = True, PAUSE_WHEN_AWAY_SECONDS
            except Exception as error:
                log.exception("tail_failed", exc_info=error)
                pause = PAUSE_WHEN_AWAY_SECONDS
            await asyncio.sleep(pause)

    async def look_once(self) -> int:
        """Take what is new in the log into the ring; return how many changes that were."""
        self._looks_begun += 1
        found = await self._look()
        self._looks_done = self._looks_begun
        looked, self._looked = self._looked, asyncio.Event()
        looked.set()
        return found

    async def _look(self) -> int:
        if self._last is None:
            self._last = (await log_bounds()).last
            self._wake()
        # From the last one on and not after it: if that is not the very change it was, the log is another.
        last, known = self._last, self._ring.get(self._last)
        found = await rows(
            f"""
            SELECT {CHANGE}, l.first_position AS log_first, l.last_position AS log_last,
                ARRAY(
                    SELECT name FROM calendar WHERE id IN (c.calendar_id, c.previous_calendar_id)
                ) AS calendars
            FROM change_log AS l LEFT JOIN order_change AS c ON c.position >= $1 WHERE l.id = 1
            ORDER BY position LIMIT $2
            """,
            last,
            CHANGES_AT_ONCE + 1,
        )
        log_last = found[0]["log_last"] if found else 0
        # What was forgotten since can't be compared any more.
        comparable = known if found and found[0]["log_first"] <= last else None
        if log_last < last or (comparable and found[0]["event_id"] != comparable.event_id):
            log.warning("log_replaced", known=last, found=log_last)
            self._forget()
            self.generation += 1
            self._wake()
            return 0
        new = [one for one in found if one["position"] is not None and one["position"] > last]
        for one in new:
            self._add(dict(one))
        if new:
            self._chunks = {}
            self._wake()
        return len(new)

    def _add(self, found: Row) -> None:
        calendars: list[str] = found.pop("calendars")
        del found["log_first"], found["log_last"]
        change = Change(**found)
        entry = Entry(
            change.event_id,
            encode_event(change),
            change.type,
            change.order_id,
            frozenset(calendars),
        )
        self._ring[change.position] = entry
        self._bytes += len(entry.event)
        self._last = change.position
        while len(self._ring) > RING_CHANGES or self._bytes > RING_BYTES:
            oldest = next(iter(self._ring))
            self._bytes -= len(self._ring.pop(oldest).event)


TAIL = Tail()
"""This process's tail."""
