"""Rows of a timeline with each order and each free interval. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.times import utc_text
from api.pictures.svg import ACCENT, MUTED, element, shorten, text, title
from api.pictures.timeline_rows import FREE, RIGHT, WIDTH, draw_row

if TYPE_CHECKING:
    from datetime import datetime

    from api.pictures.time_axis import TimeAxis
    from api.pictures.timeline_rows import TimelineOrder, TimelineRow

_LANE = 28.0
_MOST_LANES = 4
_PADDING = 5.0
_CHARACTER = 6.0
"""The width of an average character of a label."""
_NARROWEST = 3.0
_LONGEST_LABEL, _LONGEST_SERVICES = 40, 120


def draw_order_row(axis: TimeAxis, row: TimelineRow, top: float) -> tuple[str, float]:
    """Write a row that begins at ``top``; return it and its height."""
    lanes = _lanes(axis, row)
    height = len(lanes) * _LANE + 2 * _PADDING
    free = "".join(
        element(
            "rect",
            class_="free",
            data_calendar=row.calendar,
            data_from=utc_text(first),
            data_to=utc_text(last),
            x=axis.x(first),
            y=top + 1,
            width=max(axis.x(last) - axis.x(first), 1.5),
            height=height - 2,
        )
        for first, last in row.free or ()
    )
    orders = "".join(
        _draw_order(axis, row, order, top + _PADDING + number * _LANE, room)
        for number, lane in enumerate(lanes)
        for order, room in _with_room(axis, lane)
    )
    content = (element("g", free, fill=FREE) if free else "") + orders
    return draw_row(row, top, height, content), height


def _lanes(axis: TimeAxis, row: TimelineRow) -> list[list[TimelineOrder]]:
    """Lay orders that would cover each other, as those imported together may, below each other."""
    lanes: list[list[TimelineOrder]] = [[]]
    ends = [float("-inf")]
    for order in row.orders:
        begin, end = axis.x(order.datetime), _end(axis, row, order)
        lane = next((number for number, taken in enumerate(ends) if taken <= begin), len(lanes))
        if lane == len(lanes):
            if len(lanes) < _MOST_LANES:
                lanes.append([])
                ends.append(0.0)
            else:
                lane = ends.index(min(ends))
        lanes[lane].append(order)
        ends[lane] = max(ends[lane], end)
    return lanes


def _end(axis: TimeAxis, row: TimelineRow, order: TimelineOrder) -> float:
    return max(axis.x(order.datetime + row.spacing), axis.x(order.datetime) + _NARROWEST)


def _with_room(axis: TimeAxis, lane: list[TimelineOrder]) -> list[tuple[TimelineOrder, float]]:
    """Return each order with how far it is from the next one, or from the end of the row."""
    begins = [axis.x(order.datetime) for order in lane]
    return [
        (order, following - begin)
        for order, begin, following in zip(lane, begins, [*begins, WIDTH - RIGHT][1:], strict=True)
    ]


def _draw_order(axis: TimeAxis, row: TimelineRow, order: TimelineOrder, top: float, room: float) -> str:
    x, cancelled = axis.x(order.datetime), order.status != "booked"
    local = axis.local(order.datetime)
    services = ", ".join(order.services)
    said = [
        order.id,
        f"{local:%a} {local.day} {local:%b %Y}, {time_text(local)} {local.tzname()}",
        shorten(services, _LONGEST_SERVICES),
        f"{order.totalfee:,}",
        *([order.reference] if order.reference is not None else []),
        order.status,
    ]
    zone = element(
        "rect",
        class_="zone",
        x=x,
        y=top + 2,
        width=max(_end(axis, row, order) - x, _NARROWEST),
        height=_LANE - 4,
        rx=3,
        fill_opacity=".06" if cancelled else ".16",
    )
    mark = element("rect", class_="mark", x=x, y=top + 2, width=3, height=_LANE - 4, rx=1.5)
    return element(
        "g",
        title(" · ".join(said))
        + zone
        + mark
        + _label(local, services, x + 7, top + 18, room, cancelled=cancelled),
        class_=f"order {order.status}",
        data_order=order.id,
        data_version=order.version,
        data_datetime=utc_text(order.datetime),
        data_calendar=order.calendar,
        data_fee=order.totalfee,
        data_reference=order.reference,
        fill=MUTED if cancelled else ACCENT,
    )


def _label(local: datetime, services: str, x: float, y: float, room: float, *, cancelled: bool) -> str:
    """Write as much of the time and the services as there is room for."""
    most = min(int((room - 10) / _CHARACTER), _LONGEST_LABEL)
    at = f"{local:%H:%M}"
    if most < len(at):
        return ""
    label = shorten(f"{at} {services}", most) if most > len(at) + 4 else at
    return text(label, x=x, y=y, text_decoration="line-through" if cancelled else None)


def time_text(local: datetime) -> str:
    """Write a time of day, as exactly as it is: 11:11, or 11:11:11.111."""
    if local.microsecond:
        return f"{local:%H:%M:%S}.{local.microsecond // 1_000:03}"
    return f"{local:%H:%M:%S}" if local.second else f"{local:%H:%M}"
