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
    if os.environ.get("OMS_LOG_FORMAT") == "json":
        line = {
            "event": text,
            "level": level,
            "logger": "command",
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        }
        text = json_line(line)
    else:
        text = escape_control_characters(text)
    print(text, file=file or (sys.stderr if level == "error" else sys.stdout), flush=True)
