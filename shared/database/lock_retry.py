"""Wait for a lock without holding a connection meanwhile.

An import is one transaction. Until it ends, a request that needs a time that the import has taken, or that
moves an order in one of its calendars, has to wait. If requests waited inside PostgreSQL, each would hold a
connection, and soon no other request could be served. So a statement of a request waits ``OMS_LOCK_WAIT`` at
most. Then its transaction is rolled back, and after a pause the whole transaction runs again.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from shared.database.waiting_line import Slots, TooLongError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

SHORTEST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0


async def retry_while_locked(
    work: Callable[[], Awaitable[T]], retry_slot: Slots, timeout_seconds: float
) -> T:
    """Run a statement or a transaction, and run it again as long as a lock that it needs is held.

    Args:
        work: one statement, or one transaction, that can start over after it was rolled back.
        retry_slot: held during each retry, so that retries run one at a time: however many requests wait for
            a lock, they take no more than one connection from requests that need no lock.
        timeout_seconds: no retry starts later than this.

    Raises:
        asyncpg.LockNotAvailableError: the lock was still held when the time was over, or so many wait for
            locks that the next retry could not begin before.

    """
    deadline = time.monotonic() + timeout_seconds
    try:
        return await work()
    except asyncpg.LockNotAvailableError as error:
        lock_error = error
    pause = SHORTEST_PAUSE_SECONDS
    while time.monotonic() + pause < deadline:
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        try:
            async with retry_slot.slot(deadline - time.monotonic()):
                return await work()
        except asyncpg.LockNotAvailableError as error:
            lock_error = error
        except TooLongError:
            break
    raise lock_error
