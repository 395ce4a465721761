"""Running a command's work on the database: an event loop and one connection, for the length of the work."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from shared.database.engine import DB

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


def run_on_database(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine with one database connection, and return its result.

    Raises:
        DatabaseUnavailableError: there is no connection; and whatever ``work`` raises.

    """
    return asyncio.run(_connected(work))


async def _connected(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    await DB.start(size=1)
    try:
        return await work()
    finally:
        await DB.stop()
