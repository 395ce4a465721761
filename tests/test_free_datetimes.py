"""The datetimes that are free one after the other, as a pure function."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from api.orders.spacing import spaced_datetimes
from tests.builders import MILLISECOND, NOON, later

minutes = st.integers(0, 600)


@given(spacing=st.integers(1, 200), taken=st.sets(minutes, max_size=6), most=st.integers(1, 9))
def test_each_is_the_earliest_that_keeps_the_spacing_from_orders_and_those_before_it(
    spacing: int, taken: set[int], most: int
) -> None:
    """Compared with trying one minute after the other."""
    expected: list[datetime] = []
    free = []
    for minute in range(1_201):
        if all(abs(minute - other) >= spacing for other in taken):
            free.append(minute)
            if not expected or later(minutes=minute) - expected[-1] >= timedelta(minutes=spacing):
                expected.append(later(minutes=minute))
    intervals: list[tuple[datetime, datetime]] = []
    for minute in free:
        at = later(minutes=minute)
        if intervals and at - intervals[-1][1] == timedelta(minutes=1):
            intervals[-1] = (intervals[-1][0], at)
        else:
            intervals.append((at, at))
    assert list(islice(spaced_datetimes(intervals, timedelta(minutes=spacing)), most)) == expected[:most]


def test_the_last_datetime_may_be_the_end_of_an_interval() -> None:
    """Ends are included, to the millisecond."""
    three_hours = timedelta(hours=3)
    assert list(spaced_datetimes([(NOON, later(hours=6))], three_hours)) == [
        NOON,
        later(hours=3),
        later(hours=6),
    ]
    assert len(list(spaced_datetimes([(NOON, later(hours=6) - MILLISECOND)], three_hours))) == 2
    assert list(spaced_datetimes([], three_hours)) == []
