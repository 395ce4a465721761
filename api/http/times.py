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
    """Write a datetime in UTC with ``Z``: with milliseconds, or with microseconds if they are not zero.

    The function ``utc_text`` in PostgreSQL, which renders orders, writes the same form.
    """
    text = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.removesuffix("000") + "Z"


def read_datetime(value: object) -> datetime:
    """Read a datetime from 1970-01-01 to 2199-12-31, with a zone and at most microseconds.

    Raises:
        ValueError: it is not one; the text says what is valid.

    """
    if not isinstance(value, str):
        raise ValueError('must be a string such as "2022-11-01T11:11:11.111Z"')  # noqa: TRY004 (one kind of error for every fault)
    match = _RFC_3339.fullmatch(value)
    if not match:
        raise ValueError("must be an RFC 3339 datetime such as 2022-11-01T11:11:11.111Z")
    if not match["zone"]:
        raise ValueError("must have a time zone: end it with Z or an offset such as +05:30")
    if match["fraction"] and len(match["fraction"]) > 6:  # microseconds
        raise ValueError("must have at most six fractional digits: times are never rounded")
    try:
        at = datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a date, time and offset that exist") from None
    if not EARLIEST <= at <= LATEST:
        raise ValueError("must be between 1970-01-01T00:00:00Z and 2199-12-31T23:59:59.999999Z")
    return at
