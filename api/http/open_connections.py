"""Closes connections that say nothing, so that no number of them keeps others out.

granian closes a connection on which no whole header arrives within ``OMS_IDLE_TIMEOUT``, counted from its
beginning or from the last answer. What it can't do is done here, once a second, with this process's sockets:

- A connection's first header has only ``OMS_HEADER_TIMEOUT``.
- At ``OMS_CONNECTIONS`` connections granian accepts no more. Shortly before, those without a request are
  closed, the longest silent first. Requests in progress are limited elsewhere to fewer than that.
- The kernel closes connections whose client reads nothing of what is sent (TCP_USER_TIMEOUT).

granian exposes no socket, so they are looked up. Systems without /proc or these options keep the connections.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from litestar.enums import ScopeType

from shared.api_access import read_address
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from litestar.types import ASGIApp, Receive, Scope, Send

Peer = tuple[str, int]
"""A client's address and port."""

INTERVAL_SECONDS = 1.0

CROWDED_INTERVAL_SECONDS = 0.2
"""The interval while places are short: those who wait for one are accepted in the order of their arrival."""

LEAST_SILENCE_MS = 500
"""A connection that was silent for less is not closed to make room: its request may be on its way."""

OTHER_FILES = 128
"""Files that a process opens besides its clients' connections: to PostgreSQL and Redis, its code, exports."""

_OPEN_FILES = Path("/proc/self/fd")
_IS_SUPPORTED = _OPEN_FILES.exists() and hasattr(socket, "TCP_INFO") and hasattr(socket, "TCP_USER_TIMEOUT")

# struct tcp_info of Linux: tcpi_last_data_recv (milliseconds) and tcpi_bytes_acked.
_LAST_RECEIVED_AT, _BYTES_ACKED_AT, _TCP_INFO_BYTES = 52, 120, 128


def raise_open_files() -> None:
    """Raise the limit of open files as far as this process may, up to what its connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings().connections + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def most_connections() -> int:
    """Return how many connections the process accepts: ``OMS_CONNECTIONS``, or what its open files allow."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = settings().connections if soft == resource.RLIM_INFINITY else soft - OTHER_FILES
    return max(1, min(settings().connections, allowed))


_busy: dict[Peer, int] = {}
"""How many requests of a client are in progress; clients without one are absent."""

_served: set[Peer] = set()
"""The clients whose connection had a request: its answer may not be acknowledged yet."""


def track_requests(app: ASGIApp) -> ASGIApp:
    """Wrap the application: note which connections have a request in progress."""

    async def tracked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or not scope["client"]:
            await app(scope, receive, send)
            return
        peer = _peer(*scope["client"])
        _busy[peer] = _busy.get(peer, 0) + 1
        try:
            await app(scope, receive, send)
        finally:
            _served.add(peer)
            left = _busy[peer] - 1
            if left:
                _busy[peer] = left
            else:
                del _busy[peer]

    return tracked


def _peer(host: str, port: int | str) -> Peer:
    """Return one form of an address: IPv4 may be written as IPv6, which may have a zone, the port as text."""
    if ":" not in host:
        return host, int(port)
    return str(read_address(host)), int(port)


@asynccontextmanager
async def closing_silent_connections(port: int) -> AsyncIterator[None]:
    """Close silent connections to a port of this process for the length of the block."""
    closer = ConnectionCloser(port, most_connections())
    task = asyncio.create_task(closer.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@dataclass(frozen=True)
class _Connection:
    descriptor: int
    peer: Peer
    is_answered: bool
    """Whether anything that was sent on it was acknowledged."""
    silent_ms: int
    """Since something was last received."""


class ConnectionCloser:
    """Finds and closes the silent connections to one port."""

    def __init__(self, port: int, most: int) -> None:
        self._port = port
        self._most = most
        self._first_seen: dict[Peer, float] = {}
        self.is_crowded = False
        """Whether more than three quarters of the places were taken when it last looked."""

    async def run(self) -> None:
        """Close them again and again, until cancelled."""
        if not _IS_SUPPORTED:
            return
        is_set = False
        while True:
            await asyncio.sleep(CROWDED_INTERVAL_SECONDS if self.is_crowded else INTERVAL_SECONDS)
            # The server opens its socket after the application has started.
            is_set = is_set or self._set_user_timeout()
            await self.close_once()

    async def close_once(self) -> int:
        """Close those that have to go; return how many."""
        # In a thread: with thousands of connections, the calls to the kernel take a while.
        served = set(_served)
        connections = await asyncio.to_thread(self._list_connections)
        _served.difference_update(served.difference(connection.peer for connection in connections))
        now = time.monotonic()
        self._first_seen = {c.peer: self._first_seen.get(c.peer, now) for c in connections}
        idle = [connection for connection in connections if connection.peer not in _busy]
        idle.sort(key=lambda connection: (connection.is_answered, -connection.silent_ms))
        self.is_crowded = len(connections) > self._most * 3 // 4
        excess = len(connections) - self._most // 2 if self.is_crowded else 0
        oldest = now - settings().header_timeout
        closed = 0
        for number, connection in enumerate(idle):
            is_silent = not connection.is_answered and connection.peer not in _served
            is_late = is_silent and self._first_seen[connection.peer] <= oldest
            makes_room = number < excess and connection.silent_ms >= LEAST_SILENCE_MS
            if makes_room or is_late:
                closed += self._close(connection)
        return closed

    def _list_connections(self) -> list[_Connection]:
        connections = []
        for descriptor, client in _sockets_on(self._port):
            with suppress(OSError):  # closed meanwhile, or the listening socket
                peer = _peer(*client.getpeername()[:2])
                information = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                (acked,) = struct.unpack_from("=Q", information, _BYTES_ACKED_AT)
                (silent_ms,) = struct.unpack_from("=I", information, _LAST_RECEIVED_AT)
                connections.append(_Connection(descriptor, peer, acked > 0, silent_ms))
        return connections

    def _close(self, connection: _Connection) -> bool:
        # The descriptor may belong to another connection by now, or a request may have begun.
        with suppress(OSError), socket.socket(fileno=os.dup(connection.descriptor)) as duplicate:
            if _peer(*duplicate.getpeername()[:2]) == connection.peer and connection.peer not in _busy:
                duplicate.shutdown(socket.SHUT_RDWR)
                return True
        return False

    def _set_user_timeout(self) -> bool:
        """Limit how long a client may read nothing; return whether the server listens yet."""
        milliseconds = int(settings().stream_write_timeout * 1000)
        is_listening = False
        # The listening socket first: later connections inherit the option, earlier ones follow.
        for listening in (1, 0):
            for _, server_socket in _sockets_on(self._port):
                with suppress(OSError):
                    if server_socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == listening:
                        server_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
                        is_listening = True
        return is_listening


def _sockets_on(port: int) -> Iterator[tuple[int, socket.socket]]:
    for path in list(_OPEN_FILES.iterdir()):
        try:
            if not str(path.readlink()).startswith("socket:"):
                continue
            # A duplicate, because closing it must not close the server's socket.
            with socket.socket(fileno=os.dup(int(path.name))) as duplicate:
                if (
                    duplicate.family in (socket.AF_INET, socket.AF_INET6)
                    and duplicate.getsockname()[1] == port
                ):
                    yield int(path.name), duplicate
        except OSError:
            continue  # closed meanwhile
