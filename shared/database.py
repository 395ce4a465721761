"""The PostgreSQL engine, its pool, and the one edge at which a transaction commits.

Piccolo's own transaction skips the release of its connection when COMMIT or ROLLBACK raises (a deferred
constraint, a cancelled request, a killed backend): the pool drains, and as Piccolo acquires without a
time limit, every later request then hangs. Both are mended here, for all of Piccolo's queries.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar

import asyncpg
from piccolo.engine.postgres import PostgresEngine, PostgresTransaction

from shared.patience import patiently
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
    from types import TracebackType

P = ParamSpec("P")
T = TypeVar("T")
Row = dict[str, Any]
Isolation = Literal["read_committed", "repeatable_read"]


class DatabaseUnavailableError(Exception):
    """PostgreSQL can't be reached, is starting or stopping, or has no connection free. Try again soon."""


class HeldUpError(DatabaseUnavailableError):
    """Others held for ``OMS_STATEMENT_TIMEOUT`` what this needed. Nothing is stored; try again later."""


class OutcomeUnknownError(DatabaseUnavailableError):
    """The connection broke during a COMMIT: nothing or all of the transaction is stored."""


UNAVAILABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # sent between the server's farewell and the socket's end
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    OSError,
    TimeoutError,
)
"""What asyncpg raises when the fault is the server's or the connection's, never the statement's."""


@asynccontextmanager
async def naming_unavailability() -> AsyncIterator[None]:
    """Run a block that talks to PostgreSQL.

    Raises:
        DatabaseUnavailableError: in place of what asyncpg raises when that is the reason.

    """
    try:
        yield
    except UNAVAILABLE as error:
        if isinstance(error, ValueError):
            # An argument that asyncpg can't encode is an InterfaceError too: a hole in our validation.
            raise
        raise DatabaseUnavailableError(str(error) or type(error).__name__) from error


async def _keep_session_state(_connection: object) -> None:
    """Replace asyncpg's RESET on every release, a round trip of its own: we leave no session state."""


class Transaction(PostgresTransaction):
    """Piccolo's transaction, which gives its connection back whatever COMMIT or ROLLBACK do."""

    engine: Engine

    def __init__(self, engine: Engine, isolation: Isolation, *, readonly: bool) -> None:
        super().__init__(engine, allow_nested=False)
        self.isolation: Isolation = isolation
        self.readonly = readonly

    async def __aenter__(self) -> Self:
        # Not get_connection(): Piccolo's waits for one without limit.
        self.connection = await self.engine.acquire()
        try:
            self.transaction = self.connection.transaction(isolation=self.isolation, readonly=self.readonly)
            await self.begin()
        except BaseException:
            await self._give_back()
            raise
        self.context = self.engine.current_transaction.set(self)
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        try:
            if exception is None:
                await self._commit()
            elif not self.connection.is_closed():
                await self.rollback()
        finally:
            self.engine.current_transaction.reset(self.context)
            await self._give_back()
        return False

    async def _commit(self) -> None:
        try:
            await self.commit()
        except UNAVAILABLE as error:
            if self.readonly:
                raise
            # The server may have carried it out before it could say so.
            raise OutcomeUnknownError(str(error) or type(error).__name__) from error

    async def _give_back(self) -> None:
        # Shielded: a request cancelled right here would otherwise keep its connection for ever.
        await asyncio.shield(self.engine.release(self.connection))


KEPT_FOR_READERS = 2
"""Connections of a pool that serves requests which transactions that write leave alone."""


