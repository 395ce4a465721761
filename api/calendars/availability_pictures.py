"""Free times as a picture, with the orders between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.calendars.availability import Window, find_free_time
from api.http.times import MILLISECOND
from api.orders.lists.filters import OrderFilters
from api.orders.lists.timelines import MOST_ORDERS, Moment, draw, place_orders, read_orders
from api.pictures.timeline_rows import Timeline, TimelineRow
from shared.database.transaction import retry_on_lock_timeout, transaction

if TYPE_CHECKING:
    from collections.abc import Sequence


async def draw_availability(calendars: Sequence[str], window: Window, zone: str) -> bytes:
    """Draw the free intervals of calendars and their orders, cancelled ones too, all of one moment.

    Args:
        calendars: their names, from top to bottom.
        window: at least an hour, and at most ``LONGEST_WINDOW``.
        zone: of the days and times.

    Raises:
        ProblemError: 400, there are too many orders.

    """
    moment, rows = await _read_rows(calendars, window)
    timeline = Timeline(window.earliest, window.latest, zone, rows, moment.position, moment.time)
    return await draw(timeline)


@retry_on_lock_timeout
async def _read_rows(calendars: Sequence[str], window: Window) -> tuple[Moment, list[TimelineRow]]:
    end = window.latest + MILLISECOND
    filters = OrderFilters(earliest=window.earliest, before=end, calendars=tuple(calendars))
    async with transaction("repeatable_read", readonly=True):
        moment, orders = await read_orders(filters)
        # Between any two intervals is an order of the window.
        free = await find_free_time(calendars, window, MOST_ORDERS + 1)
    rows = [TimelineRow(one.calendar, one.spacing, free=one.intervals) for one in free]
    place_orders(rows, orders)
    return moment, rows
