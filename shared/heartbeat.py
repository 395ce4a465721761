"""The sign of life of a process that listens nowhere: a file, touched at each round of its loop.

``python -m shared.heartbeat`` is its health check: exit status 0 if the file was touched lately. A process
that hangs, in a call or stopped by a signal, stops touching it.
"""

from __future__ import annotations

import os
import sys
import time
from functools import cache
from pathlib import Path

LONGEST_SILENCE_SECONDS = 30.0
"""Above what a round may take: a statement's time limit, and a Redis that hangs."""


def beat() -> None:
    """Show that the loop goes round; nothing if no file is named. The loop goes on if it can't be shown."""
    from shared.settings import settings

    file = settings().heartbeat_file
    if file:
        try:
            Path(file).touch()
        except OSError as error:
            _say_once(file, error.strerror or str(error))


@cache
def _say_once(file: str, reason: str) -> None:
    import structlog

    structlog.get_logger("heartbeat").error("heartbeat_failed", file=file, reason=reason)


def main() -> int:
    """Run from the command line; 0 when the process beside it goes round.

    It starts every few seconds: reading all settings for one of them would take seven times as long.
    """
    file = os.environ.get("OMS_HEARTBEAT_FILE", "")
    if not file:
        sys.stderr.write("heartbeat: OMS_HEARTBEAT_FILE names no file\n")
        return 1
    try:
        silent = time.time() - Path(file).stat().st_mtime
    except OSError as error:
        sys.stderr.write(f"heartbeat: {file}: {error.strerror}\n")
        return 1
    if silent > LONGEST_SILENCE_SECONDS:
        sys.stderr.write(f"heartbeat: {file}: nothing for {silent:.0f} s\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
