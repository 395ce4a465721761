"""When calendars are free."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from api.orders.spacing import CLEARANCE
from shared.database.statements import fetch_all

if TYPE_CHECKING:
    from collections.abc import Sequence

Interval = tuple[datetime, datetime]

MOST_ORDERS = 10_000
"""Orders of a calendar that one statement reads."""

# For each calendar, the free intervals between its booked orders, and how far they were read: the datetime of
# the last order, if there may be more. Nothing is known to be free after that one.
#
# The rows -infinity and infinity are the neighbours of the first and the last order.
_FREE = """
SELECT
    wanted.name, wanted.spacing, taken.read_to,
    ARRAY(SELECT greatest(at + wanted.spacing, $2::timestamptz) FROM unnest(gaps.befores) AS at) AS begins,
    ARRAY(SELECT least(at - wanted.spacing, $3::timestamptz) FROM unnest(gaps.afters) AS at) AS ends
FROM (
    SELECT given.name, given.place, c.id,
        coalesce(make_interval(secs => c.spacing_seconds), $6::interval) AS spacing
    FROM unnest($1::text[]) WITH ORDINALITY AS given (name, place)
    LEFT JOIN calendar AS c ON c.name = given.name
) AS wanted
CROSS JOIN LATERAL (
    SELECT array_agg(datetime ORDER BY datetime) AS datetimes,
        CASE WHEN count(*) = $5::int THEN max(datetime) END AS read_to
    FROM (
        SELECT datetime FROM orders
        WHERE calendar_id = wanted.id AND status = 'booked' AND id IS DISTINCT FROM $4::bigint
            AND datetime > $2::timestamptz - wanted.spacing AND datetime < $3::timestamptz + wanted.spacing
        ORDER BY datetime LIMIT $5::int
    ) AS booked
) AS taken
CROSS JOIN LATERAL (
    SELECT array_agg(at ORDER BY at) AS befores, array_agg(following ORDER BY at) AS afters
    FROM (
        SELECT at, following FROM (
            SELECT at, lead(at) OVER (ORDER BY at) AS following
            FROM (
                SELECT unnest(taken.datetimes) AS at
                UNION ALL SELECT '-infinity'
                UNION ALL SELECT 'infinity' WHERE taken.read_to IS NULL
            ) AS neighbour
        ) AS neighbours
        WHERE following IS NOT NULL
            AND greatest(at + wanted.spacing, $2::timestamptz)
                <= least(following - wanted.spacing, $3::timestamptz)
        ORDER BY at LIMIT $7::int
    ) AS gap
) AS gaps
ORDER BY wanted.place
"""


class _Free(msgspec.Struct, frozen=True):
    name: str
    spacing: timedelta
    read_to: datetime | None
    begins: list[datetime]
    ends: list[datetime]


class FreeTime(msgspec.Struct, frozen=True):
    """When a calendar is free."""

    calendar: str
    spacing: timedelta
    intervals: Sequence[Interval]
    """Closed, ascending."""


class Window(NamedTuple):
    """Datetimes from one to another, both included; and an order that is in nobody's way."""

    earliest: datetime
    latest: datetime
    without: int | None = None


async def find_free_time(
    calendars: Sequence[str], window: Window, most: int, at_once: int = MOST_ORDERS
) -> list[FreeTime]:
    """Find the intervals in which an order's datetime may fall.

    Args:
        calendars: their names; one that nobody has used is free throughout.
        window: where to look.
        most: the most intervals of each calendar to return.
        at_once: the most orders of a calendar that one statement reads.

    """
    return [
        await _read_rest(calendar, window, most, at_once)
        for calendar in await _find(calendars, window, most, at_once)
    ]


async def _read_rest(free: _Free, window: Window, most: int, at_once: int) -> FreeTime:
    """Read the orders of a calendar that has more than one statement reads."""
    intervals: list[Interval] = list(zip(free.begins, free.ends, strict=True))
    while free.read_to is not None and len(intervals) < most:
        # The next intervals may begin behind the last order. If even that one is before the window, since an
        # import has so many orders close to each other, all is blocked up to its end.
        end = free.read_to if free.read_to > window.earliest else free.read_to + free.spacing
        if end > window.latest:
            break
        window = window._replace(earliest=end)
        (free,) = await _find([free.name], window, most - len(intervals), at_once)
        intervals += zip(free.begins, free.ends, strict=True)
    return FreeTime(free.name, free.spacing, intervals)


async def _find(calendars: Sequence[str], window: Window, most: int, at_once: int) -> list[_Free]:
    return await fetch_all(_Free, _FREE, list(calendars), *window, at_once, CLEARANCE, most)
