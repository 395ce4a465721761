"""Why changes can't be returned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class PositionNotInLogError(Exception):
    """A subscriber's position is not in the log: older than what is retained, or from another log.

    A position is *ahead* after PostgreSQL was restored from a backup: those changes were lost, and other
    ones will have their positions.
    """

    after: int
    first: int
    last: int
