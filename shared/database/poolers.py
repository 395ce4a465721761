"""A pooler between this process and PostgreSQL: whether there is one, and whether it shares sessions.

A pooler has keys for cancelling of its own, so the process id that it gives to its clients is not that of the
server's session. In transaction mode it lends the session to others between two transactions.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from shared.database.sessions import Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TIMEOUT_SECONDS = 3.0
"""How long another session may take to open: a pooler in session mode may have none that is free."""

ROUNDS = 3
"""Another client may use the shared session in the very moment in which we look."""

_PROCESS_ID = "SELECT pg_backend_pid()"

NOT_KEPT = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
"""What PostgreSQL answers where a pooler lends a session to others, and knows nothing of their statements."""


class PoolerMisusedError(asyncpg.InterfaceError):
    """A session that a pooler makes unfit for its use; ``hint`` says what to change."""


def undeclared() -> PoolerMisusedError:
    """Return what to raise where there is a pooler that the settings do not mention."""
    return PoolerMisusedError(
        "a pooler is between this process and PostgreSQL, and OMS_DATABASE_POOLER is none",
        hint="Set OMS_DATABASE_POOLER to its mode, session or transaction.",
    )


def keeps_no_statements() -> PoolerMisusedError:
    """Return what to raise where statements that were prepared are missing, or are another client's."""
    return PoolerMisusedError(
        "the pooler is in transaction mode and keeps no prepared statements",
        hint="Use PgBouncer 1.21 or newer with max_prepared_statements = 200, or pool_mode = session.",
    )


class PooledSession(Session):
    """A session of a pooler. What it reports of the server, a session of the pooler's has once reported."""

    __slots__ = ()

    @property
    def is_read_only(self) -> bool:
        """False: unknown. A write that is refused closes the session anyway."""
        return False


async def is_pooled(session: Session) -> bool:
    """Return whether a pooler is between, of any mode."""
    try:
        process_id: int = await session.fetchval(_PROCESS_ID)
    except NOT_KEPT:
        return True
    return process_id != session.get_server_pid()


async def is_shared(session: Session, open_another: Callable[[], Awaitable[Session]]) -> bool:
    """Return whether the pooler lends the session to others between two transactions.

    Raises:
        TimeoutError: the pooler has no session for another client, so it is unknown.
        PoolerMisusedError: it does, and keeps no prepared statements for its clients.

    """
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            other = await open_another()
            try:
                for _ in range(ROUNDS):
                    before = await session.fetchval(_PROCESS_ID)
                    async with other.transaction():
                        taken = await other.fetchval(_PROCESS_ID)
                        after = await session.fetchval(_PROCESS_ID)
                    if taken == before or after != before:
                        return True
            finally:
                other.terminate()
    except NOT_KEPT as error:
        raise keeps_no_statements() from error
    return False


async def refuse_wrong_pooler(
    session: Session, open_another: Callable[[], Awaitable[Session]], *, is_declared: bool, must_last: bool
) -> None:
    """Check that a pooler, if there is one, is known and fit.

    Args:
        session: a new session.
        open_another: opens another one in the same way.
        is_declared: ``OMS_DATABASE_POOLER`` names a pooler.
        must_last: the session has settings or locks of its own.

    Raises:
        PoolerMisusedError: it is not.
        TimeoutError: the pooler has no session for another client, so it is unknown.

    """
    if not await is_pooled(session):
        return
    if not is_declared:
        raise undeclared()
    if await is_shared(session, open_another) and must_last:
        raise PoolerMisusedError(
            "a pooler in transaction mode is where a session must keep its locks and settings",
            hint="Set OMS_DATABASE_DIRECT_URL to PostgreSQL itself, or to a pooler in session mode; "
            "OMS_DATABASE_POOLER=transaction says that OMS_DATABASE_URL is a pooler in transaction mode.",
        )
