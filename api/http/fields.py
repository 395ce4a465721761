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

GREATEST_CALLERS_ID = 999_999_999_999_999
"""The greatest id that callers may choose. The server's own ids are greater, so the two never collide."""

GREATEST_POSITION = 10**18 - 1

GREATEST_VERSION = 2**31 - 1

_ID = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_POSITION = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

INVISIBLE_CHARACTERS = (
    r"\u0000-\u001f\u007f-\u009f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u115f-\u1160"
    r"\u17b4-\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0"
    r"\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e0fff"
)
"""Characters that can't be seen, as ranges of a regular expression, both in Python and in PostgreSQL.

Unicode's control, format and separator characters (Cc, Cf, Zl, Zp); those that it calls default ignorable, of
no width or for the direction or the variant of others; and the blank of Braille. Names that differ only in
them look the same.
"""


def read_id(value: object) -> int:
    """Read an id: a positive integer of at most 18 digits, as a string or as a JSON number (223.0 is 223)."""
    if isinstance(value, str):
        if _ID.fullmatch(value):
            return int(value)
    elif (
        isinstance(value, int | Decimal)
        and not isinstance(value, bool)
        and 1 <= value <= GREATEST_ID  # checked first: as an integer, 1e999999 has a million digits
        and value == (number := int(value))
    ):
        return number
    raise ValueError(f"must be an id: a whole number from 1 to {GREATEST_ID}, in plain digits")


def read_position(value: object) -> int:
    """Read a position, as digits or as an integer; 0 is before the first change."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= GREATEST_POSITION:
        return value
    if not isinstance(value, str) or not _POSITION.fullmatch(value):
        raise ValueError(f"must be a position: a whole number from 0 to {GREATEST_POSITION}, in plain digits")
    return int(value)


def whole_number(least: int, greatest: int) -> Callable[[object], int]:
    """Return a reader for a JSON number without a fraction (1.0 is 1)."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | Decimal) or not least <= value <= greatest:
            raise ValueError(f"must be a whole number from {least} to {greatest}")
        if value != int(value):
            raise ValueError("must be a whole number")
        return int(value)

    return read


def chosen_id(greatest: int) -> Callable[[object], int]:
    """Return a reader for an id that is given to a new order or service."""

    def read(value: object) -> int:
        try:
            number = read_id(value)
        except ValueError:
            number = 0
        if not 1 <= number <= greatest:
            raise ValueError(f"must be a whole number from 1 to {greatest}, or omitted to have one assigned")
        return number

    return read


read_callers_id = chosen_id(GREATEST_CALLERS_ID)
"""Read an id that a caller chooses."""


def one_of(*words: str) -> Callable[[str], str]:
    """Return a reader that accepts only these words."""

    def read(value: str) -> str:
        if value not in words:
            choice = f"{', '.join(words[:-1])} or {words[-1]}" if words[1:] else words[0]
            raise ValueError(f"must be {choice}")
        return value

    return read
