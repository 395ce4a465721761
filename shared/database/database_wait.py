"""How long a request has waited for PostgreSQL, for its line in the log."""

from __future__ import annotations

import time
from contextvars import ContextVar

_total: ContextVar[DatabaseWait | None] = ContextVar("database_wait", default=None)


class DatabaseWait:
    """The sum of a request's waits, for connections and locks too; more than its duration if some overlap."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0


def measure_database_wait() -> DatabaseWait:
    """Begin to measure in the current context, and in the tasks that are started in it."""
    total = DatabaseWait()
    _total.set(total)
    return total


class WaitingForDatabase:
    """A block that waits for PostgreSQL, and is in no other such block."""

    __slots__ = ("_began",)

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        total = _total.get()
        if total is not None:
            total.seconds += time.perf_counter() - self._began
