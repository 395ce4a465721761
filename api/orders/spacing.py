"""The spacing of calendars, as pure functions.

Two booked orders on a calendar are at least its spacing apart, either way: three hours, unless it is given
another. Exactly 3:00:00 apart is allowed, a millisecond less is refused. PostgreSQL enforces it: see the
constraint ``orders_spacing`` in ``shared/database/schema.sql``.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CLEARANCE = timedelta(hours=3)
"""The spacing of a calendar that was not given another."""

SHORTEST_SPACING = timedelta(minutes=1)
LONGEST_SPACING = timedelta(days=7)


def spaced_datetimes(
    intervals: Iterable[tuple[datetime, datetime]], spacing: timedelta
) -> Iterator[datetime]:
    """Yield the earliest datetimes in free intervals that orders could all have, one after the other.

    Args:
        intervals: free ones of a calendar, both ends included, ascending. Those of a calendar are at least
            twice its spacing apart, as an order is between them.
        spacing: of the calendar.

    """
    for begin, end in intervals:
        at = begin
        while at <= end:
            yield at
            at += spacing
