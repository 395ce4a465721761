"""Waiting for what others hold in PostgreSQL without keeping a connection meanwhile.

An import is one transaction: until it ends, whoever wants a place that it has taken, or to move an order on
one of its calendars, has to wait. Were they to wait inside PostgreSQL, each would hold a connection, and soon
nobody else would be served. So a statement of a request waits ``OMS_LOCK_WAIT`` at most; then its transaction
is rolled back, and after a pause all of it is tried again. Pure but for the clock.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

SHORTEST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0


async def patiently(work: Callable[[], Awaitable[T]], repeats: asyncio.Semaphore, seconds: float) -> T:
    """Run a piece of work again and again while a lock that it needs is held.

    Args:
        work: one statement, or one transaction, that can be begun anew when it was rolled back.
        repeats: who repeats does so one at a time: however many wait, they take no more than one place from
            those who come for something else. Once the lock is free, each needs only a moment.
        seconds: after which it gives up.

    Raises:
        asyncpg.LockNotAvailableError: the lock was held all the time.

    """
    give_up = time.monotonic() + seconds
    try:
        return await work()
    except asyncpg.LockNotAvailableError as error:
        held = error
    pause = SHORTEST_PAUSE_SECONDS
    while time.monotonic() + pause < give_up:
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        try:
            async with asyncio.timeout(give_up - time.monotonic()):
                await repeats.acquire()
        except TimeoutError:
            break
        try:
            return await work()
        except asyncpg.LockNotAvailableError as error:
            held = error
        finally:
            repeats.release()
    raise held
