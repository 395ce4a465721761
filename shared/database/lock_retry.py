"""Wait for a lock without holding a connection meanwhile.

An import is one transaction. Until it ends, a request that needs a time that the import has taken, or that
moves an order in one of its calendars, has to wait. If requests waited inside PostgreSQL, each would hold a
connection, and soon no other request could be served. So a statement of a request waits ``OMS_LOCK_WAIT`` at
most. Then its transaction is rolled back, and after a pause the whole transaction runs again.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from shared.database.database_wait import WaitingForDatabase

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")

LOCK_ERRORS = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
"""The transaction was rolled back and can run again.

Commands do not deadlock with each other (``docs/architecture.md``, lock order), but SQL by hand may take the
same locks in another order.
"""

SHORTEST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0


class LockWaiters:
    """The requests of a process that wait for locks: they retry one at a time, and there are never too many.

    However many wait, they take no more than one connection from requests that need no lock.
    """

    def __init__(self, most: int) -> None:
        """Let ``most`` requests wait: as many as can retry once before the first of them gives up."""
        self._most = most
        self._waiting = 0
        self._retrying = asyncio.Lock()

    @property
    def are_many(self) -> bool:
        """Whether at least half as many wait as may. Not all: some end while others begin."""
        return self._waiting >= self._most // 2

    @contextmanager
    def joined(self) -> Iterator[bool]:
        """Be one of them in the block, unless there are as many as there may be."""
        if self._waiting >= self._most:
            yield False
            return
        self._waiting += 1
        try:
            yield True
        finally:
            self._waiting -= 1

    async def turn(self, timeout_seconds: float) -> bool:
        """Wait for this request's turn to retry; return whether it came in time. Then ``end_turn`` is due."""
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._retrying.acquire()
        except TimeoutError:
            return False

    def end_turn(self) -> None:
        """Let the next request retry."""
        self._retrying.release()


async def retry_while_locked(
    work: Callable[[], Awaitable[T]],
    waiters: LockWaiters,
    deadline: float,
    first_error: asyncpg.PostgresError,
) -> T:
    """Run a statement or a transaction again, after its first run, as long as a lock that it needs is held.

    Args:
        work: one statement, or one transaction, that can start over after it was rolled back.
        waiters: all requests of the process that wait for locks.
        deadline: no retry starts later, by ``time.monotonic``.
        first_error: of the first run.

    Raises:
        asyncpg.PostgresError: one of ``LOCK_ERRORS``: the lock was still held at the deadline, or too many
            wait for locks already.

    """
    lock_error = first_error
    pause = SHORTEST_PAUSE_SECONDS
    with waiters.joined() as may_wait:
        while may_wait and time.monotonic() + pause < deadline:
            with WaitingForDatabase():
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                has_turn = await waiters.turn(deadline - time.monotonic())
            if not has_turn:
                break
            try:
                return await work()
            except LOCK_ERRORS as error:
                lock_error = error
            finally:
                waiters.end_turn()
    raise lock_error
