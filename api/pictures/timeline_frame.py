"""What is around a timeline's rows: heading, legend, axis, the current time, and notes. Pure."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from api.http.times import utc_text
from api.pictures.svg import ACCENT, BACKGROUND, FONT, INK, LINE, MUTED, element, text
from api.pictures.timeline_rows import FREE, RIGHT, TOP, WIDTH

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from api.pictures.time_axis import TimeAxis
    from api.pictures.timeline_rows import Timeline

_WIDTH_OF_DATE = 76.0
_WIDTH_OF_DAY = 24.0
_LOWEST = 40.0
_NOW = "#d6336c"


def frame(timeline: Timeline, rows: Sequence[str], height: float, detail: str) -> str:
    """Write the whole picture.

    Args:
        timeline: what it shows.
        rows: the first of its rows, drawn from ``TOP`` on.
        height: of these rows together.
        detail: ``orders`` or ``days``: what rows have.

    """
    axis, bottom = timeline.axis, TOP + max(height, _LOWEST)
    notes = _notes(timeline, len(rows))
    total = bottom + 14 + 18 * len(notes)
    written = [
        element("rect", class_="background", width=WIDTH, height=total, fill=BACKGROUND),
        _heading(timeline),
        _legend(timeline, detail),
        _scale(axis, bottom, has_hours=detail == "orders"),
        *rows,
        _now(timeline, bottom),
        *(
            text(note, class_="note", x=16, y=bottom + 18 + 18 * number, fill=MUTED, font_size=12)
            for number, note in enumerate(notes)
        ),
    ]
    return element(
        "svg",
        "".join(written),
        xmlns="http://www.w3.org/2000/svg",
        class_="timeline",
        viewBox=f"0 0 {WIDTH:g} {total:g}",
        width=WIDTH,
        height=total,
        role="group",
        aria_label=f"{_range_text(axis)}: {_summary(timeline)}",
        font_family=FONT,
        font_size=11,
        fill=INK,
        data_detail=detail,
        data_from=utc_text(axis.begin),
        data_to=utc_text(axis.end),
        data_left=axis.left,
        data_width=axis.width,
        data_time_zone=axis.zone,
        data_position=timeline.position,
    )


def _date_text(at: datetime) -> str:
    return f"{at:%a} {at.day} {at:%b %Y}"


def _range_text(axis: TimeAxis) -> str:
    days = axis.days()
    first, last = axis.local(days[0].begin), axis.local(days[-1].begin)
    return _date_text(first) if len(days) == 1 else f"{_date_text(first)} \u2013 {_date_text(last)}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _summary(timeline: Timeline) -> str:
    orders = [order for row in timeline.rows for order in row.orders]
    cancelled = sum(order.status != "booked" for order in orders)
    of_them = f" ({cancelled:,} cancelled)" if cancelled else ""
    calendars = f" on {_plural(len(timeline.rows), 'calendar')}" if timeline.rows else ""
    return _plural(len(orders), "order") + of_them + calendars


def _heading(timeline: Timeline) -> str:
    axis, at = timeline.axis, timeline.axis.local(timeline.time)
    in_utc = "" if at.tzname() == "UTC" else f" ({timeline.time.astimezone(UTC):%H:%M:%S} UTC)"
    as_of = f"as of position {timeline.position:,}, read {_date_text(at)} {at:%H:%M:%S} {at.tzname()}{in_utc}"
    summary = f"{_summary(timeline)} · {axis.zone} time"
    return (
        text(_range_text(axis), class_="heading", x=16, y=28, font_size=16, font_weight=600)
        + text(summary, class_="summary", x=16, y=48, fill=MUTED, font_size=12)
        + text(as_of, class_="as-of", x=WIDTH - RIGHT, y=28, fill=MUTED, text_anchor="end")
    )


def _legend(timeline: Timeline, detail: str) -> str:
    """Write what the colours mean, from the right."""
    kinds: list[tuple[str, str, str]] = []
    if timeline.knows_free_time:
        kinds.append(("free", FREE, "free" if detail == "orders" else "share of a day that is free"))
    if detail == "orders":
        kinds.append(("booked", ACCENT, "booked"))
        if any(order.status != "booked" for row in timeline.rows for order in row.orders):
            kinds.append(("cancelled", MUTED, "cancelled"))
    else:
        kinds.append(("", "", "number: orders of a day"))
    written, x = [], WIDTH - RIGHT
    for kind, fill, label in reversed(kinds):
        x -= len(label) * 6
        written.append(text(label, x=x, y=48, fill=MUTED))
        if kind:
            x -= 15
            written.append(
                element("rect", class_=f"key key-{kind}", x=x, y=39, width=10, height=10, rx=2, fill=fill)
            )
        x -= 12
    return element("g", "".join(written), class_="legend")


def _scale(axis: TimeAxis, bottom: float, *, has_hours: bool) -> str:
    """Write days and hours, each with a line through the rows."""
    day_lines, hour_lines, labels = [], [], []
    for day in axis.days():
        x, room = axis.x(day.begin), axis.x(day.end) - axis.x(day.begin)
        day_lines.append(f"M{x:.1f} {TOP - 30:g}V{bottom:g}")
        if room >= _WIDTH_OF_DATE:
            label = f"{day.date:%a} {day.date.day} {day.date:%b}"
            labels.append(text(label, x=x + 5, y=TOP - 20, font_weight=600))
        elif room >= _WIDTH_OF_DAY:
            labels.append(text(f"{day.date:%a}"[:2], x=x + 5, y=TOP - 20, fill=MUTED))
            labels.append(text(f"{day.date.day}", x=x + 5, y=TOP - 6, font_weight=600))
    for at in axis.hours() if has_hours else ():
        x = axis.x(at)
        hour_lines.append(f"M{x:.1f} {TOP - 3:g}V{bottom:g}")
        if x + 14 < axis.left + axis.width:
            labels.append(
                text(f"{at:%H:%M}", class_="hour", x=x, y=TOP - 6, fill=MUTED, text_anchor="middle")
            )
    return element(
        "g",
        element("path", class_="hour-lines", d="".join(hour_lines) or None, stroke=LINE)
        + element("path", class_="day-lines", d="".join(day_lines), stroke="#cdd5df")
        + "".join(labels),
        class_="scale",
    )


def _now(timeline: Timeline, bottom: float) -> str:
    axis = timeline.axis
    if not axis.begin <= timeline.time <= axis.end:
        return ""
    x = axis.x(timeline.time)
    return element(
        "g",
        element("path", d=f"M{x:.1f} {TOP - 3:g}V{bottom:g}", stroke=_NOW, stroke_width=1.5)
        + element("circle", cx=x, cy=TOP - 3, r=3, fill=_NOW),
        class_="now",
        data_datetime=utc_text(timeline.time),
    )


def _notes(timeline: Timeline, rows: int) -> list[str]:
    if not timeline.rows:
        return ["No orders in this time."]
    if rows < len(timeline.rows):
        others = _plural(sum(len(row.orders) for row in timeline.rows[rows:]), "order")
        drawn = f"{rows:,} of {_plural(len(timeline.rows), 'calendar')} are drawn; the others have {others}."
        return [f"{drawn} Ask for some calendars, or for a shorter time, to see them."]
    return []
