"""What the commands of ``make verify`` share: connect, prove, and report what prevents a proof."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from shared.command_output import print_line
from shared.database.engine import DB, DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

FAILED = 2
"""The exit status if nothing was proved."""


def run_proof(prove: Callable[[], Awaitable[T]]) -> T | None:
    """Run a proof with a connection of its own; if it fails, print why and return None."""

    async def run() -> T:
        await DB.start(size=1)
        try:
            return await prove()
        finally:
            await DB.stop()

    try:
        return asyncio.run(run())
    except (DatabaseUnavailableError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        print_line(f"verify: the proof failed: {error}", level="error")
        return None
