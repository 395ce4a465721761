"""The PostgreSQL engine: every statement, Piccolo's own queries too, takes its connection here.

The wait for a connection is bounded. The pool is in ``shared/database/pool.py``, transactions are in
``shared/database/transaction.py``.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from piccolo.engine.postgres import PostgresEngine

from shared.database.database_wait import WaitingForDatabase
from shared.database.lock_retry import LOCK_ERRORS, LockWaiters, retry_while_locked
from shared.database.pool import Pool
from shared.database.read_places import READ_PLACE, StandbyFailedError, leave_standby
from shared.database.session_settings import TRACKED, open_session, pool_opener
from shared.database.sessions import DRIVER_ERRORS, Session, ends_session
from shared.database.unavailability import (
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    LockTimeoutError,
    OutcomeUnknownError,
    OverloadedError,
    translate_connection_errors,
    translated,
)
from shared.database.waiting_line import Slots, TooLongError
from shared.settings import settings
from shared.tracing.spans import statement_span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

T = TypeVar("T")

__all__ = [
    "DB",
    "DatabaseReadOnlyError",
    "DatabaseUnavailableError",
    "Engine",
    "LockTimeoutError",
    "OutcomeUnknownError",
    "OverloadedError",
    "translate_connection_errors",
    "translated",
]
"""The engine, and what its callers catch (``shared/database/unavailability.py``)."""

WAIT_WHILE_LOCKED_SECONDS = 1.0
"""The longest wait for a write slot while many wait for locks: most who come now would be refused when they
have one."""

_is_retried: ContextVar[bool] = ContextVar("is_retried", default=False)
"""Whether what runs is started over when it meets a lock: then none of its statements is retried by itself.

