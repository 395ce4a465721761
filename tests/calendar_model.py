"""A model of calendars in plain Python: their titles, how far apart their orders are, which were deleted.

Like ``tests/model.py``, it shares no code with the service, and compares each order with each other one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

THREE_HOURS = timedelta(hours=3)


@dataclass(frozen=True)
class PlacedOrder:
    """A booked order on a calendar, and the import that it is one of, if any."""

    id: int
    at: datetime
    import_number: int | None

    def may_be_near(self, other: PlacedOrder) -> bool:
        """Whether both are of one import."""
        return self.import_number is not None and self.import_number == other.import_number


@dataclass(frozen=True)
class ModelCalendar:
    """A calendar as a caller knows it."""

    title: str = ""
    spacing: timedelta = THREE_HOURS


@dataclass(frozen=True)
class CalendarAnswer:
    """What the service must answer: the status, a problem's slug, and what the problem says."""

    status: int
    problem: Literal["not-found", "validation-failed", "spacing-too-large", "calendar-in-use"] | None = None
    pairs: tuple[tuple[int, int], ...] = ()
    largest: timedelta | None = None
    orders: int = 0


@dataclass
class Calendars:
    """The calendars that there are, by name."""

    stored: dict[str, ModelCalendar] = field(default_factory=dict)

    def spacing(self, name: str) -> timedelta:
        """How far apart orders on a calendar are, also on one that its first order will make."""
        return self.stored.get(name, ModelCalendar()).spacing

    def cannot_be_made(self, name: str) -> bool:
        """Whether there is no such calendar, but one whose name differs only in case."""
        return name not in self.stored and name.lower() in {other.lower() for other in self.stored}

    def use(self, name: str) -> None:
        """Make a calendar, as an order does that is placed on it, unless there is one."""
        self.stored.setdefault(name, ModelCalendar())

    def put(self, name: str, fields: Mapping[str, Any], orders: Sequence[PlacedOrder]) -> CalendarAnswer:
        """Answer a PUT: ``fields`` has what it sends, ``orders`` those that are booked on the calendar."""
        if self.cannot_be_made(name):
            return CalendarAnswer(422, "validation-failed")
        return self._change(name, ModelCalendar(**fields), orders, 200 if name in self.stored else 201)

    def patch(self, name: str, fields: Mapping[str, Any], orders: Sequence[PlacedOrder]) -> CalendarAnswer:
        """Answer a PATCH: ``fields`` has what it sends, None where that is null."""
        if name not in self.stored:
            return CalendarAnswer(404, "not-found")
        kept, default = vars(self.stored[name]), vars(ModelCalendar())
        sent = {key: default[key] if value is None else value for key, value in fields.items()}
        return self._change(name, ModelCalendar(**kept | sent), orders, 200)

    def _change(
        self, name: str, wanted: ModelCalendar, orders: Sequence[PlacedOrder], status: int
    ) -> CalendarAnswer:
        near = [
            abs(one.at - other.at)
            for one, other in combinations(orders, 2)
            if not one.may_be_near(other) and abs(one.at - other.at) < wanted.spacing
        ]
        if near:
            by_time = sorted(orders, key=lambda order: (order.at, order.id))
            pairs = [
                (one.id, other.id)
                for one, other in pairwise(by_time)
                if not one.may_be_near(other) and other.at - one.at < wanted.spacing
            ]
            largest = timedelta(seconds=min(near) // timedelta(seconds=1))
            return CalendarAnswer(409, "spacing-too-large", tuple(pairs), largest)
        self.stored[name] = wanted
        return CalendarAnswer(status)

    def delete(self, name: str, orders: int) -> CalendarAnswer:
        """Answer a DELETE: ``orders`` is how many the calendar has, cancelled ones included."""
        if name not in self.stored:
            return CalendarAnswer(404, "not-found")
        if orders:
            return CalendarAnswer(409, "calendar-in-use", orders=orders)
        del self.stored[name]
        return CalendarAnswer(204)
