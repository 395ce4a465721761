"""The 3-hour rule, as pure functions.

Two orders on a calendar are at least three hours apart, either way. Exactly 3:00:00 apart is allowed, a
millisecond less is refused. PostgreSQL enforces it: see the constraint ``orders_spacing`` in
``shared/database/schema.sql``.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CLEARANCE = timedelta(hours=3)


def free_intervals(
    taken: Iterable[datetime], earliest: datetime, latest: datetime
) -> Iterator[tuple[datetime, datetime]]:
    """Yield the intervals, both ends included, in which a further order's datetime may fall.

    ``taken`` are the calendar's orders' datetimes in ascending order, including those up to three hours
    outside of ``earliest`` … ``latest``. An interval may be a single instant.
    """
    free_from = earliest
    for at in taken:
        free_until = min(at - CLEARANCE, latest)
        if free_from <= free_until:
            yield free_from, free_until
        free_from = max(free_from, at + CLEARANCE)
    if free_from <= latest:
        yield free_from, latest
