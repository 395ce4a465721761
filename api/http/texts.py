"""Readers of texts that people read, as those in ``api/http/fields.py``. Pure."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from api.http.fields import INVISIBLE_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Callable

_INVISIBLE = re.compile(f"[{INVISIBLE_CHARACTERS}]|[\ud800-\udfff]")

LONGEST_REASON = 200


def visible_text(longest: int) -> Callable[[object], str]:
    """Return a reader of 1 to ``longest`` characters. What could make two texts look the same is refused."""

    def read(value: object) -> str:
        if not isinstance(value, str) or len(value) > longest:
            raise ValueError(f"must be a string of 1 to {longest} characters")
        if not value.strip():
            raise ValueError("must not be blank")
        invisible = _INVISIBLE.search(value)
        if invisible:
            code = f"U+{ord(invisible[0]):04X} {unicodedata.name(invisible[0], '').lower()}".rstrip()
            raise ValueError(
                f"must contain only characters that can be seen; character {invisible.start() + 1} is {code}"
            )
        if value != value.strip():
            raise ValueError("must not begin or end with space")
        return value

    return read


read_reason = visible_text(LONGEST_REASON)
"""Read why something is changed."""
