"""The version of the program."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_VERSION_FILE = Path(__file__).parents[1] / "contract" / "openapi.yaml"


@cache
def version() -> str:
    """Return the version of the program, which is that of its contracts."""
    with _VERSION_FILE.open() as contract:
        for line in contract:
            if line.startswith("  version: "):
                return line.removeprefix("  version: ").strip().strip("\"'")
    raise ValueError(f"{_VERSION_FILE} names no version")
