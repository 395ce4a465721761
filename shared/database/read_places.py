"""Where a statement that only reads is run: on the primary, or on a standby that the request has chosen.

The choice is made for a whole request (``READ_PLACE``), by the routes that read (``api/http/read_after.py``).
Statements inside a transaction, and tasks with a context of their own, always use the primary.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

import asyncpg

from shared.database.sessions import DRIVER_ERRORS, ends_session, sqlstate_of
from shared.database.unavailability import DatabaseUnavailableError, OverloadedError
from shared.metrics.declared import Count, Greatest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from shared.database.engine import Engine
    from shared.database.sessions import Session

T = TypeVar("T")

_CONFLICTS = (
    "40001",  # a conflict with recovery: rows that the statement needs were removed on the primary
    "40P01",  # recovery and the statement wait for each other
    "55P03",  # recovery holds a lock, of a TRUNCATE for example
    "57014",  # cancelled, by recovery or by the time limit
)
"""SQLSTATEs with which a standby ends one statement, and is as usable as before."""


class StandbyFailedError(Exception):
    """The standby did not run a statement; the primary has to. Nothing of an answer was sent yet."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """``conflict``, ``busy`` or ``unavailable``."""


class ReadPlace:
    """A standby, from when it answers until it fails for the first time.

    In this time what it shows never goes back. A server that restarts may for a while show less than before:
    then its sessions have ended, and so has the place.
    """

    def __init__(self, engine: Engine, position: int) -> None:
        self._engine = engine
        self._running: set[asyncio.Timeout] = set()
        self._connections: WeakSet[Session] = WeakSet()
        self._ended = asyncio.Event()
        self.position = position
        """A position of the change log that it has reached."""

    @property
    def is_over(self) -> bool:
        """Whether it has failed."""
        return self._ended.is_set()

    def end(self) -> None:
        """Use the standby no more: statements that wait for it raise ``StandbyFailedError``."""
        self._ended.set()
        now = asyncio.get_running_loop().time()
        running, self._running = self._running, set()
        for timeout in running:
            timeout.reschedule(now)
        for connection in self._connections:  # otherwise their transactions would wait to be rolled back
            connection.terminate()

    async def wait_for_end(self) -> None:
        """Wait until it fails."""
        await self._ended.wait()

    @asynccontextmanager
    async def until_over(self) -> AsyncIterator[None]:
        """Run a block that talks to the standby, and end it when the standby fails.

        Raises:
            StandbyFailedError: it has failed, or has refused the block's statement.

        """
        if self.is_over:
            raise StandbyFailedError("unavailable")
        try:
            async with asyncio.timeout(None) as timeout:
                self._running.add(timeout)
                try:
                    yield
                finally:
                    self._running.discard(timeout)
        except (DatabaseUnavailableError, *DRIVER_ERRORS) as error:
            self._judge(error)
            raise

    def _judge(self, error: Exception) -> None:
        """Raise what an error means for the statement, and end the place if the server failed.

        Raises:
            StandbyFailedError: the primary may run the statement.

        """
        if sqlstate_of(error.__cause__ or error) in _CONFLICTS:
            raise StandbyFailedError("conflict") from error
        busy = (TimeoutError, asyncpg.TooManyConnectionsError)
        if isinstance(error, OverloadedError) or (not self.is_over and isinstance(error.__cause__, busy)):
            raise StandbyFailedError("busy") from error
        if isinstance(error, (DatabaseUnavailableError, OSError)) or ends_session(error):
            if not self.is_over:
                self.end()
            raise StandbyFailedError("unavailable") from error

    async def run(self, run: Callable[..., Awaitable[T]], sql: str, *args: object) -> T:
        """Run one statement, as ``Engine.run_alone`` does.

        Raises:
            StandbyFailedError: the primary has to run it.

        """
        async with self.until_over():
            return await self._engine.run_alone(run, sql, *args)

    async def connect(self) -> Session:
        """Open a connection of its own to the standby; the caller closes it.

        Raises:
            StandbyFailedError: it can't be reached.

        """
        async with self.until_over():
            connection = await self._engine.connect()
        self._connections.add(connection)
        return connection


READ_PLACE: ContextVar[ReadPlace | None] = ContextVar("read_place", default=None)
"""Where statements outside transactions are run; None: on the primary."""

READS = Count(
    "read_requests_total",
    "Requests that a standby may answer, by where they were begun.",
    ("place",),
    from_start=(("primary",), ("standby",)),
    is_optional=True,
)
FALLBACKS = Count(
    "read_fallbacks_total",
    "Reads that a standby was asked for and the primary answered, by reason.",
    ("reason",),
    from_start=(("behind",), ("busy",), ("conflict",), ("unavailable",)),
    is_optional=True,
)
STANDBY_LAG = Greatest(
    "standby_lag_seconds",
    "How far the standby in use is behind; of several processes, the furthest.",
    is_optional=True,
)


def leave_standby(reason: str) -> None:
    """Read on the primary for the rest of the request: what it reads must not go back to an older state."""
    FALLBACKS.add(reason)
    READ_PLACE.set(None)


@contextmanager
def reading_at(place: ReadPlace | None) -> Iterator[None]:
    """Run the statements of the block at a place; None: on the primary."""
    token = READ_PLACE.set(place)
    try:
        yield
    finally:
        READ_PLACE.reset(token)
