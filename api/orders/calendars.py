"""The calendars that orders are placed on: made on first use, and locked for moves and batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from api.orders.errors import CalendarNameTakenError, Namesake
from shared.database.locks import CALENDAR_LOCK
from shared.database.statements import execute, fetch_all

if TYPE_CHECKING:
    from collections.abc import Collection

# The id is random: a sequence never takes a number back, so refused batches and previews would use them up.
# Where the number is another calendar's already no row is inserted, and the caller tries again. Nor is one
# where another calendar's name differs only in case, which ``refuse_namesakes`` finds.
_INSERT_CALENDAR = """
INSERT INTO calendar (id, name)
SELECT 1 + floor(random() * 2147483647)::int, $1::text
WHERE NOT EXISTS (SELECT FROM calendar WHERE name = $1::text)
ON CONFLICT DO NOTHING
"""


_FIND_NAMESAKES = """
SELECT wanted.name, calendar.name AS existing
FROM unnest($1::text[]) AS wanted (name)
JOIN calendar ON lower(calendar.name COLLATE "C") = lower(wanted.name COLLATE "C")
WHERE NOT EXISTS (SELECT FROM calendar WHERE name = wanted.name)
ORDER BY wanted.name, calendar.name
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
    """Return the ids of calendars by name, making those that do not exist yet.

    Raises:
        CalendarNameTakenError: the names of new ones differ only in case from those of others.

    """
    ids: dict[str, int] = {}
    while len(ids) < len(names):
        # By key: two transactions that make names of the same keys could deadlock otherwise.
        for name in sorted(set(names) - set(ids), key=str.lower):
            await make_calendar(name)
        await refuse_namesakes(names)
        calendars = await fetch_all(
            _CalendarId, "SELECT name, id FROM calendar WHERE name = ANY($1::text[])", list(names)
        )
        ids = {calendar.name: calendar.id for calendar in calendars}
    return ids


async def refuse_namesakes(names: Collection[str]) -> None:
    """Refuse calendars that do not exist, where another's name differs only in case.

    Raises:
        CalendarNameTakenError: there is one.

    """
    namesakes = await fetch_all(Namesake, _FIND_NAMESAKES, list(names))
    if namesakes:
        raise CalendarNameTakenError(namesakes)


async def lock_calendars(ids: Collection[int]) -> None:
    """Lock calendars until the transaction ends, against all others that may move orders on them."""
    await execute(
        "SELECT pg_advisory_xact_lock($1, id) FROM unnest($2::int[]) AS id", CALENDAR_LOCK, sorted(ids)
    )
