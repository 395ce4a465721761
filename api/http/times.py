"""Datetimes as the API writes and reads them (RFC 3339). Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2199, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
"""The first and the last datetime of an order."""

_AFTER_LATEST = datetime(2200, 1, 1, tzinfo=UTC)

MILLISECOND = timedelta(milliseconds=1)
"""What datetimes of orders are multiples of."""

_MILLISECONDS, _MICROSECONDS = 3, 6
_LONGEST = 64

_RFC_3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}T(\d{2}):\d{2}:(\d{2})(\.\d+)?(Z|[+-]\d{2}:[0-5]\d)?",
    re.ASCII,
)
"""Its groups are the hour, the second, the fraction and the zone."""

_DATE, _TIME = r"\d{4}-\d{2}-\d{2}", r"\d{2}:\d{2}:\d{2}(\.\d+)?"
_MISTAKES = [
    (re.compile(pattern, re.ASCII | re.DOTALL), reason)
    for pattern, reason in (
        (r"\s.*|.*\s", ": there is space before or after it"),
        (_DATE, ": the time is missing"),
        (rf"{_TIME}.*|\d{{2}}:\d{{2}}", ": the date is missing"),
        (rf"{_DATE}T\d{{2}}(:\d{{2}})?([Zz]|[+-].*)?", ": the seconds are missing"),
        (rf"{_DATE}T{_TIME}[+-]\d{{4}}", ": the offset needs a colon, as in +05:30"),
        (rf"{_DATE}T{_TIME}[+-]\d{{2}}", ": the offset needs minutes, as in +05:30"),
        (rf"{_DATE}T{_TIME}\u2212.*", ": the offset needs a hyphen (U+002D) as its minus"),
        (rf"{_DATE}T{_TIME} \d{{2}}:?\d{{2}}", ": a + in a URL means a space, so send it as %2B"),
        (rf"{_DATE}T{_TIME}.*\[.*\]", ": leave out the name of the zone in brackets"),
        (rf"{_DATE}T{_TIME} *(UTC|GMT)", ": write Z for UTC"),
        (rf"{_DATE}T\d{{2}}:\d{{2}}:\d{{2}},\d+.*", ": the fraction begins with a dot, not a comma"),
        (rf"{_DATE}[Tt]{_TIME}([Zz]|[+-]\d{{2}}:\d{{2}})", ": T and Z must be capital letters"),
        (rf"{_DATE} {_TIME}.*", ": a T separates date and time"),
        (r"\d{8}T\d{6}.*", ": the hyphens and colons are missing"),
        (r"[+-]?\d+(\.\d+)?", ", not a number of seconds"),
    )
]
"""Texts that clients send, and what is wrong with each."""


def utc_text(at: datetime) -> str:
    """Write a datetime in UTC with ``Z``: with milliseconds, or with microseconds if they are not zero.

    The function ``utc_text`` in PostgreSQL, which renders orders, writes the same form.
    """
    text = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.removesuffix("000") + "Z"


def current_millisecond() -> datetime:
    """Return the current time to the millisecond, rounded down."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1_000 * 1_000)


def read_datetime(value: object) -> datetime:
    """Read a datetime of an order: to the millisecond, from 1970 to 2199, with a zone.

    Clients that keep milliseconds only, such as those in JavaScript, can so send back what they were given.

    Raises:
        ValueError: it is not one; the text says what is valid.

    """
    at, fraction = _read(value)
    if len(fraction) > _MILLISECONDS:
        shorter = re.sub(r"\.(\d{3})\d+", r".\1", str(value))
        raise ValueError(f"must be to the millisecond, as in {shorter}; further digits must be zeros")
    return at


def read_time(value: object) -> datetime:
    """Read a point in time to compare datetimes with, which may be to the microsecond.

    Raises:
        ValueError: it is not one; the text says what is valid.

    """
    at, fraction = _read(value)
    if len(fraction) > _MICROSECONDS:
        raise ValueError("must be to the microsecond; further digits must be zeros")
    return at


def _read(value: object) -> tuple[datetime, str]:
    """Return a datetime and the digits of its fraction, without zeros at their end."""
    if not isinstance(value, str):
        is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
        but = ", not a number of seconds" if is_number else ""
        raise ValueError(f'must be a string such as "2022-11-01T11:11:11.111Z"{but}')  # noqa: TRY004 (one kind of error for every fault)
    match = _RFC_3339.fullmatch(value) if len(value) <= _LONGEST else None
    if not match:
        mistakes = (reason for pattern, reason in _MISTAKES if pattern.fullmatch(value[: _LONGEST + 1]))
        raise ValueError(f"must be an RFC 3339 datetime such as 2022-11-01T11:11:11.111Z{next(mistakes, '')}")
    hour, second, fraction, zone = match.groups()
    if not zone:
        raise ValueError("must have a time zone: end it with Z or an offset such as +05:30")
    if second == "60":
        raise ValueError("must have seconds from 00 to 59; send a leap second as 59.999")
    if hour == "24":  # Python 3.14 takes it for midnight
        raise ValueError("must have hours from 00 to 23; send 24:00 as 00:00 of the next day")
    try:
        at = datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a date, time and offset that exist") from None
    if not EARLIEST <= at < _AFTER_LATEST:
        raise ValueError("must be between 1970-01-01T00:00:00Z and 2199-12-31T23:59:59.999Z")
    return at, fraction[1:].rstrip("0") if fraction else ""
