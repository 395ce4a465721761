"""Why changes can't be returned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class PositionNotInLogError(Exception):
    """A subscriber's position is not in the log: older than what is retained, or from another log.

    A position can be ahead of the log if PostgreSQL was restored from a backup: the changes up to it were
    lost, and new ones will get their positions.
    """

    after: int
    first: int
    last: int
