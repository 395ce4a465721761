"""Sessions of PostgreSQL: which errors mean that a session can't be used, and which sessions can't write.

A session keeps what held when it began: a role, a password, ``default_transaction_read_only``. One that began
during a failover stays read-only after it. So a session that failed is closed and never used again, and one
that says that it is read-only is replaced as soon as it is a second old.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    import asyncio

    from shared.database.pool import Pool

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""All that asyncpg raises."""

READ_ONLY = "25006"
"""The SQLSTATE of a write in a session that can't write: ``read_only_sql_transaction``."""

_SESSION_STATES = (
    "08",  # the connection failed
    READ_ONLY,
    "25P03",  # the session was idle in a transaction for too long
    "25P04",  # a transaction took too long
    "28",  # the role or its password is refused
    "3D000",  # the database does not exist
    "42501",  # the role lacks a privilege
    "42P01",  # no such table: not migrated yet, or the session looks for tables elsewhere
    "53",  # the disk is full, memory or connections are used up
    "57",  # the server stops, starts or has crashed; the database was dropped; the statement was cancelled
    "58",  # the server's disk or file system failed
)
_STATEMENT_CANCELLED = "57014"

_DEAD_SERVER_OPTIONS = {
    "TCP_KEEPIDLE": 2,
    "TCP_KEEPINTVL": 1,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 5_000,
}
"""The kernel closes a connection to a server that has not answered for about 5 s: a host that is gone says
nothing, and a statement would wait for it forever. Systems without an option leave it out.
"""

_WAIT_FOR_STANDBYS = "SyncRepWaitForLSN"
"""PostgreSQL's function that warns when a wait for standbys was cancelled. The text may be translated."""

RENEWAL_SECONDS = 1.0
"""A session that says that it is read-only is replaced when it is this old."""


def is_unavailability(error: BaseException) -> bool:
    """Return whether asyncpg raised an error because of the server, the session or its role.

    False: the statement is at fault, or its arguments.
    """
    if isinstance(error, ValueError):
        # An argument that asyncpg can't encode is an InterfaceError too: a gap in our validation.
        return False
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_SESSION_STATES)
    # InternalClientError: among others, the server has closed the session, and the socket is still open.
    return isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError))


def ends_session(error: BaseException) -> bool:
    """Return whether a session that raised this error, or one translated from it, must not be used again."""
    reason = error.__cause__ or error
    return is_unavailability(reason) and sqlstate_of(reason) != _STATEMENT_CANCELLED


def sqlstate_of(error: BaseException | None) -> str:
    """Return PostgreSQL's code of an error; empty if the error has none."""
    return (isinstance(error, asyncpg.PostgresError) and error.sqlstate) or ""


class CommitNotReplicatedError(ConnectionError):
    """A commit is on the primary's disk, and no standby has confirmed it: a failover may lose it."""


class Session(asyncpg.Connection):
    """A connection that knows whether it has to be replaced."""

    __slots__ = ("_began", "_is_replicated", "asked_at", "has_time_limit", "pool", "unused_since")

    def __init__(self, protocol: Any, transport: asyncio.Transport, *arguments: Any) -> None:
        super().__init__(protocol, transport, *arguments)
        self._began = time.monotonic()
        self.pool: Pool | None = None
        self.unused_since = 0.0
        """By the event loop's clock, while it is idle in its pool."""
        self.asked_at = 0.0
        """When the statement was sent whose answer is awaited (``time.perf_counter``); 0: none is."""
        self.has_time_limit = True
        """False in a transaction that may take as long as it needs."""
        self._is_replicated = True
        connection: socket.socket = transport.get_extra_info("socket")
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _DEAD_SERVER_OPTIONS.items():
                if option := getattr(socket, name, None):
                    connection.setsockopt(socket.IPPROTO_TCP, option, value)

    def _process_log_message(self, fields: dict[str, str], last_query: str) -> None:
        # PostgreSQL answers a COMMIT whose wait for standbys was cancelled with success, after this warning.
        # Not a log listener of asyncpg's: those are called later, when the statement may have returned.
        if fields.get("R") == _WAIT_FOR_STANDBYS:
            self._is_replicated = False
        super()._process_log_message(fields, last_query)  # type: ignore[misc]  # the stubs lack it

    def check_replicated(self) -> None:
        """Check that no commit of this session returned without the standbys that it has to wait for.

        Raises:
            CommitNotReplicatedError: one did. The session must not be used again.

        """
        if not self._is_replicated:
            raise CommitNotReplicatedError("committed on the primary, but not confirmed by a standby")

    @property
    def is_read_only(self) -> bool:
        """Whether the server says that this session can't write. It reports changes with each answer."""
        reported = self.get_settings()
        return "on" in (
            getattr(reported, "default_transaction_read_only", "off"),
            getattr(reported, "in_hot_standby", "off"),
        )

    @property
    def must_be_replaced(self) -> bool:
        """Whether it is read-only, and so old that a new session may not be."""
        return time.monotonic() - self._began > RENEWAL_SECONDS and self.is_read_only

    @property
    def is_settled(self) -> bool:
        """Whether it is open, outside any transaction, and no cancelled statement is still running."""
        if self.is_closed():
            return False
        protocol: Any = self._protocol  # type: ignore[attr-defined]  # asyncpg's own pool asks it the same
        return not protocol._is_cancelling() and not self.is_in_transaction()  # noqa: SLF001 (as above)
