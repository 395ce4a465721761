"""Text from outside, made safe to print: nothing in it can move a cursor, hide text or forge a line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def escape_control_characters(text: str) -> str:
    r"""Return the text with each character that is not printable as Python's escape: ``\x1b``, ``\u202e``.

    These are the ones that ``str.isprintable`` names: control characters (C0, DEL and C1, so line feeds too),
    direction and other invisible characters, separators except the space, unassigned ones, half surrogates.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def json_line(value: object, default: Callable[[Any], Any] | None = None) -> str:
    """Write a value as JSON in ASCII without DEL: terminals act on C1 and direction characters."""
    return json.dumps(value, default=default).replace("\x7f", "\\u007f")
