"""Progress of a count over all orders: the callback, and the line that commands show."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

ReportProgress = Callable[[int, int], None]
"""Called with how many orders are counted so far, and how many there are."""


def no_progress(_counted: int, _total: int) -> None:
    """Ignore the progress."""


class ProgressLine:
    """A line on standard error at most once a second; nothing for a run that is shorter than that."""

    def __init__(self, command: str, pause: float = 1) -> None:
        self._command = command
        self._pause = pause
        self._began = self._written_at = time.monotonic()

    def __call__(self, counted: int, total: int) -> None:
        """Show how many of how many orders are counted."""
        now = time.monotonic()
        if now - self._written_at < self._pause or counted == 0:
            return
        self._written_at = now
        left = (now - self._began) / counted * max(0, total - counted)
        self._write(f"{counted:,} of {total:,} orders, about {left:.0f} s left")

    def note(self, text: str) -> None:
        """Show what else is being done, unless the run is still short."""
        if time.monotonic() - self._began >= self._pause:
            self._write(text)

    def _write(self, text: str) -> None:
        sys.stderr.write(f"{self._command}: {text}\n")
        sys.stderr.flush()
