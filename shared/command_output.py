"""What commands print: a line of text, or of JSON where ``OMS_LOG_FORMAT`` is ``json``, as in logs."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

from shared.control_characters import escape_control_characters, json_line


def print_line(text: str, *, level: Literal["info", "error"] = "info", file: TextIO | None = None) -> None:
    """Print a line to ``file``; by default to standard output, or to standard error if it is an error.

    Control characters are escaped: file names, and what a file holds, come from outside.

    The environment is read here and not through the settings: a health check, which starts every few seconds,
    takes no time to read those.
    """
    line = _json_line(text, level) if _is_json() else escape_control_characters(text)
    print(line, file=file or (sys.stderr if level == "error" else sys.stdout), flush=True)


def _is_json() -> bool:
    return os.environ.get("OMS_LOG_FORMAT") == "json"


def _json_line(text: str, level: str) -> str:
    timestamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return json_line({"event": text, "level": level, "logger": "command", "timestamp": timestamp})


class StartRefusedError(SystemExit):
    """A process can't start; the text says what to do.

    Unhandled, it ends the process with that text on standard error and exit status 1, without a stack trace.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        if _is_json():
            self.code = _json_line(text, "error")  # what the interpreter prints
