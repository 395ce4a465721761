"""What a timeline shows, and its measures in user units. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from api.pictures.svg import element, shorten, text, title
from api.pictures.time_axis import TimeAxis

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta
    from decimal import Decimal

WIDTH = 1200.0
LEFT = 150.0
RIGHT = 16.0
TOP = 92.0
FREE = "#d8f0e4"

_LONGEST_ROW_LABEL = 16


@dataclass(frozen=True)
class TimelineOrder:
    """What is drawn of an order."""

    id: str
    version: int
    datetime: datetime
    calendar: str
    totalfee: Decimal
    reference: str | None
    status: str
    services: Sequence[str]


@dataclass
class TimelineRow:
    """A calendar."""

    calendar: str
    spacing: timedelta
    orders: list[TimelineOrder] = field(default_factory=list)
    """By datetime."""
    free: Sequence[tuple[datetime, datetime]] | None = None
    """When an order's datetime may be, both ends included; None: not asked for."""


@dataclass(frozen=True)
class Timeline:
    """What a picture shows."""

    begin: datetime
    end: datetime
    zone: str
    rows: Sequence[TimelineRow]
    position: int
    """Every change up to this position of the change log is in it."""
    time: datetime
    """When the orders were read."""

    @property
    def axis(self) -> TimeAxis:
        """Where its moments are."""
        return TimeAxis(self.begin, self.end, self.zone, LEFT, WIDTH - LEFT - RIGHT)

    @property
    def knows_free_time(self) -> bool:
        """Whether free time is drawn."""
        return any(row.free is not None for row in self.rows)


def draw_row(row: TimelineRow, top: float, height: float, content: str) -> str:
    """Write a row: its calendar's name, and what is in it."""
    label = shorten(row.calendar, _LONGEST_ROW_LABEL)
    name = text(label, class_="calendar", x=16, y=top + height / 2 + 4, font_size=12, font_weight=600)
    full = title(row.calendar) if label != row.calendar else ""
    rule = element(
        "path", class_="rule", d=f"M16 {top + height:g}H{WIDTH - RIGHT:g}", stroke="#e3e8ee", fill="none"
    )
    return element(
        "g", f"{element('g', full + name)}{rule}{content}", class_="row", data_calendar=row.calendar
    )
