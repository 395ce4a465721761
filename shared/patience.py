"""Waiting for what others hold in PostgreSQL without keeping a connection meanwhile.

An import is one transaction: until it ends, whoever wants a place that it has taken, or to move an order on
one of its calendars, has to wait. Were they to wait inside PostgreSQL, each would hold a connection, and soon
nobody else would be served. So a statement of a request waits ``OMS_LOCK_WAIT`` at most; then its transaction
is rolled back, and after a pause all of it is tried again.
"""

from __future__ import annotations

import asyncio
import time
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import asyncpg

from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

P = ParamSpec("P")
T = TypeVar("T")

SHORTEST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0


class HeldUpError(Exception):
    """Others held for ``OMS_STATEMENT_TIMEOUT`` what this needed. Nothing is stored; try again later."""


async def patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Run a piece of work again and again while a lock that it needs is held.

    Args:
        work: one statement, or one transaction, that can be begun anew when it was rolled back.

    Raises:
        HeldUpError: the lock was held all the time.

    """
    give_up = time.monotonic() + settings().statement_timeout
    pause = SHORTEST_PAUSE_SECONDS
    while True:
        try:
            return await work()
        except asyncpg.LockNotAvailableError as error:
            if time.monotonic() + pause > give_up:
                raise HeldUpError(str(error)) from error
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def patient(command: Callable[P, Coroutine[object, object, T]]) -> Callable[P, Coroutine[object, object, T]]:
    """Let a command, which is one transaction, be tried again while a lock that it needs is held."""

    @wraps(command)
    async def tried_again(*args: P.args, **kwargs: P.kwargs) -> T:
        return await patiently(lambda: command(*args, **kwargs))

    return tried_again
