"""How long the wait for one of a few places would be: who can't start in time is refused at once."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

WINDOW_SECONDS = 2.0
"""How far back it counts how many places were freed. A short pause of the machine hardly changes that."""

FIRST_SECONDS = 1.0
"""So long nobody is refused when a line begins: a burst of requests is still being read, and the database's
connections may not be open yet."""


class TooLongError(Exception):
    """The wait would be longer than the caller can wait."""


class WaitingLine(Generic[T]):
    """Those who wait for one of ``places``, first come, first served, and how often one is freed for them."""

    def __init__(self, places: int, keep: Callable[[T], None]) -> None:
        """Call ``keep`` with what was handed to somebody who was cancelled at the same moment."""
        self._places = places
        self._keep = keep
        self._waiting: deque[asyncio.Future[T]] = deque()
        self._began_at = 0.0
        self._freed_at: deque[float] = deque()

    async def wait(self, longest: float) -> T:
        """Wait until something is handed over, and return it.

        Raises:
            TooLongError: those who wait already will need more than ``longest`` seconds.
            TimeoutError: it took longer.

        """
        now = time.monotonic()
        if not self._waiting:  # what was measured when the line was last full says nothing about now
            self._began_at = now
            self._freed_at.clear()
        elif self._expected_seconds(now) > longest:
            raise TooLongError
        loop = asyncio.get_running_loop()
        handed_over: asyncio.Future[T] = loop.create_future()
        # One timer and no task: at full load every request waits here.
        timer = loop.call_later(longest, _give_up, handed_over)
        self._waiting.append(handed_over)
        try:
            return await handed_over
        except BaseException:
            if handed_over in self._waiting:
                self._waiting.remove(handed_over)
            elif not handed_over.cancelled() and handed_over.exception() is None:
                self._keep(handed_over.result())  # cancelled just after it was handed over
            raise
        finally:
            timer.cancel()

    def hand_over(self, freed: T) -> bool:
        """Give what was freed to the first who waits; return whether somebody does."""
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():
                self._freed_at.append(time.monotonic())
                first.set_result(freed)
                return True
        return False

    def _expected_seconds(self, now: float) -> float:
        measured = min(now - self._began_at, WINDOW_SECONDS)
        if measured < FIRST_SECONDS:
            return 0.0
        while self._freed_at and self._freed_at[0] < now - measured:
            self._freed_at.popleft()
        # At least as if all places were freed now: how long those in use are still needed is unknown.
        freed = max(len(self._freed_at), self._places)
        return (len(self._waiting) + 1) * measured / freed


def _give_up(handed_over: asyncio.Future[T]) -> None:
    if not handed_over.done():
        handed_over.set_exception(TimeoutError())


class Slots:
    """A semaphore with a line in front of it."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._line: WaitingLine[None] = WaitingLine(places, self._keep)

    async def take(self, longest: float) -> None:
        """Take one of the slots; its ``release`` is then due.

        Raises:
            TooLongError: it would take, or took, longer than ``longest`` seconds to get one.

        """
        if self._free:
            self._free -= 1
            return
        try:
            await self._line.wait(longest)
        except TimeoutError:
            raise TooLongError from None

    def release(self) -> None:
        """Hand a slot that was taken to the first who waits, or keep it."""
        self._keep(None)

    def _keep(self, slot: None) -> None:
        if not self._line.hand_over(slot):
            self._free += 1
