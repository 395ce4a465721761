"""How often random tests draw: as often as three minutes allow; ``make test ROUNDS=3``: three times that."""

from __future__ import annotations

import os

ROUNDS = int(os.environ.get("ROUNDS", "1"))


def seeds(first: int, count: int = 1) -> range:
    """Give the seeds of a test that runs once for each."""
    return range(first, first + count * ROUNDS)
