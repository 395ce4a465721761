"""What commands show: JSON for machines, tables for people, and colours on a terminal only."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Literal, TextIO

from shared.command_output import print_line
from shared.control_characters import escape_control_characters

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Colour = Literal["red", "green", "yellow"]
_NOT_PRINTABLE_ASCII = re.compile(r"[^ -~]+")
_CODES: dict[Colour, int] = {"red": 31, "green": 32, "yellow": 33}


def print_json(value: Any) -> None:
    """Print JSON on one line, in ASCII: terminals act on other characters. Decimals stay numbers."""
    import msgspec

    text = msgspec.json.Encoder(decimal_format="number").encode(value).decode()
    print(_NOT_PRINTABLE_ASCII.sub(_escape, text), flush=True)


def _escape(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1].replace("\x7f", "\\u007f")


def _is_coloured(stream: TextIO) -> bool:
    # https://no-color.org
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_parts(*parts: str | tuple[str, Colour]) -> None:
    """Print a line of parts, some with a colour: on a terminal only, unless ``NO_COLOR`` is set."""
    texts = [part if isinstance(part, str) else part[0] for part in parts]
    if not _is_coloured(sys.stdout):
        print_line("".join(texts))
        return
    colours = [None if isinstance(part, str) else part[1] for part in parts]
    escaped = map(escape_control_characters, texts)
    shown = (
        text if colour is None else f"\x1b[{_CODES[colour]}m{text}\x1b[0m"
        for text, colour in zip(escaped, colours, strict=True)
    )
    print("".join(shown), flush=True)


def print_table(rows: Iterable[Sequence[object]]) -> None:
    """Print rows with their columns below each other; nothing if there are none."""
    texts = [[str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print_line("  ".join(cells).rstrip())
