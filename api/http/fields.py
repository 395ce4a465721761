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

_ID = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_POSITION = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
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
    """Read an id that a caller chooses."""
    try:
        number = read_id(value)
    except ValueError:
        number = 0
    if not 1 <= number <= GREATEST_CALLERS_ID:
        raise ValueError(
            f"must be a whole number from 1 to {GREATEST_CALLERS_ID}, or omitted to have one assigned"
        )
    return number


def one_of(*words: str) -> Callable[[str], str]:
    """Return a reader that accepts only these words."""

    def read(value: str) -> str:
        if value not in words:
            choice = f"{', '.join(words[:-1])} or {words[-1]}" if words[1:] else words[0]
            raise ValueError(f"must be {choice}")
        return value

    return read
