"""How often random tests run: ``make test ROUNDS=3`` runs each of them three times as often."""

from __future__ import annotations

import os

ROUNDS = int(os.environ.get("ROUNDS", "1"))


def seeds(first: int, count: int = 1) -> range:
    """Return the seeds of a test that runs once for each of them."""
    return range(first, first + count * ROUNDS)
