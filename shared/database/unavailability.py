"""What is raised when PostgreSQL can't serve a statement now, in place of asyncpg's errors."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from shared.database.sessions import DRIVER_ERRORS, READ_ONLY, is_unavailability, sqlstate_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class DatabaseUnavailableError(Exception):
    """PostgreSQL can't be reached, is starting or stopping, or no connection is free. Try again soon."""


class DatabaseReadOnlyError(DatabaseUnavailableError):
    """The session can't write: a standby, or ``default_transaction_read_only``. Nothing is stored."""


class OverloadedError(DatabaseUnavailableError):
    """More wait for a connection than can get one in time. Nothing is stored; try again later."""


class LockTimeoutError(DatabaseUnavailableError):
    """Another transaction held a lock for ``OMS_STATEMENT_TIMEOUT``. Nothing is stored; try again later."""


class OutcomeUnknownError(DatabaseUnavailableError):
    """The connection broke during a COMMIT, or a statement that is one: nothing or all of it is stored.

    Or it is stored on the primary, and no standby has confirmed that it has it too.
    """


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
    except DRIVER_ERRORS as error:
        raise translated(error, connecting=connecting)  # noqa: B904 (it has its cause)


def translated(error: Exception, *, connecting: bool = False) -> Exception:
    """Return what to raise for an error of asyncpg; see ``translate_connection_errors``."""
    if not (is_unavailability(error) or (connecting and isinstance(error, asyncpg.PostgresError))):
        return error
    kind = DatabaseReadOnlyError if sqlstate_of(error) == READ_ONLY else DatabaseUnavailableError
    unavailable = kind(str(error) or type(error).__name__)
    unavailable.__cause__ = error
    return unavailable
