"""Datetimes as the API writes and reads them (RFC 3339). Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2199, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)

_RFC_3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.(?P<fraction>\d+))?(?P<zone>Z|[+-]\d{2}:[0-5]\d)?", re.ASCII
)


def utc_text(at: datetime) -> str:
    """Write a datetime in UTC with ``Z``, to the millisecond, or to the microsecond if it has any.

    The same form as PostgreSQL's function of that name, which renders orders.
    """
    text = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.removesuffix("000") + "Z"


def read_datetime(value: object) -> datetime:
    """Read a datetime of 1970-01-01 to 2199-12-31, with a zone and at most microseconds.

    Raises:
        ValueError: it is none; the text says what would be right.

    """
    if not isinstance(value, str):
        message = 'must be a string such as "2022-11-01T11:11:11.111Z"'
        raise ValueError(message)  # noqa: TRY004 (one kind of error for one kind of fault)
    found = _RFC_3339.fullmatch(value)
    if not found:
        message = "must be an RFC 3339 datetime such as 2022-11-01T11:11:11.111Z"
        raise ValueError(message)
    if not found["zone"]:
        message = "must say its zone: end it with Z or an offset such as +05:30"
        raise ValueError(message)
    if found["fraction"] and len(found["fraction"]) > 6:  # microseconds
        message = "must have at most six digits of a second: times are kept to the microsecond, never rounded"
        raise ValueError(message)
    try:
        at = datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        message = "must be a date, time and offset that exist"
        raise ValueError(message) from None
    if not EARLIEST <= at <= LATEST:
        message = "must be within 1970-01-01T00:00:00Z and 2199-12-31T23:59:59.999999Z"
        raise ValueError(message)
    return at
