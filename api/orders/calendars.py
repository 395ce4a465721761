"""The calendars that orders are placed on: made on first use, and locked for moves and batches.

A calendar that was deleted keeps its row and id. An order that names it restores it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import msgspec

from api.orders.errors import (
    CalendarChangedError,
    CalendarNameTakenError,
    CalendarNotInCellError,
    Namesake,
)
from shared.database.locks import CALENDAR_LOCK
from shared.database.statements import execute, fetch_all, fetch_one
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Collection

# Restores the calendar, or inserts one.
#
# The id is random: a sequence never takes a number back, so refused batches and previews would use them up.
# Where the number is another calendar's already no row is inserted, and the caller tries again. Nor is one
# made where another calendar's name differs only in case, which ``refuse_namesakes`` finds.
#
# A calendar that another transaction has just restored is not restored again, but PostgreSQL locked its row
# to find that out. ``was_deleted`` tells it from one that was there before.
_MAKE_CALENDAR = """
WITH namesake AS (
    SELECT FROM calendar
    WHERE lower(name COLLATE "C") = lower($1::text COLLATE "C") AND name <> $1::text AND deleted_at IS NULL
), restored AS (
    UPDATE calendar SET deleted_at = NULL, created_at = now(), is_case_variant = false
    WHERE name = $1::text AND deleted_at IS NOT NULL AND NOT EXISTS (SELECT FROM namesake)
    RETURNING id
), inserted AS (
    INSERT INTO calendar (id, name)
    SELECT 1 + floor(random() * 2147483647)::int, $1::text
    WHERE NOT EXISTS (SELECT FROM calendar WHERE name = $1::text) AND NOT EXISTS (SELECT FROM namesake)
    ON CONFLICT DO NOTHING
    RETURNING id
)
SELECT
    EXISTS (SELECT FROM restored) OR EXISTS (SELECT FROM inserted) AS is_new,
    EXISTS (SELECT FROM calendar WHERE name = $1::text AND deleted_at IS NOT NULL)
        AND NOT EXISTS (SELECT FROM namesake) AS was_deleted
"""

_FIND_NAMESAKES = """
SELECT wanted.name, calendar.name AS existing
FROM unnest($1::text[]) AS wanted (name)
JOIN calendar ON lower(calendar.name COLLATE "C") = lower(wanted.name COLLATE "C") AND deleted_at IS NULL
WHERE NOT EXISTS (SELECT FROM calendar WHERE name = wanted.name AND deleted_at IS NULL)
ORDER BY wanted.name, calendar.name
"""

_FIND_CALENDARS = "SELECT name, id FROM calendar WHERE name = ANY($1::text[]) AND deleted_at IS NULL"


class _Made(msgspec.Struct, frozen=True):
    is_new: bool
    was_deleted: bool


class _CalendarId(msgspec.Struct, frozen=True):
    name: str
    id: int


async def make_calendar(name: str) -> bool:
    """Make or restore a calendar if there is none of that name; return whether this transaction did.

    If another transaction is doing so right now, this waits for that one to end.

    Raises:
        CalendarChangedError: another one was made meanwhile whose name differs only in case, or it was
            restored meanwhile.

    """
    try:
        made = await fetch_one(_Made, _MAKE_CALENDAR, name)
    except asyncpg.UniqueViolationError:
        raise CalendarChangedError from None
    if made.was_deleted and not made.is_new:
        # The row's lock would be kept, out of order: whoever changes the calendar locks its orders first.
        raise CalendarChangedError
    return made.is_new


async def refuse_other_cells(names: Collection[str]) -> None:
    """Refuse calendars that do not exist, if this installation is a cell.

    There an order makes no calendar, as a mistake of the router would make it in a second cell.

    Raises:
        CalendarNotInCellError: there is one.

    """
    cell = settings().cell
    if cell:
        calendars = await fetch_all(_CalendarId, _FIND_CALENDARS, list(names))
        missing = set(names) - {calendar.name for calendar in calendars}
        if missing:
            raise CalendarNotInCellError(cell, sorted(missing))


async def calendar_ids(names: Collection[str], *, of_orders: bool = True) -> dict[str, int]:
    """Return the ids of calendars by name, making those that do not exist yet.

    Args:
        names: their names.
        of_orders: requests about single orders name them, so in a cell they must exist.

    Raises:
        CalendarNotInCellError: this is a cell, and they do not exist.
        CalendarNameTakenError: the names of new ones differ only in case from those of others.
        CalendarChangedError: as ``make_calendar``.

    """
    if of_orders:
        await refuse_other_cells(names)
    ids: dict[str, int] = {}
    while len(ids) < len(names):
        # By key: two transactions that make names of the same keys could deadlock otherwise.
        for name in sorted(set(names) - set(ids), key=str.lower):
            await make_calendar(name)
        await refuse_namesakes(names)
        calendars = await fetch_all(_CalendarId, _FIND_CALENDARS, list(names))
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
