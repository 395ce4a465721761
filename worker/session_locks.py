"""Locks that let one process at a time do something, and end with it, also when it is killed."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from shared.database.engine import DB, translate_connection_errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def only_one(lock: int) -> AsyncIterator[bool]:
    """Hold a lock, if nobody else does, and tell whether this is so; never wait for it."""
    # On a connection of its own: the lock lives as long as that does.
    connection = await DB.connect()
    try:
        async with translate_connection_errors():
            alone: bool = await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock)
        yield alone
    finally:
        connection.terminate()
