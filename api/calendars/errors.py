"""Why a command about calendars is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta


@dataclass
class CalendarNotFoundError(Exception):
    """No calendar has this name, or it was deleted."""

    name: str


@dataclass
class CalendarInUseError(Exception):
    """A calendar that is to be deleted has orders; cancelled ones count."""

    name: str
    orders: int


@dataclass(frozen=True)
class NearOrders:
    """Two booked orders, one after the other, that are nearer than a spacing."""

    earlier_id: int
    earlier_datetime: datetime
    later_id: int
    later_datetime: datetime


@dataclass
class SpacingTooLargeError(Exception):
    """Booked orders on the calendar are nearer to each other than the spacing that it is to get."""

    calendar: str
    spacing: timedelta
    pairs: Sequence[NearOrders]
    """By datetime; at most the first 100."""
    largest: timedelta
    """The largest spacing, to the second, that the calendar's orders allow."""
