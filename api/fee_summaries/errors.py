"""Why figures can't be given. Nouns with data; ``api/problems.py`` says how each is answered."""

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
    asked: str
    """What was asked for, in words."""
    asked_position: int | None
    """Its position; None while it has none."""


@dataclass
class OrderVersionNotFoundError(Exception):
    """No such order was ever at such a version, as far as anything is known of it."""

    order_id: int
    version: int
    is_known: bool
    """Whether the order is there, or changes of it are; otherwise it may have been, long ago."""
