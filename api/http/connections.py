"""Answers that wait or are sent in chunks, for clients that may disconnect, or stay and read nothing.

The server cancels nothing when a client disconnects: a handler that takes its time has to watch for that.

A stream that gives up on a slow client can't close its connection. What the server has buffered for it would
wait there, and count as a connection, for as long as the client pleases. The kernel can close it
(TCP_USER_TIMEOUT).
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from litestar.types import Receive, Send

T = TypeVar("T")

_OPEN_FILES = Path("/proc/self/fd")


class SlowClientError(Exception):
    """A client took too long to read what was sent. Raised, so that the server cuts the connection."""


async def send_chunk(send: Send, chunk: bytes, *, more_body: bool = True) -> None:
    """Send a chunk of an answer; return when the server has taken it.

    The server takes it once the connection has taken the chunk before.

    Raises:
        SlowClientError: it was not taken within ``OMS_STREAM_WRITE_TIMEOUT``.

    """
    try:
        async with asyncio.timeout(settings().stream_write_timeout):
            await send({"type": "http.response.body", "body": chunk, "more_body": more_body})
    except TimeoutError:
        raise SlowClientError from None


async def send_until_disconnect(receive: Receive, sending: Coroutine[None, None, None]) -> None:
    """Send an answer until that is done, the client disconnects, or is too slow.

    Raises:
        SlowClientError: as raised in ``sending``.

    """
    close_stalled_connections(settings().port, settings().stream_write_timeout)
    await until_disconnect(receive, sending)


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Do something for a client and return the result, or None if the client disconnects before that.

    Raises:
        Exception: whatever the work raises.

    """
    working = asyncio.create_task(work)
    disconnecting = asyncio.create_task(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({working, disconnecting}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, disconnecting):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@cache
def close_stalled_connections(port: int, seconds: float) -> None:
    """Have the kernel close connections to our port that take nothing for so long; once per process.

    The option is set on the listening socket, from which new connections inherit it, and on those that exist.
    The server exposes neither of them, and opens them after the application has started: so they are looked
    up when the first stream begins. Systems without this option keep such connections.
    """
    if not hasattr(socket, "TCP_USER_TIMEOUT") or not _OPEN_FILES.exists():
        return
    # The listening socket first: what it accepts from then on inherits, what it accepted before comes after.
    for listening in (1, 0):
        for one in _sockets_on(port):
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == listening:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


def _sockets_on(port: int) -> Iterator[socket.socket]:
    for path in list(_OPEN_FILES.iterdir()):
        try:
            if not str(path.readlink()).startswith("socket:"):
                continue
            # Of a copy, as closing it must not close the server's.
            with socket.socket(fileno=os.dup(int(path.name))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.getsockname()[1] == port:
                    yield one
        except OSError:
            continue  # closed meanwhile