class Engine(PostgresEngine):
    """Piccolo's engine with a bounded wait for a connection, and a release that can't be skipped."""

    _turns: asyncio.Semaphore | None = None
    _repeats: asyncio.Semaphore | None = None

    async def check_version(self) -> None:
        """Leave out Piccolo's look at the server's version: it connects while this module is imported."""

    async def start(self, size: int, *, serving: bool = False) -> None:
        """Open the pool. One per process and event loop.

        Args:
            size: connections at most.
            serving: it serves requests: no statement waits long for a lock (``shared.patience``), and
                whatever is written, there is a connection left to read with.

        """
        session = dict(self.config["server_settings"])
        if serving:
            session["lock_timeout"] = f"{settings().lock_wait * 1000:.0f}"
        self._turns = asyncio.Semaphore(max(1, size - KEPT_FOR_READERS)) if serving else None
        self._repeats = asyncio.Semaphore(1) if serving else None
        await self.start_connection_pool(
            server_settings=session,
            # It connects when first asked: a process may start while the server is away.
            min_size=0,
            max_size=size,
            reset=_keep_session_state,
            max_inactive_connection_lifetime=60,
        )

    async def stop(self, grace: float = 5) -> None:
        """Close the pool, ending what is still running after ``grace`` seconds."""
        pool = self.pool
        if pool is None:
            return
        self.pool = None
        try:
            await asyncio.wait_for(pool.close(), timeout=grace)
        except TimeoutError:
            pool.terminate()

    async def acquire(self) -> asyncpg.pool.PoolConnectionProxy[Any] | asyncpg.Connection[Any]:
        """Take a connection, waiting ``OMS_POOL_WAIT`` at most.

        Raises:
            DatabaseUnavailableError: none was free in time, or the server can't be reached.

        """
        async with naming_unavailability():
            if self.pool is None:
                return await self.get_new_connection()
            return await self.pool.acquire(timeout=settings().pool_wait)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one's turn to write, ``OMS_POOL_WAIT`` at most, where the pool serves requests."""
        if self._turns is None:
            yield
            return
        async with asyncio.timeout(settings().pool_wait):
            await self._turns.acquire()
        try:
            yield
        finally:
            self._turns.release()

    async def patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run one statement, or one transaction, again while a lock that it needs is held.

        Raises:
            HeldUpError: it was held all the time.

        """
        if self._repeats is None:  # it doesn't serve, and waits inside PostgreSQL
            return await work()
        try:
            return await patiently(work, self._repeats, settings().statement_timeout)
        except asyncpg.LockNotAvailableError as error:
            raise HeldUpError(str(error)) from error

    async def connect(self) -> Any:
        """Open a connection outside of the pool; the caller closes it.

        Raises:
            DatabaseUnavailableError: the server can't be reached.

        """
        async with naming_unavailability():
            return await self.get_new_connection()

    async def release(self, connection: Any) -> None:
        """Give a connection back; one that is in no state to be used again is closed by the pool."""
        if isinstance(connection, asyncpg.pool.PoolConnectionProxy):
            # A connection that the server ends at this moment frees its place itself, and the pool says so:
            # no reason to tell a caller whose transaction has committed that it has not.
            with suppress(asyncpg.InternalClientError):
                await connection._holder._pool.release(connection)  # noqa: SLF001 (its pool, even if stopped since)
        else:
            await connection.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Lend the current transaction's connection, or one from the pool."""
        transaction = self.current_transaction.get()
        if transaction is not None:
            yield transaction.connection
            return
        connection = await self.acquire()
        try:
            yield connection
        finally:
            await asyncio.shield(self.release(connection))

    async def _run_in_pool(self, query: str, args: Sequence[Any] | None = None) -> list[Row]:
        return await self.fetch(query, *(args or ()))

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        """Run one statement, prepared once per connection; arguments stand as ``$1``, ``$2``, … in it."""
        return await self._run_alone_or_within(lambda connection: connection.fetch(sql, *args))

    async def fetch_planned_afresh(self, sql: str, *args: object) -> list[Row]:
        """Run one statement, planned for these arguments; a round trip more than ``fetch``.

        For statements whose best plan depends on their arguments: one prepared for good may get a plan for
        any arguments after its fifth use, and that one suits common values and is ruinous for rare ones.
        """

        async def planned_afresh(connection: Any) -> list[Row]:
            statement = await connection.prepare(sql, name="")
            found: list[Row] = await statement.fetch(*args)
            return found

        return await self._run_alone_or_within(planned_afresh)

    async def _run_alone_or_within(self, run: Callable[[Any], Awaitable[list[Row]]]) -> list[Row]:
        async def once() -> list[Row]:
            async with naming_unavailability(), self.connection() as connection:
                return await run(connection)

        # Within a transaction it is for that one to begin anew.
        return await (self.patiently(once) if self.current_transaction.get() is None else once())


def _engine() -> Engine:
    found = settings()
    return Engine(
        # No extensions: with any, Piccolo connects while this module is imported.
        extensions=(),
        config={
            "dsn": found.database_url,
            "timeout": found.pool_wait,
            "server_settings": {
                "application_name": "oms",
                "timezone": "UTC",
                "statement_timeout": f"{int(found.statement_timeout * 1000)}",
                "idle_in_transaction_session_timeout": "60000",
                # Every statement is short and prepared once: compiling it costs more than it saves.
                "jit": "off",
            },
        },
    )


DB = _engine()


@asynccontextmanager
async def transaction(
    isolation: Isolation = "read_committed", *, readonly: bool = False
) -> AsyncIterator[Transaction]:
    """Run a block in one transaction: committed at its end, rolled back when it raises.

    The only place where anything commits. Never nest it, and start no task inside it: a child task would
    inherit the connection.

    Raises:
        OutcomeUnknownError: the connection broke during the COMMIT: whether it took effect is unknown, as it
            is with any database.
        DatabaseUnavailableError: no connection, or the server went away before the COMMIT: nothing is stored.

    """
    async with (
        naming_unavailability(),
        nullcontext() if readonly else DB.turn(),
        Transaction(DB, isolation, readonly=readonly) as current,
    ):
        yield current


def patient(command: Callable[P, Coroutine[object, object, T]]) -> Callable[P, Coroutine[object, object, T]]:
    """Let a command, which is one transaction, be tried again while a lock that it needs is held.

    Raises:
        HeldUpError: it was held all the time.

    """

    @wraps(command)
    async def tried_again(*args: P.args, **kwargs: P.kwargs) -> T:
        return await DB.patiently(lambda: command(*args, **kwargs))

    return tried_again


async def rows(sql: str, *args: object) -> list[Row]:
    """Run one statement, in the current transaction if there is one, and return its rows.

    For hot paths and for what Piccolo's query builder can't say; arguments stand as ``$1``, ``$2``, ….
    """
    return await DB.fetch(sql, *args)


async def row(sql: str, *args: object) -> Row | None:
    """Run one statement and return its first row, or None."""
    found = await DB.fetch(sql, *args)
    return found[0] if found else None
