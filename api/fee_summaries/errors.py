"""Why figures can't be returned. ``api/problem_map.py`` says how each error is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


@dataclass
class ReportExpiredError(Exception):
    """The position is too far back by now, or from another change log or time zone."""

    position: int
    latest: int
    reason: str


@dataclass
class SummariesBehindError(Exception):
    """The figures don't include what was requested yet."""

    position: int
    time: datetime
    requested: str
    """What was requested, in words."""
    requested_position: int | None
    """Its position; None while it has none."""


@dataclass
class ReportTooLargeError(Exception):
    """A report with ``fill=zero`` would have more items than one report may have."""

    items: int
    limit: int


@dataclass
class OrderVersionNotFoundError(Exception):
    """The order has no such version, as far as the stored orders and changes show."""

    order_id: int
    version: int
    is_known: bool
    """Whether the order exists or changes of it are retained. Otherwise it may have existed, long ago."""
