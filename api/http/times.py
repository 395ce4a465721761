"""Datetimes as the API writes and reads them (RFC 3339). Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2199, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)

_RFC_3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.(?P<fraction>\d+))?(?P<zone>Z|[+-]\d{2}:[0-5]\d)?", re.ASCII
)

_DATE, _TIME = r"\d{4}-\d{2}-\d{2}", r"\d{2}:\d{2}:\d{2}(\.\d+)?"
_MISTAKES = [
    (re.compile(pattern, re.ASCII), reason)
    for pattern, reason in (
        (_DATE, ": the time is missing"),
        (rf"{_DATE}T\d{{2}}:\d{{2}}(Z|[+-].*)?", ": the seconds are missing"),
        (rf"{_DATE}T{_TIME}[+-]\d{{4}}", ": the offset needs a colon, as in +05:30"),
        (rf"{_DATE}T{_TIME} \d{{2}}:?\d{{2}}", ": a + in a URL means a space, so send it as %2B"),
        (rf"{_DATE} {_TIME}.*", ": a T separates date and time"),
        (r"-?\d+(\.\d+)?", ", not a number of seconds"),
    )
]
"""Texts that clients send, and what is wrong with each."""


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
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        raise ValueError('must be a string such as "2022-11-01T11:11:11.111Z", not a number of seconds')  # noqa: TRY004 (one kind of error for every fault)
    if not isinstance(value, str):
        raise ValueError('must be a string such as "2022-11-01T11:11:11.111Z"')  # noqa: TRY004 (as above)
    match = _RFC_3339.fullmatch(value)
    if not match:
        reason = next((reason for pattern, reason in _MISTAKES if pattern.fullmatch(value)), "")
        raise ValueError(f"must be an RFC 3339 datetime such as 2022-11-01T11:11:11.111Z{reason}")
    if not match["zone"]:
        raise ValueError("must have a time zone: end it with Z or an offset such as +05:30")
    if match["fraction"] and len(match["fraction"]) > 6:  # microseconds
        raise ValueError("must have at most six fractional digits: times are never rounded")
    if value[17:19] == "60":
        raise ValueError("must have seconds from 00 to 59; send a leap second as 59.999")
    try:
        at = datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a date, time and offset that exist") from None
    if not EARLIEST <= at <= LATEST:
        raise ValueError("must be between 1970-01-01T00:00:00Z and 2199-12-31T23:59:59.999999Z")
    return at
