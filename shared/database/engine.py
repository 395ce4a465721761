"""The PostgreSQL engine and its pool.

Piccolo waits for a free connection without a time limit; here the wait is bounded, for all of Piccolo's
queries too. Transactions are in ``shared/database/transaction.py``.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
from asyncpg.connect_utils import SessionAttribute
from piccolo.engine.postgres import PostgresEngine

from shared.database.lock_retry import LockWaiters, retry_while_locked
from shared.database.sessions import (
    READ_ONLY,
    Session,
    close_session,
    ends_session,
    is_unavailability,
    sqlstate_of,
)
from shared.database.waiting_line import Slots, TooLongError, WaitingLine
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

T = TypeVar("T")


class DatabaseUnavailableError(Exception):
    """PostgreSQL can't be reached, is starting or stopping, or no connection is free. Try again soon."""


class DatabaseReadOnlyError(DatabaseUnavailableError):
    """The session can't write: a standby, or ``default_transaction_read_only``. Nothing is stored."""


class OverloadedError(DatabaseUnavailableError):
    """More wait for a connection than can get one in time. Nothing is stored; try again later."""


class LockTimeoutError(DatabaseUnavailableError):
    """Another transaction held a lock for ``OMS_STATEMENT_TIMEOUT``. Nothing is stored; try again later."""


class OutcomeUnknownError(DatabaseUnavailableError):
    """The connection broke while a transaction was committed: nothing or all of it is stored."""


@asynccontextmanager
async def translate_connection_errors(*, connecting: bool = False) -> AsyncIterator[None]:
    """Run a block that talks to PostgreSQL.

    Args:
        connecting: the block only opens a session, so whatever the server refuses is not a statement's fault.

    Raises:
        DatabaseUnavailableError: the server or the session failed; raised in place of asyncpg's error.

    """
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        if not (is_unavailability(error) or (connecting and isinstance(error, asyncpg.PostgresError))):
            raise
        kind = DatabaseReadOnlyError if sqlstate_of(error) == READ_ONLY else DatabaseUnavailableError
        raise kind(str(error) or type(error).__name__) from error


@contextmanager
def translate_overload() -> Iterator[None]:
    """Run a block that waits for a connection.

    Raises:
        OverloadedError: the wait would be too long.

    """
    try:
        yield
    except TooLongError:
        raise OverloadedError("too many requests wait for the database") from None


async def _keep_session_state(_connection: object) -> None:
    """Skip asyncpg's RESET on release: it costs a round trip, and no statement here sets session state."""


WAIT_WHILE_LOCKED_SECONDS = 1.0
"""The longest wait for a write slot while many wait for locks: most who come now would be refused when they
have one."""

CONNECTIONS_FOR_READERS = 2
"""Connections that writing transactions leave free, in the pool of a process that serves requests."""


