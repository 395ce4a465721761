"""A timeline: a row for each calendar, with its free time and its orders. Pure.

Elements have classes and ``data-`` attributes, so that a page that has the picture inline can style and move
them. Colours are presentation attributes, which any style sheet overrides.
"""

from __future__ import annotations

from datetime import timedelta

from api.pictures.day_rows import HEIGHT, draw_day_row
from api.pictures.order_rows import draw_order_row
from api.pictures.svg import LARGEST_PICTURE_BYTES
from api.pictures.timeline_frame import frame
from api.pictures.timeline_rows import TOP, Timeline

LONGEST_WINDOW_OF_ORDERS = timedelta(days=10, hours=1)
"""Of longer ones, each day's number of orders is drawn. An hour more, since clocks may be set back."""

_FRAME_BYTES = 12_000
"""What all but the rows takes at most."""

_ORDER_BYTES = 300
"""What an order takes at least."""


def draw_timeline(timeline: Timeline) -> bytes:
    """Draw each order, or each day's number of orders where they are too many or the time is too long."""
    picture = None
    if timeline.end - timeline.begin <= LONGEST_WINDOW_OF_ORDERS:
        picture = _draw_orders(timeline)
    return (picture or _draw_days(timeline)).encode()


def _draw_orders(timeline: Timeline) -> str | None:
    """Draw each order; None: they are too many."""
    axis, height, size = timeline.axis, 0.0, 0
    rows: list[str] = []
    if sum(len(row.orders) for row in timeline.rows) * _ORDER_BYTES > LARGEST_PICTURE_BYTES - _FRAME_BYTES:
        return None
    for row in timeline.rows:
        drawn, row_height = draw_order_row(axis, row, TOP + height)
        rows.append(drawn)
        height += row_height
        size += len(drawn.encode())
        if size > LARGEST_PICTURE_BYTES - _FRAME_BYTES:
            return None
    return frame(timeline, rows, height, "orders")


def _draw_days(timeline: Timeline) -> str:
    """Draw each day's number of orders, of as many calendars as there is room for."""
    axis, size = timeline.axis, 0
    rows: list[str] = []
    days = axis.days()
    for row in timeline.rows:
        drawn = draw_day_row(axis, days, row, TOP + len(rows) * HEIGHT)
        size += len(drawn.encode())
        if size > LARGEST_PICTURE_BYTES - _FRAME_BYTES:
            break
        rows.append(drawn)
    return frame(timeline, rows, len(rows) * HEIGHT, "days")
