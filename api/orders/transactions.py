"""One transaction for a command, and the next attempt if it met a conflict that may be gone by then."""

from __future__ import annotations

from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import asyncpg

from api.orders.errors import CalendarChangedError, ContentionError
from shared.database.transaction import transaction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

CALENDAR_CHANGED = (CalendarChangedError, asyncpg.ForeignKeyViolationError)
"""A calendar was deleted while an order was being placed on it, or restored: the next attempt finds out.

The trigger ``orders_render`` reports the former as if ``orders.calendar_id`` were a foreign key.
"""

P = ParamSpec("P")
T = TypeVar("T")

ATTEMPTS = 5
"""How often a command is tried when a conflict has vanished before it could be read."""


def in_transaction(
    *retry_on: type[Exception],
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Coroutine[object, object, T]]]:
    """Make a coroutine function one transaction, which is run again when it raises one of ``retry_on``.

    So it is when a calendar of its orders was deleted or restored meanwhile.

    Any error rolls back all that the attempt wrote, also the key, the claimed id and the new calendar.

    Raises:
        ContentionError: every attempt raised one of them.

    """

    def decorate(command: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[object, object, T]]:
        @wraps(command)
        async def retrying(*args: P.args, **kwargs: P.kwargs) -> T:
            for _ in range(ATTEMPTS):
                with suppress(*retry_on, *CALENDAR_CHANGED):
                    async with transaction():
                        return await command(*args, **kwargs)
            raise ContentionError

        return retrying

    return decorate
