"""Answers that wait or are sent in chunks, for clients that may disconnect, or stay and stop reading.

granian does not cancel a handler when its client disconnects: a slow handler must watch for that.

Nor can a handler close the connection of a client that does not read: granian would keep it, with what is
buffered for it, for as long as the client stays. The kernel can close it (TCP_USER_TIMEOUT).
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
    """A client took too long to read what was sent. The error makes the server close the connection."""


async def send_chunk(send: Send, chunk: bytes, *, more_body: bool = True) -> None:
    """Send a chunk of an answer; return when the server has accepted it.

    The server accepts it once it has written the chunk before it to the connection.

    Raises:
        SlowClientError: it was not accepted within ``OMS_STREAM_WRITE_TIMEOUT``.

    """
    try:
        async with asyncio.timeout(settings().stream_write_timeout):
            await send({"type": "http.response.body", "body": chunk, "more_body": more_body})
    except TimeoutError:
        raise SlowClientError from None


async def send_until_disconnect(receive: Receive, sending: Coroutine[None, None, None]) -> None:
    """Run ``sending`` until it ends, the client disconnects, or the client is too slow.

    Raises:
        SlowClientError: ``sending`` raised it.

    """
    close_stalled_connections(settings().port, settings().stream_write_timeout)
    await until_disconnect(receive, sending)


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Run ``work`` and return its result, or None if the client disconnects first.

    Raises:
        Exception: whatever ``work`` raises.

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
    """Have the kernel close connections to ``port`` that accept no data for ``seconds``; once per process.

    The option is set on the listening socket, from which new connections inherit it, and on open connections.
    The server exposes none of these sockets, and opens them after the application has started: so they are
    looked up when the first stream begins. Systems without this option keep such connections.
    """
    if not hasattr(socket, "TCP_USER_TIMEOUT") or not _OPEN_FILES.exists():
        return
    # The listening socket first: later connections inherit the option, earlier ones follow.
    for listening in (1, 0):
        for server_socket in _sockets_on(port):
            if server_socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == listening:
                server_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


def _sockets_on(port: int) -> Iterator[socket.socket]:
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
                    yield duplicate
        except OSError:
            continue  # closed meanwhile
