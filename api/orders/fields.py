"""Readers of single values of an order, as in ``api/http/fields.py``. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from api.http.fields import read_callers_id
from api.http.texts import visible_text
from shared.cells import own_cell

GREATEST_FEE = Decimal("9999999999.99")
_CENT = Decimal("0.01")
DEFAULT_CALENDAR = "default"

LONGEST_REFERENCE = 64
MOST_METADATA = 50
LONGEST_METADATA_KEY = 40
LONGEST_METADATA_VALUE = 500
BOOKED, CANCELLED = "booked", "cancelled"

_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_CALENDAR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def read_fee(value: object) -> Decimal:
    """Read a fee: a JSON number, never rounded."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        quoted = ", without quotes" if isinstance(value, str) else ""
        raise ValueError(f"must be a number such as 100 or 99.95{quoted}")  # noqa: TRY004 (one kind of error for every fault)
    if not 0 <= value <= GREATEST_FEE:
        raise ValueError(f"must be from 0 to {GREATEST_FEE}")
    fee = Decimal(value).quantize(_CENT)
    if fee != value:
        raise ValueError("must have at most two decimals; fees are never rounded")
    return abs(fee)


def read_calendar(value: object) -> str:
    """Read a calendar's name."""
    if not isinstance(value, str) or not _CALENDAR.fullmatch(value):
        raise ValueError(
            "must be 1 to 64 letters, digits, dots, underscores and hyphens, starting with a letter or digit"
        )
    return value


read_reference = visible_text(LONGEST_REFERENCE)
"""Read the reference that a caller gives an order."""

read_metadata_key = visible_text(LONGEST_METADATA_KEY)
"""Read a key of an order's metadata."""


def read_metadata_value(value: object) -> str:
    """Read a value of an order's metadata: a text, which may be empty and have several lines."""
    if not isinstance(value, str) or len(value) > LONGEST_METADATA_VALUE:
        raise ValueError(f"must be a string of at most {LONGEST_METADATA_VALUE} characters")
    if _NO_TEXT.search(value):
        raise ValueError("must not contain control characters other than line ends and tabs")
    return value


def read_metadata_change(value: object) -> str | None:
    """Read a value of a merge patch: null removes the key."""
    return None if value is None else read_metadata_value(value)


def read_status_of_new(value: object) -> str:
    """Read the status of an order that is created."""
    if value != BOOKED:
        raise ValueError(f"must be {BOOKED}, or left out; POST /orders/{{order_id}}/cancel cancels an order")
    return BOOKED


def read_status(value: object) -> str:
    """Read a status."""
    if value not in (BOOKED, CANCELLED):
        raise ValueError(f"must be {BOOKED} or {CANCELLED}")
    return str(value)


def merge_metadata(metadata: Mapping[str, str], change: Mapping[str, str | None] | None) -> dict[str, Any]:
    """Apply a merge patch (RFC 7396) to an order's metadata; None removes all of it."""
    if change is None:
        return {}
    return {key: value for key, value in {**metadata, **change}.items() if value is not None}


def read_new_order_id(value: object) -> int:
    """Read an id that a caller chooses for an order: in a cell, one by which a router finds the cell."""
    cell = own_cell()
    if cell is None:
        return read_callers_id(value)
    ids = cell.callers_ids
    try:
        order_id = read_callers_id(value)
    except ValueError:
        order_id = 0
    if order_id not in ids:
        raise ValueError(
            f"must be a whole number from {ids.start} to {ids.stop - 1} in cell {cell.name}, or omitted "
            "to have one assigned"
        )
    return order_id
