"""Readers of single values, from the bodies, paths and queries of requests, and from files. Pure.

Each returns the value, or raises ValueError with a text that says what is valid.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

GREATEST_ID = 10**18 - 1
"""Eighteen digits, so that a pattern in the contract can express it; the columns are ``bigint``."""

GREATEST_CALLERS_ID = 999_999_999_999
"""The greatest id that callers may choose. The server's own ids are greater, so the two never collide."""

GREATEST_POSITION = 10**18 - 1

GREATEST_FEE = Decimal("9999999999.99")
DEFAULT_CALENDAR = "default"

_ID = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_POSITION = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_CALENDAR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def read_id(value: object) -> int:
    """Read an id: a positive integer of at most 18 digits, as a string or as a JSON number (223.0 is 223)."""
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        # The bounds are checked first: as an integer, 1e999999 has a million digits.
        number = int(value) if 1 <= value <= GREATEST_ID and value == int(value) else 0
    elif isinstance(value, str) and _ID.fullmatch(value):
        number = int(value)
    else:
        number = 0
    if not 1 <= number <= GREATEST_ID:
        raise ValueError(f"must be an id: a whole number from 1 to {GREATEST_ID}, in plain digits")
    return number


def read_position(value: object) -> int:
    """Read a position, as digits or as an integer; 0 is before the first change."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= GREATEST_POSITION:
        return value
    if not isinstance(value, str) or not _POSITION.fullmatch(value):
        raise ValueError(f"must be a position: a whole number from 0 to {GREATEST_POSITION}, in plain digits")
    return int(value)


def read_callers_id(value: object) -> int:
    """Read the id that a caller chooses for a new order or service."""
    try:
        number = read_id(value)
    except ValueError:
        number = 0
    if not 1 <= number <= GREATEST_CALLERS_ID:
        raise ValueError(
            f"must be a whole number from 1 to {GREATEST_CALLERS_ID}, or omitted to have one assigned"
        )
    return number


def read_fee(value: object) -> Decimal:
    """Read a fee: a JSON number, never rounded."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("must be a number such as 100 or 99.95")  # noqa: TRY004 (one kind of error for every fault)
    if not 0 <= value <= GREATEST_FEE:
        raise ValueError(f"must be from 0 to {GREATEST_FEE}")
    fee = Decimal(value)
    if fee != fee.quantize(Decimal("0.01")):
        raise ValueError("must have at most two decimals; fees are never rounded")
    return abs(fee.quantize(Decimal("0.01")))


def read_calendar(value: object) -> str:
    """Read a calendar's name."""
    if not isinstance(value, str) or not _CALENDAR.fullmatch(value):
        raise ValueError(
            "must be 1 to 64 letters, digits, dots, underscores and hyphens, starting with a letter or digit"
        )
    return value


def read_service_name(value: object) -> str:
    """Read a service's name; space at its beginning or end is refused, not removed."""
    if not isinstance(value, str) or not 1 <= len(value) <= 100 or CONTROL_CHARACTERS.search(value):
        raise ValueError("must be a string of 1 to 100 characters, without control characters")
    if value != value.strip():
        raise ValueError("must not begin or end with space")
    return value


def one_of(*words: str) -> Callable[[str], str]:
    """Return a reader that accepts only these words."""

    def read(value: str) -> str:
        if value not in words:
            choice = f"{', '.join(words[:-1])} or {words[-1]}" if words[1:] else words[0]
            raise ValueError(f"must be {choice}")
        return value

    return read
