"""Readers of single values of an order, as in ``api/http/fields.py``. Pure."""

from __future__ import annotations

import re
from decimal import Decimal

GREATEST_FEE = Decimal("9999999999.99")
_CENT = Decimal("0.01")
DEFAULT_CALENDAR = "default"

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
