"""Files with keys: which contents they have is for their settings and options to say."""

from __future__ import annotations

from pathlib import Path


def read_key_file(file: str | Path) -> str:
    """Return the text of a file.

    Raises:
        ValueError: it can't be read; the message says why, as the predicate of a sentence about the file.

    """
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ValueError(f"can't be read ({reason})") from None
