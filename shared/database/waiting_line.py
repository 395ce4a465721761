"""How long the wait for one of a few places would be: who can't start in time is refused at once."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

LEAST_WEIGHT = 0.05
"""Of the newest interval between two freed places, in their moving average; the first ones weigh more."""

STALL_SECONDS = 1.0
"""If no place was freed for so long, that counts, however fast it went before."""


class TooLongError(Exception):
    """The wait would be longer than the caller can wait."""


class WaitingLine:
    """Counts who waits for one of ``places``, and how often one is freed while somebody waits."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._waiting = 0
        self._interval = 0.0
        self._freed = 0
        self._freed_at = 0.0

    @contextmanager
    def waiting(self, longest: float) -> Iterator[None]:
        """Wait in the block for a place.

        Raises:
            TooLongError: those who wait already will need more than ``longest`` seconds.

        """
        now = time.monotonic()
        if self._waiting == 0:  # what was measured when the line was last full says nothing about now
            self._interval, self._freed, self._freed_at = 0.0, 0, now
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
            now = time.monotonic()
            interval = now - self._freed_at
            self._freed += 1
            self._interval += (interval - self._interval) * max(LEAST_WEIGHT, 1 / self._freed)
            self._freed_at = now

    def _expected_seconds(self, now: float) -> float:
        stall = now - self._freed_at
        interval = max(self._interval, stall / self._places if stall > STALL_SECONDS else 0)
        return (self._waiting + 1) * interval


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
