"""The advisory locks, all in one place: no two may have the same number."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from shared.database.engine import DB, translate_connection_errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MIGRATOR_LOCK = 7_316_001
"""Session lock: one migrator at a time. Piccolo takes no lock."""

CALENDAR_LOCK = 7_316_002
"""Transaction lock of a calendar: its first key. The second key is the calendar's id."""

RELAY_LOCK = 7_316_003
"""Session lock: one relay works, and the others wait until it ends."""

ATTEMPTS_LOCK = 7_316_004
"""Session lock: one task at a time begins webhook deliveries; others only finish what they began."""

CATALOGUE_LOCK = 7_316_005
"""Transaction lock: one writer of services at a time."""

PROOF_LOCK = 7_316_006
"""Session lock: one proof of the fee summaries at a time."""

IDEMPOTENCY_KEY_LOCK = 7_316_007
"""Transaction lock of an Idempotency-Key: its first key. The second is a hash of its names."""


SPACING_LOCK = 7_316_008
"""Transaction lock of a calendar's spacing: its first key. The second key is the calendar's id.

Triggers take it (``shared/database/schema.sql``): shared to place an order, exclusive to change the spacing.
``api/calendars/commands.py`` takes it too, before it locks the rows that the trigger then writes.
"""

REFERENCE_LOCK = 7_316_009
"""Transaction lock of references: its first key. The second key is below ``REFERENCE_BUCKETS``."""

REFERENCE_BUCKETS = 64
"""Few, so that an import of any number of references needs few locks."""

API_KEYS_LOCK = 7_316_010
"""Transaction lock of the number of API keys: one is made at a time."""


@asynccontextmanager
async def only_one(lock: int) -> AsyncIterator[bool]:
    """Take a session lock for the length of the block, if it is free; yield whether it was. It never waits.

    The lock ends with the process, also when the process is killed.
    """
    # On a connection of its own: the lock lives as long as the connection.
    connection = await DB.connect()
    try:
        async with translate_connection_errors():
            is_locked: bool = await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock)
        yield is_locked
    finally:
        connection.terminate()
