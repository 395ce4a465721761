"""The retry schedule, as a pure function."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from worker.webhooks.schedule import (
    DISABLED_AFTER,
    RETRY_SCHEDULE_SECONDS,
    SERIES_BREAKS_AFTER,
    failing_since_when,
    must_be_disabled,
    pause_before_next,
    read_retry_after,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_the_retry_schedule_is_the_documented_one() -> None:
    """0, 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h."""
    minute, hour = 60, 3_600
    assert (
        0,
        5,
        5 * minute,
        30 * minute,
        *(hours * hour for hours in (2, 5, 10, 14, 20, 24)),
    ) == RETRY_SCHEDULE_SECONDS
    pauses = [pause_before_next(failed, jitter=0) for failed in range(1, len(RETRY_SCHEDULE_SECONDS) + 1)]
    assert pauses == [*RETRY_SCHEDULE_SECONDS[1:], None]


def test_jitter_lengthens_a_delay_by_at_most_a_tenth() -> None:
    """A delay is never shortened."""
    assert pause_before_next(2, jitter=0.5) == 315
    assert pause_before_next(2, jitter=1) == 330


@pytest.mark.parametrize(
    ("retry_after", "pause"), [(0, 300), (299, 300), (301, 301), (450.5, 450.5), (600, 600), (86_400, 600)]
)
def test_retry_after_counts_between_the_scheduled_delay_and_twice_that_delay(
    retry_after: float, pause: float
) -> None:
    """An endpoint can neither bring attempts together nor postpone them forever."""
    assert pause_before_next(2, jitter=0, retry_after=retry_after) == pause


def test_retry_after_never_adds_an_attempt_after_the_last() -> None:
    """Retry-After does not lengthen the schedule."""
    assert pause_before_next(len(RETRY_SCHEDULE_SECONDS), jitter=0, retry_after=10) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0),
        ("Sun, 22 Nov 2026 12:00:30 -0000", 30),
        ("-5", None),
        ("1e3", None),
        ("١٢", None),
        ("9999999999", None),
        ("Sun, 22 Nov 99999999999999999999 12:00:30 GMT", None),
        ("Sun, 22 Nov 2026 12:00:30 +99999999999999999999", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    """Anything else is ignored."""
    assert read_retry_after(header, NOW) == seconds


def test_a_webhook_is_disabled_after_exactly_five_days_of_failures() -> None:
    """A microsecond earlier it is still enabled."""
    assert timedelta(days=5) == DISABLED_AFTER
    assert must_be_disabled(NOW - timedelta(days=5), NOW)
    assert not must_be_disabled(NOW - timedelta(days=5, microseconds=-1), NOW)


def test_a_long_pause_begins_a_new_series_of_failures() -> None:
    """Two attempts of one delivery are never that far apart, so nothing was sent meanwhile."""
    assert 2 * RETRY_SCHEDULE_SECONDS[-1] <= SERIES_BREAKS_AFTER.total_seconds()
    since = NOW - timedelta(days=9)
    assert failing_since_when(since, NOW - timedelta(days=2), NOW) == since
    assert failing_since_when(since, NOW - timedelta(days=2, seconds=1), NOW) == NOW
    assert failing_since_when(None, NOW, NOW) == NOW
