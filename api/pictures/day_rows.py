"""Rows of a timeline with each day's number of orders, and how much of the day is free. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.pictures.svg import element, text
from api.pictures.timeline_rows import FREE, draw_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.pictures.time_axis import Day, TimeAxis
    from api.pictures.timeline_rows import TimelineRow

HEIGHT = 34.0


def draw_day_row(axis: TimeAxis, days: Sequence[Day], row: TimelineRow, top: float) -> str:
    """Write a row that begins at ``top``."""
    counts = _count(axis, days, row)
    shown = [
        (day, count, _free_share(day, row))
        for day, count in zip(days, counts, strict=True)
        if count or row.free
    ]
    shades = "".join(_shade(axis, day, free or 0.0, top) for day, _, free in shown)
    labels = "".join(_label(axis, day, count, top) for day, count, _ in shown if count)
    content = element("g", shades, fill=FREE) + element("g", labels, text_anchor="middle", font_weight=600)
    return draw_row(row, top, HEIGHT, content if shown else "")


def _count(axis: TimeAxis, days: Sequence[Day], row: TimelineRow) -> list[int]:
    counts = dict.fromkeys((day.date for day in days), 0)
    for order in row.orders:
        # A window may end exactly with a day, and still have an order there.
        date = axis.local(order.datetime).date()
        counts[date if date in counts else days[-1].date] += 1
    return list(counts.values())


def _free_share(day: Day, row: TimelineRow) -> float | None:
    if row.free is None:
        return None
    free = sum(
        max((min(last, day.end) - max(first, day.begin)).total_seconds(), 0.0) for first, last in row.free
    )
    return free / (day.end - day.begin).total_seconds()


def _shade(axis: TimeAxis, day: Day, free: float, top: float) -> str:
    return element(
        "rect",
        class_="day",
        data_day=day.date.isoformat(),
        x=axis.x(day.begin) + 1,
        y=top + 2,
        width=max(axis.x(day.end) - axis.x(day.begin) - 2, 1.0),
        height=HEIGHT - 4,
        fill_opacity=f"{free:.2f}".removeprefix("0"),
    )


def _label(axis: TimeAxis, day: Day, count: int, top: float) -> str:
    label = f"{count:,}" if count < 10_000 else f"{count // 1_000}k"
    return text(label, x=(axis.x(day.begin) + axis.x(day.end)) / 2, y=top + 21)
