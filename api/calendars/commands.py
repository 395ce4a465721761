"""Making, changing and deleting calendars. Each command is one transaction; the rule itself is PostgreSQL's.

A new spacing moves ``clear_until`` of all booked orders on the calendar, in a trigger. It takes its locks in
the order of ``api/orders/commands.py``: the orders' rows (by id) → the calendar's row, which an order that
restores it also locks before the next → the calendar's lock, so that no order moves → the lock of its
spacing, exclusively, so that none is placed. Orders that were placed before that may be locked by others that
wait for the calendar. So for these it never waits: it starts over.
"""

from __future__ import annotations

from datetime import UTC, timedelta
from datetime import datetime as Datetime  # noqa: N812 (a member is called datetime)
from typing import TYPE_CHECKING, Any

import msgspec
from piccolo.columns.combination import And

from api.calendars.bodies import NO_TITLE
from api.calendars.errors import CalendarInUseError, NearOrders, SpacingTooLargeError
from api.calendars.queries import COLUMNS, StoredCalendar, find_calendar, find_optional_calendar
from api.orders.calendars import lock_calendars, make_calendar, refuse_namesakes
from api.orders.errors import CalendarChangedError, CalendarNameTakenError
from api.orders.spacing import CLEARANCE
from api.orders.transactions import in_transaction
from shared.database.locks import SPACING_LOCK
from shared.database.statements import execute, fetch_all, fetch_value
from shared.database.tables import Calendar
from shared.database.transaction import retry_on_lock_timeout

if TYPE_CHECKING:
    from api.calendars.bodies import CalendarPatch, CalendarReplacement

_LOCK_ORDERS = """
SELECT count(*) FROM (
    SELECT FROM orders WHERE calendar_id = $1 AND status = 'booked' ORDER BY id FOR UPDATE
) AS locked
"""

_LOCK_ORDERS_AT_ONCE = _LOCK_ORDERS.replace("FOR UPDATE", "FOR UPDATE NOWAIT")

_LOCK_ROW = "SELECT FROM calendar WHERE id = $1 FOR NO KEY UPDATE"

# Neighbours are enough: between two orders of different imports that are too near, there are neighbours of
# different imports, and these are no farther from each other.
_FIND_NEAR_ORDERS = """
SELECT earlier_id, earlier_datetime, id, datetime, min(datetime - earlier_datetime) OVER () AS least_distance
FROM (
    SELECT id, datetime, import_id, lag(id) OVER earlier AS earlier_id,
        lag(datetime) OVER earlier AS earlier_datetime, lag(import_id) OVER earlier AS earlier_import_id
    FROM orders WHERE calendar_id = $1 AND status = 'booked'
    WINDOW earlier AS (ORDER BY datetime, id)
) AS neighbour
WHERE earlier_import_id <> import_id AND datetime - earlier_datetime < $2::interval
ORDER BY datetime, id LIMIT 100
"""


class _NearOrders(msgspec.Struct, frozen=True):
    earlier_id: int
    earlier_datetime: Datetime
    id: int
    datetime: Datetime
    least_distance: timedelta
    """Of all pairs."""


@retry_on_lock_timeout
@in_transaction()
async def replace_calendar(name: str, replacement: CalendarReplacement) -> tuple[StoredCalendar, bool]:
    """Replace a calendar, or make it if there is none of that name; return it, and whether it is new.

    Raises:
        CalendarNameTakenError: there is none, and the name differs only in case from another's.
        SpacingTooLargeError: its orders are nearer to each other than the spacing.
        ContentionError: other transactions kept interfering.

    """
    is_new = await make_calendar(name)
    if not is_new:
        await _refuse_namesakes(name)
    calendar = await find_optional_calendar(name)
    if calendar is None:
        raise CalendarChangedError
    if is_new:  # no order can be placed on it before the commit
        return await _update(calendar, replacement.title, replacement.spacing), True
    return await _change(calendar, replacement.title, replacement.spacing), False


async def _refuse_namesakes(name: str) -> None:
    try:
        await refuse_namesakes([name])
    except CalendarNameTakenError as refusal:
        raise CalendarNameTakenError(refusal.namesakes, ["#/name"]) from None


