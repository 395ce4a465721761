"""JSON texts (RFC 8259): read strictly, with exact numbers; written with fees as numbers.

Python's reader takes the last of two equal keys, ``NaN``, and numbers as floats. None of these is accepted.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_KEYS = 10_000
"""Limit for all objects of a body together; a full batch has half as many. Each may be a fault to name."""

_FEWEST_BYTES_OF_A_MEMBER = 5
"""``"":1,``."""

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
    text = ""
    try:
        text = body.decode()
        # So short a text has no room for too many keys. To make a decoder takes as long as to read an order.
        is_short = len(body) < most_keys * _FEWEST_BYTES_OF_A_MEMBER
        value = (_DECODER if is_short else _decoder(_object_reader(most_keys))).decode(text)
    except UnicodeDecodeError as error:
        utf_16 = " but UTF-16" if body.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else ""
        raise UnreadableJsonError(f"is not UTF-8{utf_16}, at byte {error.start}") from None
    except json.JSONDecodeError as error:
        reason = _what_is_wrong(text, error)
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
        return _read_object(pairs)

    return read_object


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise UnreadableJsonError(f"has the key {_repeated_key(pairs)[:100]!r} twice in one object")
    return members


def _repeated_key(pairs: list[tuple[str, Any]]) -> str:
    before: set[str] = set()
    for key, _ in pairs:
        if key in before:
            return key
        before.add(key)
    raise ValueError("no key is repeated")


def _refuse_constant(name: str) -> None:
    raise UnreadableJsonError(f"holds {name}, which is not JSON: send a number, or leave it out")


def _decoder(read_object: Callable[[list[tuple[str, Any]]], dict[str, Any]]) -> json.JSONDecoder:
    return json.JSONDecoder(
        parse_float=Decimal, object_pairs_hook=read_object, parse_constant=_refuse_constant
    )


_DECODER = _decoder(_read_object)

_MISTAKES = [
    (re.compile(before + r"\Z"), re.compile(after), reason)
    for before, after, reason in (
        ("", "\ufeff", "it begins with a byte order mark; send it without"),
        ("", "'", "texts and names are in double quotes, not in single quotes"),
        ("", "[\u201c-\u201f\u00ab\u00bb]", "texts and names are in straight double quotes"),
        ("", r",\s*[}\]]", "no comma may follow the last element"),
        (r",\s*", r"[}\]]", "no comma may follow the last element"),
        ("", r"//|/\*|#", "JSON has no comments"),
        ("", r"(True|False|None|TRUE|FALSE|NULL|Null)\b", "write true, false and null in small letters"),
        ("", r"(undefined|[nN][aA][nN]|[+-]?[iI]nf)\b", "it holds a word that is not JSON"),
        (r"[{,]\s*", r"[\w$]+\s*:", "names of members are in double quotes"),
        (r"[:,\[]\s*", r"\+[\d.]", "a number has no plus sign"),
        (r"[:,\[]\s*-?0", r"\d", "a number has no leading zeros"),
        ("", r"-?\.\d", "a number has a digit before its decimal point"),
        (r"\d", r"\.(?!\d)", "a number has a digit after its decimal point"),
        (r":\s*-?\d+,\s*", r"\d+\s*[,}]", "a number has a decimal point, not a comma"),
        (r"\A", r"\w+=", "it is a form, not JSON"),
    )
]
"""What stands before and at the place that can't be read, and what is wrong with it; the first that fits."""


def _what_is_wrong(text: str, error: json.JSONDecodeError) -> str:
    if not text.strip():
        return "it is empty"
    # A window is enough: a mistake is at most a few characters long.
    before, at = text[max(error.pos - 40, 0) : error.pos], text[error.pos : error.pos + 40]
    mistakes = (what for past, now, what in _MISTAKES if past.search(before) and now.match(at))
    return f"{next(mistakes, error.msg)}, at line {error.lineno} column {error.colno}"


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
