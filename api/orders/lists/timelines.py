"""Lists of orders as a picture: every order of a window of time, on a row for each calendar."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from api.http.problems import Fault, malformed
from api.orders.lists.pages import find_page
from api.orders.spacing import CLEARANCE
from api.pictures.timeline import draw_timeline
from api.pictures.timeline_rows import Timeline, TimelineOrder, TimelineRow
from shared.database.statements import fetch_all, fetch_one
from shared.database.transaction import retry_on_lock_timeout, transaction

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from api.orders.lists.filters import OrderFilters

LONGEST_WINDOW = timedelta(days=32)
SHORTEST_WINDOW = timedelta(hours=1)

MOST_ORDERS = 5_000
_AT_ONCE = 1_000
_MOST_READS = 12
"""A read that finds few may have looked at as few as 500 orders, of one of 20 values: so 12 are enough."""

_MOMENT = "SELECT last_position AS position, statement_timestamp() AS time FROM change_log WHERE id = 1"

# Deleted ones too: their cancelled orders may still be there.
_SPACINGS = """
SELECT name, make_interval(secs => spacing_seconds) AS spacing FROM calendar WHERE name = ANY($1::text[])
"""


class Moment(msgspec.Struct, frozen=True):
    """What a picture is exact for."""

    position: int
    time: datetime


class _Spacing(msgspec.Struct, frozen=True):
    name: str
    spacing: timedelta


class _Service(msgspec.Struct, frozen=True):
    name: str


class _Order(msgspec.Struct, frozen=True):
    """What is drawn of an order, in its JSON."""

    id: str
    version: int
    datetime: datetime
    calendar: str
    totalfee: Decimal
    reference: str | None
    status: str
    services: list[_Service]


class OrdersOfWindow(NamedTuple):
    """The orders of a window, by datetime."""

    moment: Moment
    orders: Sequence[TimelineOrder]


def check_length(begin: datetime, end: datetime) -> None:
    """Check that a window is long enough for a picture, and not too long.

    Raises:
        ProblemError: 400.

    """
    if end - begin < SHORTEST_WINDOW:
        raise malformed(Fault("must be at least an hour after from, for a picture", parameter="to"))
    if end - begin > LONGEST_WINDOW:
        raise malformed(Fault(f"must be at most {LONGEST_WINDOW.days} days after from", parameter="to"))


async def draw_orders(filters: OrderFilters, begin: datetime, end: datetime, zone: str) -> bytes:
    """Draw the orders that match: on the calendars that are asked for, or on all that have any.

    Args:
        filters: which orders; ``earliest`` and ``before`` are the window.
        begin: of the window.
        end: of the window.
        zone: of the days and times.

    Raises:
        ProblemError: 400, they are too many.

    """
    moment, rows = await _read_rows(filters)
    return await draw(Timeline(begin, end, zone, rows, moment.position, moment.time))


@retry_on_lock_timeout
async def _read_rows(filters: OrderFilters) -> tuple[Moment, list[TimelineRow]]:
    async with transaction("repeatable_read", readonly=True):
        moment, orders = await read_orders(filters)
        calendars = filters.calendars or sorted({order.calendar for order in orders})
        spacings = await fetch_all(_Spacing, _SPACINGS, list(calendars))
    by_name = {one.name: one.spacing for one in spacings}
    rows = [TimelineRow(name, by_name.get(name, CLEARANCE)) for name in calendars]
    place_orders(rows, orders)
    return moment, rows


async def read_orders(filters: OrderFilters) -> OrdersOfWindow:
    """Read every order that matches, as of the snapshot of the transaction that this runs in.

    Raises:
        ProblemError: 400, they are too many.

    """
    # The first statement takes the snapshot: every change up to the position is in it.
    moment = await fetch_one(Moment, _MOMENT)
    orders: list[TimelineOrder] = []
    after = None
    for _ in range(_MOST_READS):
        page = await find_page(filters, after, _AT_ONCE)
        orders += [_drawn(order.json) for order in page.orders if order.json is not None]
        last = page.edge or (page.orders[-1] if len(page.orders) == _AT_ONCE else None)
        if last is None and len(orders) <= MOST_ORDERS:
            return OrdersOfWindow(moment, orders)
        if last is None or len(orders) > MOST_ORDERS:
            break
        after = filters.place(*filters.place_of(last))
    most = f"the window has more than {MOST_ORDERS:,} orders, the most that a picture is drawn of"
    raise malformed(Fault(f"must be closer to from: {most}", parameter="to"))


def _drawn(text: str) -> TimelineOrder:
    order = msgspec.json.decode(text, type=_Order)
    return TimelineOrder(
        id=order.id,
        version=order.version,
        datetime=order.datetime,
        calendar=order.calendar,
        totalfee=order.totalfee,
        reference=order.reference,
        status=order.status,
        services=[service.name for service in order.services],
    )


def place_orders(rows: Collection[TimelineRow], orders: Sequence[TimelineOrder]) -> None:
    """Put each order on the row of its calendar."""
    by_name = {row.calendar: row for row in rows}
    for order in orders:
        by_name[order.calendar].orders.append(order)


async def draw(timeline: Timeline) -> bytes:
    """Draw a timeline in a thread: thousands of orders take a while."""
    return await asyncio.to_thread(draw_timeline, timeline)
