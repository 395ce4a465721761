"""The advisory locks in PostgreSQL, all in one place, since no two may have the same number."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from shared.database.engine import DB, translate_connection_errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MIGRATOR_LOCK = 7_316_001
"""One migrator at a time: Piccolo takes none."""

CALENDAR_LOCK = 7_316_002
"""The first key of the locks that stand for calendars; the second is the calendar's id."""

RELAY_LOCK = 7_316_003
"""The session lock of the relay that is at work; others stand by for it."""

ATTEMPTS_LOCK = 7_316_004
"""The session lock of the task that takes on deliveries to webhooks."""

CATALOGUE_LOCK = 7_316_005
"""Whoever writes services."""

PROOF_LOCK = 7_316_006
"""The session lock of the proof that is under way."""


@asynccontextmanager
async def only_one(lock: int) -> AsyncIterator[bool]:
    """Hold a session lock while the block runs, if it is free; yield whether it was. Never waits for it.

    The lock ends with the process, also when it is killed.
    """
    # On a connection of its own: the lock lives as long as the connection.
    connection = await DB.connect()
    try:
        async with translate_connection_errors():
            alone: bool = await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock)
        yield alone
    finally:
        connection.terminate()
