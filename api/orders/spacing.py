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


def free_intervals(
    taken: Iterable[datetime], earliest: datetime, latest: datetime, spacing: timedelta = CLEARANCE
) -> Iterator[tuple[datetime, datetime]]:
    """Yield the intervals, both ends included, in which a further order's datetime may fall.

    ``taken`` are the datetimes of the calendar's booked orders in ascending order, including those up to the
    calendar's spacing outside of ``earliest`` … ``latest``. An interval may be a single instant.
    """
    free_from = earliest
    for at in taken:
        free_until = min(at - spacing, latest)
        if free_from <= free_until:
            yield free_from, free_until
        free_from = max(free_from, at + spacing)
    if free_from <= latest:
        yield free_from, latest
