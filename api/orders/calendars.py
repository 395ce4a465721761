"""The calendars that orders are placed on: made on first use, and locked for moves and batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shared.database.locks import CALENDAR_LOCK
from shared.database.statements import execute, fetch_all

if TYPE_CHECKING:
    from collections.abc import Collection

# The id is random: a sequence never takes a number back, so refused batches and previews would use them up.
# Where the number is another calendar's already no row is inserted, and the caller tries again.
_INSERT_CALENDAR = """
INSERT INTO calendar (id, name)
SELECT 1 + floor(random() * 2147483647)::int, $1::text
WHERE NOT EXISTS (SELECT FROM calendar WHERE name = $1::text)
ON CONFLICT DO NOTHING
"""


class _CalendarId(msgspec.Struct, frozen=True):
    name: str
    id: int


async def make_calendar(name: str) -> bool:
    """Make a calendar if there is none of that name; return whether this transaction made it.

    If another transaction is making it right now, this waits for that one to end.
    """
    return await execute(_INSERT_CALENDAR, name) == 1


async def calendar_ids(names: Collection[str]) -> dict[str, int]:
    """Return the ids of calendars by name, making those that do not exist yet."""
    ids: dict[str, int] = {}
    while len(ids) < len(names):
        for name in sorted(set(names) - set(ids)):
            await make_calendar(name)
        calendars = await fetch_all(
            _CalendarId, "SELECT name, id FROM calendar WHERE name = ANY($1::text[])", list(names)
        )
        ids = {calendar.name: calendar.id for calendar in calendars}
    return ids


async def lock_calendars(ids: Collection[int]) -> None:
    """Lock calendars until the transaction ends, against all others that may move orders on them."""
    await execute(
        "SELECT pg_advisory_xact_lock($1, id) FROM unnest($2::int[]) AS id", CALENDAR_LOCK, sorted(ids)
    )
