"""Why figures can't be given. Nouns with data; ``api/problem_map.py`` says how each is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


@dataclass
class ReportExpiredError(Exception):
    """Figures of that position can't be given any more, or are of another log or time zone."""

    position: int
    latest: int
    reason: str


@dataclass
class SummariesBehindError(Exception):
    """The figures don't include what was asked for yet."""

    position: int
    time: datetime
    requested: str
    """What was asked for, in words."""
    requested_position: int | None
    """Its position; None while it has none."""


@dataclass
class ReportTooLargeError(Exception):
    """A report with ``fill=zero`` would have more items than one report may have."""

    items: int
    limit: int


@dataclass
class OrderVersionNotFoundError(Exception):
    """No such order was ever at such a version, as far as anything is known of it."""

    order_id: int
    version: int
    is_known: bool
    """Whether the order is there, or changes of it are; otherwise it may have been, long ago."""
