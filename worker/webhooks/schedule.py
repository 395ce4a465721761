"""The retry schedule: when a delivery is attempted again, and when a failing webhook is disabled. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

RETRY_SCHEDULE_SECONDS = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""The pause before each attempt: 0, 5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 24 h; 75 h 35 min in all.

The schedule of Standard Webhooks' reference implementation, with one pause more before the last.
"""

JITTER = 0.1
"""A pause is prolonged by up to this fraction, so that deliveries that failed together are spread out."""

DISABLED_AFTER = timedelta(days=5)
"""A webhook that has only failed for this long is disabled."""

SERIES_BREAKS_AFTER = timedelta(days=2)
"""A failure this long after the previous one starts a new series. Two attempts of one delivery are never
further apart (twice the longest pause), so nothing was sent in between, and the webhook's health is
unknown."""

PAUSE_WHILE_IMPOSSIBLE_SECONDS = 60.0
"""The pause after an attempt that could not be made because of this service itself."""


def pause_before_next(failed: int, jitter: float, retry_after: float | None = None) -> float | None:
    """Return the seconds from a failed attempt to the next; None if it was the last.

    Args:
        failed: attempts that failed so far, 1 or more.
        jitter: a random number from 0 to 1.
        retry_after: the seconds that the endpoint asked for. They count from the pause of the schedule up to
            twice that, so that no endpoint can bring attempts together or postpone them indefinitely.

    """
    if failed >= len(RETRY_SCHEDULE_SECONDS):
        return None
    pause = RETRY_SCHEDULE_SECONDS[failed]
    planned = pause * (1 + JITTER * jitter)
    return planned if retry_after is None else min(max(planned, retry_after), 2.0 * pause)


def read_retry_after(value: str | None, now: datetime) -> float | None:
    """Read a Retry-After header (RFC 9110, section 10.2.3) as seconds from now; None: missing or invalid."""
    if value is None:
        return None
    text = value.strip()
    if len(text) > 64:  # an HTTP date has 29 characters
        return None
    if text.isascii() and text.isdigit() and len(text) < 10:  # 30 years are enough
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # a number in it may be too long
        return None
    # In an HTTP date, a missing zone means UTC.
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds())


def failing_since_when(
    failing_since: datetime | None, last_failure_at: datetime | None, now: datetime
) -> datetime:
    """Return since when a webhook that has just failed has only failed."""
    if failing_since is None or last_failure_at is None or now - last_failure_at > SERIES_BREAKS_AFTER:
        return now
    return failing_since


def must_be_disabled(failing_since: datetime, now: datetime) -> bool:
    """Return whether a webhook that has only failed since then must be disabled now."""
    return now - failing_since >= DISABLED_AFTER
