"""The heartbeat of a process that listens on no port: a file that each run of its main loop touches.

``python -m shared.heartbeat`` is the health check: exit status 0 if the file was touched recently. A process
that hangs in a call, or is stopped by a signal, no longer touches it.
"""

from __future__ import annotations

import os
import sys
import time
from functools import cache
from pathlib import Path

from shared.command_output import print_line

LONGEST_SILENCE_SECONDS = 30.0
"""Longer than one run of the loop may take: a statement's time limit, and a Redis that hangs."""


def beat() -> None:
    """Touch the heartbeat file, if one is set. A failure is logged and does not end the loop."""
    from shared.settings import settings

    file = settings().heartbeat_file
    if file:
        try:
            Path(file).touch()
        except OSError as error:
            _log_once(file, error.strerror or str(error))


@cache
def _log_once(file: str, reason: str) -> None:
    import structlog

    structlog.get_logger("heartbeat").error("heartbeat_failed", file=file, reason=reason)


def main() -> int:
    """Run from the command line; 0 when the process has touched its file recently.

    The check starts every few seconds, and reads its one variable itself: reading all settings takes longer.
    """
    file = os.environ.get("OMS_HEARTBEAT_FILE", "")
    if not file:
        print_line("heartbeat: OMS_HEARTBEAT_FILE is not set", level="error")
        return 1
    try:
        age_seconds = time.time() - Path(file).stat().st_mtime
    except OSError as error:
        print_line(f"heartbeat: {file}: {error.strerror}", level="error")
        return 1
    if age_seconds > LONGEST_SILENCE_SECONDS:
        print_line(f"heartbeat: {file}: not touched for {age_seconds:.0f} s", level="error")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
