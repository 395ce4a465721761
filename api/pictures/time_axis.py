"""A horizontal axis of time: days and hours of a zone, and where each moment is. Pure.

The axis is even in elapsed time, so the day on which clocks change is an hour narrower or wider.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

_QUARTER = timedelta(minutes=15)
_DAY = timedelta(days=1)
_HOUR_STEPS = (1, 2, 3, 6, 12)
_NARROWEST_HOUR_LABEL = 34.0


class Day(NamedTuple):
    """A day, or the part of it that is on the axis."""

    date: date
    begin: datetime
    end: datetime


@dataclass(frozen=True)
class TimeAxis:
    """From one moment to a later one, ``width`` user units wide, ``left`` of them from the picture's edge."""

    begin: datetime
    end: datetime
    zone: str
    left: float
    width: float

    def x(self, at: datetime) -> float:
        """Return where a moment is; one outside the axis is at its nearer end."""
        share = (at - self.begin) / (self.end - self.begin)
        return self.left + self.width * min(max(share, 0.0), 1.0)

    def local(self, at: datetime) -> datetime:
        """Return a moment in the axis's zone."""
        return at.astimezone(ZoneInfo(self.zone))

    def days(self) -> list[Day]:
        """Return the days, from midnight to midnight in the zone, as far as they are on the axis."""
        day, days = self.local(self.begin).date(), []
        while (begin := self._midnight(day)) < self.end:
            end = self._midnight(day + _DAY)
            # Where a country crossed the date line, a whole day is missing.
            if end > max(begin, self.begin):
                days.append(Day(day, max(begin, self.begin), min(end, self.end)))
            day += _DAY
        return days

    def _midnight(self, day: date) -> datetime:
        """Return when a day begins: at the first of two midnights, or when clocks skip it."""
        return datetime.combine(day, time_of_day(), ZoneInfo(self.zone)).astimezone(UTC)

    def hours(self) -> Iterator[datetime]:
        """Yield the full hours that have a label, in the zone: as many as there is room for."""
        hour = timedelta(hours=1) / (self.end - self.begin) * self.width
        steps = (step for step in _HOUR_STEPS if step * hour >= _NARROWEST_HOUR_LABEL)
        step = next(steps, None)
        if step is None:
            return
        # Zones are a quarter of an hour apart, and hours that are repeated have two places.
        at = datetime.fromtimestamp(-(-self.begin.timestamp() // 900) * 900, UTC)
        while at <= self.end:
            local = self.local(at)
            if not local.minute and not local.hour % step:
                yield local
            at += _QUARTER