Such a statement would wait for its turn to retry, which its own command may have.
"""

CONNECTIONS_FOR_READERS = 2
"""Connections that writing transactions leave free, in the pool of a process that serves requests."""

ANSWER_GRACE_SECONDS = 2.0
"""How much longer than ``OMS_STATEMENT_TIMEOUT`` a server may take to answer, also that it cancelled."""


class Engine(PostgresEngine):
    """Piccolo's engine, with a time limit on the wait for a connection."""

    pool: Pool | None  # type: ignore[assignment]  # ours in place of asyncpg's
    _write_slots: Slots | None = None
    _lock_waiters: LockWaiters | None = None

    async def check_version(self) -> None:
        """Skip Piccolo's check of the server's version: it would connect while this module is imported."""

    async def start(self, size: int, *, serving: bool = False, positioning: bool = False) -> None:
        """Open the pool. One per process and event loop.

        Its sessions go through the pooler, if there is one, only if the process serves requests.

        Args:
            size: connections at most.
            serving: the process serves requests. Then no statement waits long for a lock
                (``shared/database/lock_retry.py``), and writers always leave connections for readers.
            positioning: the process assigns positions. Then no statement is ever cancelled: a position
                that was seen is one that survives a failover, and a COMMIT that is cancelled while it waits
                for standbys becomes visible without them. Waits for locks end after OMS_STATEMENT_TIMEOUT.

        With either, a session that does not answer in time is closed.
        """
        self._write_slots = Slots(max(1, size - CONNECTIONS_FOR_READERS)) if serving else None
        most_waiters = int(settings().statement_timeout / settings().lock_wait)
        self._lock_waiters = LockWaiters(most_waiters) if serving else None
        # It connects at first use: a process may start while the server is unreachable.
        longest = settings().statement_timeout + ANSWER_GRACE_SECONDS if serving or positioning else None
        open_one = partial(self._open, serving=serving, positioning=positioning)
        self.pool = Pool(size, pool_opener(open_one, serving=serving), longest)

    async def _open(self, *, serving: bool, positioning: bool = False, is_checked: bool) -> Session:
        return await open_session(
            self.config, settings(), serving=serving, positioning=positioning, is_checked=is_checked
        )

    async def stop(self, grace: float = 5) -> None:
        """Close the pool; terminate connections that are still in use after ``grace`` seconds."""
        pool, self.pool = self.pool, None
        if pool is not None:
            await pool.close(grace)

    async def acquire(self) -> Session:
        """Take a connection, waiting ``OMS_POOL_WAIT`` at most; ``release`` is then due.

        Raises:
            OverloadedError: none will be free in time.
            DatabaseUnavailableError: no connection was free in time, or the server can't be reached.

        """
        if self.pool is None:
            return await self.connect()
        try:
            return await self.pool.acquire(settings().pool_wait)
        except TooLongError:
            raise OverloadedError("too many requests wait for the database") from None
        except DRIVER_ERRORS as error:
            raise translated(error, connecting=True)  # noqa: B904 (it has its cause)

    async def take_write_slot(self) -> None:
        """Take one of the slots for transactions that write; ``release_write_slot`` is then due.

        It waits ``OMS_POOL_WAIT`` at most, or less. Only the pool of a process that serves requests has such
        slots; with others there is no wait.

        Raises:
            OverloadedError: none was, or will be, free in time.

        """
        if self._write_slots is None:
            return
        longest = settings().pool_wait
        if self._lock_waiters is not None and self._lock_waiters.are_many:
            longest = min(longest, WAIT_WHILE_LOCKED_SECONDS)
        try:
            await self._write_slots.take(longest)
        except TooLongError:
            raise OverloadedError("too many requests wait for the database") from None

    def release_write_slot(self) -> None:
        """Let the next transaction that writes have the slot."""
        if self._write_slots is not None:
            self._write_slots.release()

    async def retry_while_locked(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run a statement or a command, and run it again as long as a lock that it needs is held.

        Within a command, its statements are not retried by themselves: the command starts over.

        Raises:
            LockTimeoutError: the lock was held until ``OMS_STATEMENT_TIMEOUT`` was over.

        """
        # The statements of a process that serves no requests wait inside PostgreSQL.
        if self._lock_waiters is None or _is_retried.get():
            return await work()
        began = time.monotonic()
        retried = _is_retried.set(True)
        try:
            return await work()
        except LOCK_ERRORS as error:
            deadline = began + settings().statement_timeout
            try:
                return await retry_while_locked(work, self._lock_waiters, deadline, error)
            except LOCK_ERRORS as last_error:
                raise LockTimeoutError(str(last_error)) from last_error
        finally:
            _is_retried.reset(retried)

    async def connect(self, *, serving: bool = False, is_checked: bool | None = None) -> Session:
        """Open a connection outside the pool; the caller closes it.

        Args:
            serving: it serves a request, so it may go through a pooler. If not, it keeps session locks.
            is_checked: see ``open_session``; as ``serving``, if it is not given.

        Raises:
            DatabaseUnavailableError: the server can't be reached, or a pooler would break the session.

        """
        async with translate_connection_errors(connecting=True):
            return await self._open(serving=serving, is_checked=serving if is_checked is None else is_checked)

    async def get_new_connection(self) -> Session:
        """Open a connection for Piccolo, whose transactions take it outside the pool."""
        return await self.connect()

    async def release(self, connection: Session) -> None:
        """Return a connection to its pool at once, or close one that belongs to none."""
        if connection.pool is not None:
            connection.pool.release(connection)
        else:
            await asyncio.shield(connection.close())

    async def _run_in_pool(self, query: str, args: Sequence[Any] | None = None) -> list[Any]:
        return await self.fetch(query, *(args or ()))

    async def fetch(self, sql: str, *args: object) -> list[Any]:
        """Run one statement, prepared once per connection, and return its rows."""
        return await self._run_statement(Session.fetch, sql, args)

    async def fetch_with_custom_plan(self, sql: str, *args: object) -> list[Any]:
        """Run one statement with a custom plan for these arguments; one round trip more than ``fetch``.

        For statements whose best plan depends on their arguments. A prepared statement may get a generic plan
        after its fifth execution, which suits common values and can be very slow for rare ones.
        """

        async def fetch(connection: Session, sql: str, *args: object) -> list[Any]:
            # A pooler in transaction mode would run an unnamed statement in another session than prepared it.
            is_shared = settings().database_pooler == "transaction" and not connection.is_in_transaction()
            async with connection.transaction() if is_shared else nullcontext():
                statement = await connection.prepare(sql, name="")
                rows: list[Any] = await statement.fetch(*args)
            return rows

        return await self._run_statement(fetch, sql, args)

    async def execute(self, sql: str, *args: object) -> int:
        """Run one statement; return how many rows it inserted, updated, deleted or selected."""
        status = await self._run_statement(Session.execute, sql, args)
        count = status.rpartition(" ")[2]  # "UPDATE 3", "INSERT 0 1", "SET"
        return int(count) if count.isdigit() else 0

    async def _run_statement(self, run: Callable[..., Awaitable[T]], sql: str, args: Sequence[object]) -> T:
        transaction = self.current_transaction.get()
        if transaction is None:
            if (place := READ_PLACE.get()) is not None:
                try:
                    return await place.run(run, sql, *args)
                except StandbyFailedError as failure:
                    leave_standby(failure.reason)
            return await self.retry_while_locked(partial(self.run_alone, run, sql, *args))
        # No retry here: the whole transaction has to start over.
        try:
            with statement_span(sql), WaitingForDatabase(transaction.connection):
                return await run(transaction.connection, sql, *args)
        except DRIVER_ERRORS as error:
            raise translated(error)  # noqa: B904 (it has its cause)

    async def run_alone(self, run: Callable[..., Awaitable[T]], sql: str, *args: object) -> T:
        """Run one statement on a connection from the pool, outside any transaction.

        Args:
            run: runs it, given the connection, the statement and its arguments.
            sql: the statement.
            args: its arguments.

        """
        with WaitingForDatabase():
            connection = await self.acquire()
        try:
            with statement_span(sql), WaitingForDatabase(connection):
                result = await run(connection, sql, *args)
            connection.check_replicated()
        except BaseException as error:
            if ends_session(error):
                connection.terminate()
            if isinstance(error, DRIVER_ERRORS):
                raise translated(error)  # noqa: B904 (it has its cause)
            raise
        else:
            return result
        finally:
            await self.release(connection)


def _create_engine() -> Engine:
    settings_ = settings()
    return Engine(
        # No extensions: with any, Piccolo connects while this module is imported.
        extensions=(),
        config={
            "dsn": settings_.database_url,
            "timeout": settings_.pool_wait,
            "connection_class": Session,
            "server_settings": dict(TRACKED),
        },
    )


DB = _create_engine()
