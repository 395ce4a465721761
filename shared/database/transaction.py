"""The one edge at which a transaction commits.

Piccolo's own transaction skips the release of its connection when COMMIT or ROLLBACK raises (a deferred
constraint, a cancelled request, a killed backend). The pool then drains, and every later request hangs.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Literal, ParamSpec, Self, TypeVar

from piccolo.engine.postgres import PostgresTransaction

from shared.database.engine import (
    CONNECTION_ERRORS,
    DB,
    Engine,
    OutcomeUnknownError,
    translate_connection_errors,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from types import TracebackType

P = ParamSpec("P")
T = TypeVar("T")
Isolation = Literal["read_committed", "repeatable_read"]


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
        except CONNECTION_ERRORS as error:
            if self.readonly:
                raise
            # The server may have carried it out before it could say so.
            raise OutcomeUnknownError(str(error) or type(error).__name__) from error

    async def _give_back(self) -> None:
        # Shielded: a request cancelled right here would otherwise keep its connection permanently.
        await asyncio.shield(self.engine.release(self.connection))


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
        translate_connection_errors(),
        nullcontext() if readonly else DB.write_slot(),
        Transaction(DB, isolation, readonly=readonly) as current,
    ):
        yield current


def retry_on_lock_timeout(
    command: Callable[P, Coroutine[object, object, T]],
) -> Callable[P, Coroutine[object, object, T]]:
    """Let a command, which is one transaction, be tried again while a lock that it needs is held.

    Raises:
        LockTimeoutError: it was held all the time.

    """

    @wraps(command)
    async def retrying(*args: P.args, **kwargs: P.kwargs) -> T:
        return await DB.retry_while_locked(lambda: command(*args, **kwargs))

    return retrying