class Engine(PostgresEngine):
    """Piccolo's engine, with a time limit on the wait for a connection."""

    _write_slots: Slots | None = None
    _lock_waiters: LockWaiters | None = None
    _line = WaitingLine(1)
    """Of those who wait for a connection of the pool."""

    async def check_version(self) -> None:
        """Skip Piccolo's check of the server's version: it would connect while this module is imported."""

    async def start(self, size: int, *, serving: bool = False) -> None:
        """Open the pool. One per process and event loop.

        Args:
            size: connections at most.
            serving: the process serves requests. Then no statement waits long for a lock
                (``shared/database/lock_retry.py``), and writers always leave connections for readers.

        """
        session = dict(self.config["server_settings"])
        if serving:
            session["lock_timeout"] = f"{settings().lock_wait * 1000:.0f}"
        self._write_slots = Slots(max(1, size - CONNECTIONS_FOR_READERS)) if serving else None
        most_waiters = int(settings().statement_timeout / settings().lock_wait)
        self._lock_waiters = LockWaiters(most_waiters) if serving else None
        self._line = WaitingLine(size)
        await self.start_connection_pool(
            server_settings=session,
            # It connects at first use: a process may start while the server is unreachable.
            min_size=0,
            max_size=size,
            reset=_keep_session_state,
            max_inactive_connection_lifetime=60,
        )

    async def stop(self, grace: float = 5) -> None:
        """Close the pool; terminate connections that are still in use after ``grace`` seconds."""
        pool = self.pool
        if pool is None:
            return
        self.pool = None
        try:
            await asyncio.wait_for(pool.close(), timeout=grace)
        except TimeoutError:
            pool.terminate()

    async def acquire(self) -> Any:
        """Take a connection, waiting ``OMS_POOL_WAIT`` at most.

        Raises:
            OverloadedError: none will be free in time.
            DatabaseUnavailableError: no connection was free in time, or the server can't be reached.

        """
        async with translate_connection_errors(connecting=True):
            if self.pool is None:
                return await self.get_new_connection()
            with translate_overload(), self._line.waiting(settings().pool_wait):
                connection: Any = await self.pool.acquire(timeout=settings().pool_wait)
                while connection.must_be_replaced:
                    close_session(connection)
                    connection = await self.pool.acquire(timeout=settings().pool_wait)
                return connection

    @asynccontextmanager
    async def write_slot(self) -> AsyncIterator[None]:
        """Hold one of the slots for transactions that write, waiting ``OMS_POOL_WAIT`` at most, or less.

        Only the pool of a process that serves requests has such slots; with others there is no wait.

        Raises:
            OverloadedError: none was, or will be, free in time.

        """
        if self._write_slots is None:
            yield
            return
        longest = settings().pool_wait
        if self._lock_waiters is not None and self._lock_waiters.are_many:
            longest = min(longest, WAIT_WHILE_LOCKED_SECONDS)
        with translate_overload():
            async with self._write_slots.slot(longest):
                yield

    async def retry_while_locked(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run one statement or one transaction, and run it again as long as a lock that it needs is held.

        Raises:
            LockTimeoutError: the lock was held until ``OMS_STATEMENT_TIMEOUT`` was over.

        """
        if (
            self._lock_waiters is None
        ):  # the process serves no requests; its statements wait inside PostgreSQL
            return await work()
        try:
            return await retry_while_locked(work, self._lock_waiters, settings().statement_timeout)
        except asyncpg.LockNotAvailableError as error:
            raise LockTimeoutError(str(error)) from error

    async def connect(self) -> Any:
        """Open a connection outside the pool; the caller closes it.

        Raises:
            DatabaseUnavailableError: the server can't be reached.

        """
        async with translate_connection_errors(connecting=True):
            return await self.get_new_connection()

    async def release(self, connection: Any) -> None:
        """Return a connection to its pool, which closes one that can't be used again."""
        if isinstance(connection, asyncpg.pool.PoolConnectionProxy):
            # If the server ends the connection at this moment, asyncpg frees its place in the pool and
            # raises. That must not reach a caller whose transaction has committed.
            with suppress(asyncpg.InternalClientError):
                await connection._holder._pool.release(connection)  # noqa: SLF001 (its pool, even if stopped since)
            self._line.free()
        else:
            await connection.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Use the current transaction's connection, or one from the pool for the length of the block."""
        transaction = self.current_transaction.get()
        if transaction is not None:
            yield transaction.connection
            return
        connection = await self.acquire()
        try:
            yield connection
        except BaseException as error:
            if ends_session(error):
                close_session(connection)
            raise
        finally:
            await asyncio.shield(self.release(connection))

    async def _run_in_pool(self, query: str, args: Sequence[Any] | None = None) -> list[Any]:
        return await self.fetch(query, *(args or ()))

    async def fetch(self, sql: str, *args: object) -> list[Any]:
        """Run one statement, prepared once per connection, and return its rows."""
        return await self._run_statement(lambda connection: connection.fetch(sql, *args))

    async def fetch_with_custom_plan(self, sql: str, *args: object) -> list[Any]:
        """Run one statement with a custom plan for these arguments; one round trip more than ``fetch``.

        For statements whose best plan depends on their arguments. A prepared statement may get a generic plan
        after its fifth execution, which suits common values and can be very slow for rare ones.
        """

        async def fetch(connection: Any) -> list[Any]:
            statement = await connection.prepare(sql, name="")
            rows: list[Any] = await statement.fetch(*args)
            return rows

        return await self._run_statement(fetch)

    async def execute(self, sql: str, *args: object) -> int:
        """Run one statement; return how many rows it inserted, updated, deleted or selected."""

        async def execute(connection: Any) -> int:
            status: str = await connection.execute(sql, *args)
            count = status.rpartition(" ")[2]  # "UPDATE 3", "INSERT 0 1", "SET"
            return int(count) if count.isdigit() else 0

        return await self._run_statement(execute)

    async def _run_statement(self, run: Callable[[Any], Awaitable[T]]) -> T:
        async def once() -> T:
            async with translate_connection_errors(), self.connection() as connection:
                return await run(connection)

        # Within a transaction there is no retry here: the whole transaction has to start over.
        return await (self.retry_while_locked(once) if self.current_transaction.get() is None else once())


def _create_engine() -> Engine:
    settings_ = settings()
    return Engine(
        # No extensions: with any, Piccolo connects while this module is imported.
        extensions=(),
        config={
            "dsn": settings_.database_url,
            "timeout": settings_.pool_wait,
            "connection_class": Session,
            # A standby stores nothing, and what it shows may be older than what callers were answered. Of
            # several hosts, the primary is used.
            "target_session_attrs": (
                None if "target_session_attrs=" in settings_.database_url else SessionAttribute.primary
            ),
            "server_settings": {
                "application_name": "oms",
                "timezone": "UTC",
                "statement_timeout": f"{int(settings_.statement_timeout * 1000)}",
                "idle_in_transaction_session_timeout": "60000",
                # Also of statements without BEGIN, whatever the role or the database has as its default.
                "default_transaction_isolation": "read committed",
                # Every statement is short and prepared once: compiling it costs more than it saves.
                "jit": "off",
            },
        },
    )


DB = _create_engine()
