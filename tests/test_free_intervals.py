"""The intervals that are free, as a pure function."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from api.orders.spacing import free_intervals
from tests.builders import MILLISECOND, NOON, later, too_close

moments = st.integers(0, 1_500).map(lambda m: later(minutes=m))


@given(taken=st.lists(moments, max_size=8), bounds=st.tuples(moments, moments))
def test_free_intervals_contain_exactly_the_free_moments(
    taken: list[datetime], bounds: tuple[datetime, datetime]
) -> None:
    """Compared with a check of each minute; bounds are included."""
    earliest, latest = min(bounds), max(bounds)
    free = list(free_intervals(sorted(taken), earliest, latest))
    for (_, end), (start, _) in pairwise(free):
        assert end < start
    for start, end in free:
        assert earliest <= start <= end <= latest
    for minute in range(1_501):
        at = later(minutes=minute)
        if earliest <= at <= latest:
            is_free = not any(too_close(at, other) for other in taken)
            assert is_free == any(start <= at <= end for start, end in free)


def test_a_free_interval_may_be_a_single_instant() -> None:
    """Between two orders that are six hours apart."""
    around = [NOON, later(hours=6)]
    assert list(free_intervals(around, NOON, later(hours=6))) == [(later(hours=3), later(hours=3))]
    assert list(free_intervals(around, NOON, later(hours=3) - MILLISECOND)) == []


def test_without_orders_the_whole_window_is_free() -> None:
    """One interval, as long as the window."""
    assert list(free_intervals([], NOON, later(hours=1))) == [(NOON, later(hours=1))]
    assert list(free_intervals([], NOON, NOON)) == [(NOON, NOON)]
