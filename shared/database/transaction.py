"""Transactions: the only place where several statements commit together.

Piccolo's own transaction does not release its connection when COMMIT or ROLLBACK raises (a deferred
constraint, a cancelled request, a killed backend). The pool would run empty, and every later request
would hang.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar

import asyncpg
from piccolo.engine.exceptions import TransactionError
from piccolo.engine.postgres import PostgresTransaction

from shared.database.database_wait import WaitingForDatabase
from shared.database.engine import (
    DB,
    Engine,
    OutcomeUnknownError,
    translated,
)
from shared.database.sessions import DRIVER_ERRORS, Session, ends_session, is_unavailability, sqlstate_of
from shared.database.statements import execute, fetch_optional, read_rows
from shared.tracing.spans import statement_span

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from types import TracebackType

P = ParamSpec("P")
T = TypeVar("T")
Isolation = Literal["read_committed", "repeatable_read"]

_is_rolled_back: ContextVar[bool] = ContextVar("is_rolled_back", default=False)


@contextmanager
def roll_back_if(*, is_dry_run: bool) -> Iterator[None]:
    """Run the commands of the block as always, but if it is a dry run, roll each back where it would commit.

    What they return, or raise, is what they would without it: deferred constraints are checked first.
    """
    token = _is_rolled_back.set(is_dry_run)
    try:
        yield
    finally:
        _is_rolled_back.reset(token)


class Transaction(PostgresTransaction):
    """Piccolo's transaction, with a bounded wait, which always releases its connection."""

    engine: Engine

    def __init__(self, engine: Engine, isolation: Isolation, *, readonly: bool) -> None:
        super().__init__(engine, allow_nested=False)
        self.isolation: Isolation = isolation
        self.readonly = readonly

    async def __aenter__(self) -> Self:
        await self._begin_on_connection()
        self.context = self.engine.current_transaction.set(self)
        return self

    async def _begin_on_connection(self) -> None:
        if not self.readonly:
            with WaitingForDatabase():
                await self.engine.take_write_slot()
        try:
            # Not get_connection(): Piccolo's waits for a connection without limit.
            with WaitingForDatabase():
                self.connection = await self.engine.acquire()
            try:
                self.transaction = self.connection.transaction(
                    isolation=self.isolation, readonly=self.readonly
                )
                with WaitingForDatabase(self.connection):
                    await self.begin()
            except BaseException as error:
                self.connection.terminate()
                await self.engine.release(self.connection)
                if isinstance(error, DRIVER_ERRORS):
                    raise translated(error)  # noqa: B904 (it has its cause)
                raise
        except BaseException:
            self._release_write_slot()
            raise

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        try:
            with WaitingForDatabase(self.connection):
                await self._end(exception)
        except DRIVER_ERRORS as error:
            raise translated(error)  # noqa: B904 (it has its cause)
        finally:
            self.engine.current_transaction.reset(self.context)
            self.connection.has_time_limit = True
            await self.engine.release(self.connection)
            self._release_write_slot()
        if isinstance(exception, DRIVER_ERRORS) and (unavailable := translated(exception)) is not exception:
            raise unavailable
        return False

    async def _end(self, exception: BaseException | None) -> None:
        if exception is None and not _is_rolled_back.get():
            await self._commit()
        elif exception is None:
            await self._check_and_roll_back()
        elif ends_session(exception):
            self.connection.terminate()  # the server rolls it back
        elif not self.connection.is_closed():
            await self.rollback()

    async def _commit(self) -> None:
        try:
            with statement_span("COMMIT"):
                await self.commit()
            self.connection.check_replicated()
        except Exception as error:
            if ends_session(error):
                self.connection.terminate()
            if self.readonly or not is_unavailability(error):
                raise
            # The server may have committed, and the connection broken before its answer came.
            raise OutcomeUnknownError(str(error) or type(error).__name__) from error

    async def _check_and_roll_back(self) -> None:
        try:
            await self.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        except BaseException as error:
            if ends_session(error):
                self.connection.terminate()
            raise
        finally:
            if not self.connection.is_closed():
                await self.rollback()

    def _release_write_slot(self) -> None:
        if not self.readonly:
            self.engine.release_write_slot()


def transaction(isolation: Isolation = "read_committed", *, readonly: bool = False) -> Transaction:
    """Run an ``async with`` block in one transaction: committed at its end, rolled back when it raises.

    Do not nest it, and start no task inside it: a child task would inherit the connection.

    Raises:
        OutcomeUnknownError: the connection broke during the COMMIT, so it may have taken effect or not; or
            its wait for standbys was cancelled.
        DatabaseUnavailableError: no connection, or the server went away before the COMMIT: nothing is stored.

    """
    return Transaction(DB, isolation, readonly=readonly)


async def lift_time_limit() -> None:
    """Let the statements of the current transaction take as long as they need."""
    current = DB.current_transaction.get()
    if current is None:
        raise TransactionError("There is no transaction.")
    await execute("SET LOCAL statement_timeout = 0")
    current.connection.has_time_limit = False


async def fetch_and_commit(row_type: type[T], sql: str, *args: object) -> T | None:
    """Run one statement that writes, as a transaction of its own, and return its first row, or None.

    PostgreSQL commits a statement outside BEGIN and COMMIT by itself, so this is one round trip. Within a
    transaction use ``shared.database.statements``.

    Args:
        row_type: as in ``fetch_all``.
        sql: the statement.
        args: its arguments.

    Raises:
        OutcomeUnknownError: the connection broke after the statement was sent, so it may be stored or not.
        DatabaseUnavailableError: no connection, or the server refused to run the statement now: nothing is
            stored.

    """
    if DB.current_transaction.get() is not None:
        raise TransactionError("A transaction is already active; this statement would not be part of it.")
    if _is_rolled_back.get():
        async with transaction():
            return await fetch_optional(row_type, sql, *args)
    with WaitingForDatabase():
        await DB.take_write_slot()
    try:
        records = await DB.run_alone(_fetch_known, sql, *args)
    finally:
        DB.release_write_slot()
    return read_rows(row_type, records[:1])[0] if records else None


async def _fetch_known(connection: Session, sql: str, *args: object) -> list[Any]:
    try:
        records: list[Any] = await connection.fetch(sql, *args)
        connection.check_replicated()
    except DRIVER_ERRORS as error:
        if is_unavailability(error) and not _was_refused(error):
            raise OutcomeUnknownError(str(error) or type(error).__name__) from error
        raise
    return records


def _was_refused(error: Exception) -> bool:
    """Return whether the server said that a statement failed: then it has rolled it back."""
    # asyncpg raises class 08 itself when a connection breaks.
    return isinstance(error, asyncpg.PostgresError) and not sqlstate_of(error).startswith("08")


def retry_on_lock_timeout(
    command: Callable[P, Coroutine[object, object, T]],
) -> Callable[P, Coroutine[object, object, T]]:
    """Make a command, which is one transaction, run again while a lock that it needs is held.

    Raises:
        LockTimeoutError: the lock was held until ``OMS_STATEMENT_TIMEOUT`` was over.

    """

    @wraps(command)
    async def retrying(*args: P.args, **kwargs: P.kwargs) -> T:
        return await DB.retry_while_locked(lambda: command(*args, **kwargs))

    return retrying
