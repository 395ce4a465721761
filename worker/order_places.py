"""Prove that booked orders keep their calendars' spacing: ``oms verify places``.

It is computed from the orders' datetimes, without the constraint that enforces it. What that constraint
compares, ``clear_until``, must be what datetimes and spacings say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from shared.database.statements import fetch_one, fetch_optional, fetch_value
from shared.progress import Progress, ReportProgress, ignore_progress

if TYPE_CHECKING:
    from collections.abc import Callable

_NEXT_CALENDAR = "SELECT id, name FROM calendar WHERE id > $1 ORDER BY id LIMIT 1"

# Orders and spacing are read together, so a write in between makes no difference. Neighbours are enough:
# between two orders of different imports that are too near, there are neighbours of different imports, which
# are no farther apart.
_COMPARE = """
SELECT
    count(*) AS orders,
    coalesce(array_agg(id ORDER BY id) FILTER (WHERE clear_until <> expected), '{}') AS misplaced,
    coalesce(array_agg(earlier_id ORDER BY datetime, id) FILTER (WHERE is_too_near), '{}') AS earlier,
    coalesce(array_agg(id ORDER BY datetime, id) FILTER (WHERE is_too_near), '{}') AS later
FROM (
    SELECT
        id, datetime, clear_until,
        CASE status WHEN 'booked' THEN datetime + spacing ELSE datetime END AS expected,
        lag(id) OVER same_status AS earlier_id,
        status = 'booked' AND import_id <> lag(import_id) OVER same_status
            AND datetime - lag(datetime) OVER same_status < spacing AS is_too_near
    FROM orders,
        (SELECT make_interval(secs => spacing_seconds) AS spacing FROM calendar WHERE id = $1) AS calendar
    WHERE calendar_id = $1
    WINDOW same_status AS (PARTITION BY status ORDER BY datetime, id)
) AS compared
"""


class _Calendar(msgspec.Struct, frozen=True):
    id: int
    name: str


class _Compared(msgspec.Struct, frozen=True):
    orders: int
    misplaced: list[int]
    earlier: list[int]
    later: list[int]


@dataclass(frozen=True)
class PlaceProof:
    """The result of a comparison of all orders with their calendars' spacing."""

    orders: int
    faults: int


async def compare_places(
    report: Callable[[str], None], progress: ReportProgress = ignore_progress
) -> PlaceProof:
    """Compare the orders of each calendar; report each fault in words."""
    expected = await fetch_value(int, "SELECT count(*) FROM orders")
    orders = faults = 0
    calendar = await fetch_optional(_Calendar, _NEXT_CALENDAR, 0)
    while calendar is not None:
        compared = await fetch_one(_Compared, _COMPARE, calendar.id)
        orders += compared.orders
        faults += len(compared.misplaced) + len(compared.later)
        for order_id in compared.misplaced:
            report(
                f"order {order_id}: its clear_until is not what its datetime and its calendar's spacing say"
            )
        for earlier, later in zip(compared.earlier, compared.later, strict=True):
            report(f"orders {earlier} and {later}: nearer than the spacing of calendar {calendar.name}")
        progress(Progress(orders, max(orders, expected), "compared with their calendars"))
        calendar = await fetch_optional(_Calendar, _NEXT_CALENDAR, calendar.id)
    return PlaceProof(orders, faults)
