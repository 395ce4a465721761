"""JSON texts (RFC 8259): read strictly, with exact numbers; written with fees as numbers.

Python's reader takes the last of two equal keys, ``NaN``, and numbers as floats. None of these is accepted.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_KEYS = 10_000
"""Limit for all objects of a body together; a full batch has half as many. Each may be a fault to name."""

encode = msgspec.json.Encoder(decimal_format="number").encode
"""Write a value as JSON, in UTF-8; decimals as numbers, with all their digits."""


def encode_text(value: object) -> str:
    """Write a value as JSON text."""
    return encode(value).decode()


class UnreadableJsonError(ValueError):
    """A text can't be read as JSON; the message says why, as the predicate of a sentence about the text."""


def read_json(body: bytes, most_keys: float = MOST_KEYS) -> Any:
    """Read a JSON text in UTF-8, its numbers exactly: integers as int, all others as Decimal.

    Args:
        body: the text.
        most_keys: how many keys its objects may have together; ``math.inf`` for a file.

    Raises:
        UnreadableJsonError: not UTF-8, a byte order mark, not JSON, a key that appears twice in an object,
            NaN or Infinity, nested too deep, too many keys, a number with too many digits, a NUL or a lone
            surrogate.

    """
    try:
        text = body.decode()
        value = json.loads(
            text,
            parse_float=Decimal,
            object_pairs_hook=_object_reader(most_keys),
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise UnreadableJsonError(f"is not UTF-8, at byte {error.start}") from None
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, at line {error.lineno} column {error.colno}" if body else "it is empty"
        raise UnreadableJsonError(f"is not JSON: {reason}") from None
    except RecursionError:
        raise UnreadableJsonError("is nested too deep") from None
    except UnreadableJsonError:
        raise
    except (ValueError, ArithmeticError):
        # Python refuses integers of more than 4,300 digits and exponents of more than 18.
        raise UnreadableJsonError("holds a number that is too long") from None
    if "\\u" in text and _has_unreadable_text(value):
        raise UnreadableJsonError("holds a NUL or half of a surrogate pair")
    return value


def _object_reader(most_keys: float) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """Make a reader for the objects of one JSON text."""
    keys = 0

    def read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal keys
        keys += len(pairs)
        if keys > most_keys:
            raise UnreadableJsonError(f"has objects with more than {most_keys:,} keys together")
        members: dict[str, Any] = {}
        for key, value in pairs:
            if key in members:
                raise UnreadableJsonError(f"has the key {key[:100]!r} twice in one object")
            members[key] = value
        return members

    return read_object


def _refuse_constant(name: str) -> None:
    raise UnreadableJsonError(f"holds {name}, which is not JSON")


def _has_unreadable_text(value: Any) -> bool:
    match value:
        case str():
            return "\0" in value or any("\ud800" <= c <= "\udfff" for c in value)
        case list():
            return any(map(_has_unreadable_text, value))
        case dict():
            return any(map(_has_unreadable_text, value)) or any(map(_has_unreadable_text, value.values()))
        case _:
            return False
