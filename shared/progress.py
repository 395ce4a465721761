"""The progress of a command that handles every order: the callback, and the line that the command shows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import msgspec

from shared.command_output import print_line


class Progress(msgspec.Struct, frozen=True):
    """How many of the orders a step of the command has handled."""

    done: int
    total: int
    step: str = "counted"
    """What the step does with an order, as a participle; each step begins with 0."""
    is_last_step: bool = True


ReportProgress = Callable[[Progress], None]


def ignore_progress(_progress: Progress) -> None:
    """Show nothing."""


class ProgressLine:
    """Writes a line to standard error, at most once a second; none for a run that is shorter than that.

    And none where nobody looks: standard error must be a terminal, unless ``is_shown`` says otherwise.
    """

    def __init__(self, command: str, pause: float = 1, *, is_shown: bool | None = None) -> None:
        self._command = command
        self._is_shown = sys.stderr.isatty() if is_shown is None else is_shown
        self._pause = pause
        self._began = self._step_began = self._written_at = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Show how far the command is, with an estimate in its last step, unless a line was just written."""
        now = time.monotonic()
        if progress.done == 0:  # the time that earlier steps took says nothing about this one
            self._step_began = now
        elif now - self._written_at >= self._pause:
            self._written_at = now
            seconds = (now - self._step_began) / progress.done * max(0, progress.total - progress.done)
            left = f", about {seconds:.0f} s left" if progress.is_last_step else ""
            self._write(f"{progress.done:,} of {progress.total:,} orders {progress.step}{left}")

    def note(self, text: str) -> None:
        """Show what else is being done, unless the run is still short."""
        if time.monotonic() - self._began >= self._pause:
            self._write(text)

    def count(self, done: int, what: str) -> None:
        """Show how much is done of something whose end is not known, unless a line was just written."""
        now = time.monotonic()
        if now - self._written_at >= self._pause:
            self._written_at = now
            self._write(f"{done:,} {what}")

    def _write(self, text: str) -> None:
        if self._is_shown:
            print_line(f"{self._command}: {text}", file=sys.stderr)