@retry_on_lock_timeout
@in_transaction()
async def update_calendar(name: str, patch: CalendarPatch) -> StoredCalendar:
    """Change what a merge patch names, and leave the rest.

    Raises:
        CalendarNotFoundError: there is none of that name.
        SpacingTooLargeError: its orders are nearer to each other than the spacing.
        ContentionError: other transactions kept interfering.

    """
    calendar = await find_calendar(name)
    named = patch.model_fields_set
    title = (patch.title or NO_TITLE) if "title" in named else None
    spacing = (patch.spacing or CLEARANCE) if "spacing" in named else None
    return await _change(calendar, title, spacing)


async def _change(calendar: StoredCalendar, title: str | None, spacing: timedelta | None) -> StoredCalendar:
    """Give a calendar a title and a spacing; None leaves it as it is."""
    if spacing not in (None, calendar.spacing):
        await _refuse_if_too_large(calendar, spacing)
        await execute(_LOCK_ORDERS, calendar.id)
        calendar = await _lock(calendar)
        await execute(_LOCK_ORDERS_AT_ONCE, calendar.id)
        await _refuse_if_too_large(calendar, spacing)
    return await _update(calendar, title, spacing)


async def _lock(calendar: StoredCalendar) -> StoredCalendar:
    """Let nobody place or move an order on a calendar, or change its spacing; return it as it is now."""
    await execute(_LOCK_ROW, calendar.id)
    await lock_calendars([calendar.id])
    await execute("SELECT pg_advisory_xact_lock($1, $2)", SPACING_LOCK, calendar.id)
    locked = await find_optional_calendar(calendar.name)
    if locked is None:
        raise CalendarChangedError
    return locked


async def _update(calendar: StoredCalendar, title: str | None, spacing: timedelta | None) -> StoredCalendar:
    values: dict[Any, Any] = {}
    if title not in (None, calendar.title):
        values[Calendar.title] = title
    if spacing not in (None, calendar.spacing):  # a statement that sets it locks it
        values[Calendar.spacing_seconds] = int(spacing.total_seconds())
    if not values:
        return calendar
    found = And(Calendar.id == calendar.id, Calendar.deleted_at.is_null())
    if spacing is not None:  # not locked unless it changes: another transaction may have changed it meanwhile
        found = And(found, Calendar.spacing_seconds == calendar.spacing_seconds)
    rows = await Calendar.update(values).where(found).returning(*COLUMNS)
    if not rows:
        raise CalendarChangedError
    return StoredCalendar(**rows[0])


async def _refuse_if_too_large(calendar: StoredCalendar, spacing: timedelta) -> None:
    if spacing < calendar.spacing:
        return
    near = await fetch_all(_NearOrders, _FIND_NEAR_ORDERS, calendar.id, spacing)
    if near:
        pairs = [NearOrders(pair.earlier_id, pair.earlier_datetime, pair.id, pair.datetime) for pair in near]
        largest = timedelta(seconds=int(near[0].least_distance.total_seconds()))
        raise SpacingTooLargeError(calendar.name, spacing, pairs, largest)


@retry_on_lock_timeout
@in_transaction()
async def delete_calendar(name: str) -> None:
    """Delete a calendar that has no orders. An order or a PUT that names it makes it anew.

    Raises:
        CalendarNotFoundError: there is none of that name, or no longer.
        CalendarInUseError: it has orders.
        ContentionError: other transactions kept interfering.

    """
    calendar = await find_calendar(name)
    await _refuse_if_in_use(calendar)
    calendar = await _lock(calendar)
    await _refuse_if_in_use(calendar)
    await Calendar.update(
        {
            Calendar.deleted_at: Datetime.now(UTC),
            Calendar.title: NO_TITLE,
            Calendar.spacing_seconds: int(CLEARANCE.total_seconds()),
        }
    ).where(Calendar.id == calendar.id)


async def _refuse_if_in_use(calendar: StoredCalendar) -> None:
    orders = await fetch_value(int, "SELECT count(*) FROM orders WHERE calendar_id = $1", calendar.id)
    if orders:
        raise CalendarInUseError(calendar.name, orders)
