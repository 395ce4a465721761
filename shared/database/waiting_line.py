"""How long the wait for one of a few places would be: who can't start in time is refused at once."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

WINDOW_SECONDS = 2.0
"""How far back it counts how many places were freed. A short pause of the machine hardly changes that."""

FIRST_SECONDS = 1.0
"""So long nobody is refused when a line begins: a burst of requests is still being read, and the database's
connections may not be open yet."""


class TooLongError(Exception):
    """The wait would be longer than the caller can wait."""


class WaitingLine:
    """Counts who waits for one of ``places``, and how often one is freed while somebody waits."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._waiting = 0
        self._began_at = 0.0
        self._freed_at: deque[float] = deque()

    @contextmanager
    def waiting(self, longest: float) -> Iterator[None]:
        """Wait in the block for a place.

        Raises:
            TooLongError: those who wait already will need more than ``longest`` seconds.

        """
        now = time.monotonic()
        if self._waiting == 0:  # what was measured when the line was last full says nothing about now
            self._began_at = now
            self._freed_at.clear()
        elif self._expected_seconds(now) > longest:
            raise TooLongError
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    def free(self) -> None:
        """Note that a place was freed."""
        if self._waiting:
            self._freed_at.append(time.monotonic())

    def _expected_seconds(self, now: float) -> float:
        measured = min(now - self._began_at, WINDOW_SECONDS)
        if measured < FIRST_SECONDS:
            return 0.0
        while self._freed_at and self._freed_at[0] < now - measured:
            self._freed_at.popleft()
        # At least as if all places were freed now: how long those in use are still needed is unknown.
        freed = max(len(self._freed_at), self._places)
        return (self._waiting + 1) * measured / freed


class Slots:
    """A semaphore with a line in front of it."""

    def __init__(self, places: int) -> None:
        self._semaphore = asyncio.Semaphore(places)
        self._line = WaitingLine(places)

    @asynccontextmanager
    async def slot(self, longest: float) -> AsyncIterator[None]:
        """Hold one of the slots in the block.

        Raises:
            TooLongError: it would take, or took, longer than ``longest`` seconds to get one.

        """
        with self._line.waiting(longest):
            try:
                async with asyncio.timeout(longest):
                    await self._semaphore.acquire()
            except TimeoutError:
                raise TooLongError from None
        try:
            yield
        finally:
            self._semaphore.release()
            self._line.free()
