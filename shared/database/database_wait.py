"""How long a request has waited for PostgreSQL, for its line in the log."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.database.sessions import Session

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
    """A block that waits for PostgreSQL, and is in no other such block.

    Args:
        session: the session that is to answer, if it has been chosen. Its pool closes it if it does not.

    """

    __slots__ = ("_began", "_session")

    def __init__(self, session: Session | None = None) -> None:
        self._session = session

    def __enter__(self) -> None:
        self._began = time.perf_counter()
        if self._session is not None:
            self._session.asked_at = self._began

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            self._session.asked_at = 0.0
        total = _total.get()
        if total is not None:
            total.seconds += time.perf_counter() - self._began
