"""Starting processes again that ended: each after a pause, which grows while it keeps ending at once."""

from __future__ import annotations

import time

FIRST_PAUSE_SECONDS = 0.25
_FIRST_TRIES = 3
"""After how many ends in a row the pause grows; a process that was killed a few times is not at fault."""
LONGEST_PAUSE_SECONDS = 10.0
_STEADY_SECONDS = 5.0
"""A process that ran for this long did not end at once."""


class Restarts:
    """When one process is to be started again."""

    def __init__(self) -> None:
        self._started_at = time.monotonic()
        self._due_at: float | None = None
        self.in_a_row = 0
        """How often it has ended at once, without a steady run in between."""

    def record_start(self) -> None:
        """Record that it was started."""
        self._started_at, self._due_at = time.monotonic(), None

    def record_end(self) -> float:
        """Record that it ended, or could not be started; return the seconds until it is due."""
        now = time.monotonic()
        if now - self._started_at >= _STEADY_SECONDS and self._due_at is None:
            self.in_a_row = 0
        self.in_a_row += 1
        doublings = max(0, self.in_a_row - _FIRST_TRIES)
        pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(doublings, 10), LONGEST_PAUSE_SECONDS)
        self._due_at = now + pause
        return pause

    @property
    def is_waiting(self) -> bool:
        """Whether its end is recorded and its start is not."""
        return self._due_at is not None

    @property
    def is_due(self) -> bool:
        """Whether it is to be started now."""
        return self._due_at is not None and time.monotonic() >= self._due_at
