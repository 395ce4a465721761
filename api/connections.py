"""Answers that wait or are sent piece by piece, for clients who may go, or stay and take nothing.

The server cancels nothing when a client goes away: a handler that takes its time has to look for itself.

A stream that gives up on a slow reader can't close its connection: what the server still holds for it would
wait there, and count as a connection, for as long as the reader pleases. The kernel can (TCP_USER_TIMEOUT).
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


class SlowReaderError(Exception):
    """A reader took too long to take what was sent. Raised, so that the server cuts the connection."""


async def send_in_time(send: Send, chunk: bytes, *, more_body: bool = True) -> None:
    """Send a piece of an answer; return when the server has taken it.

    It does not take it before the connection took the one before.

    Raises:
        SlowReaderError: it was not taken within ``OMS_STREAM_PATIENCE``.

    """
    try:
        async with asyncio.timeout(settings().stream_patience):
            await send({"type": "http.response.body", "body": chunk, "more_body": more_body})
    except TimeoutError:
        raise SlowReaderError from None


async def send_while_read(receive: Receive, sending: Coroutine[None, None, None]) -> None:
    """Send an answer until that is done, the reader goes, or is too slow.

    Raises:
        SlowReaderError: as raised in ``sending``.

    """
    drop_connections_that_take_nothing(settings().port, settings().stream_patience)
    await unless_gone(receive, sending)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Do something for a client until it is done, and give that, or until the client is gone; then give None.

    Raises:
        Exception: whatever the work raises.

    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_until_gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@cache
def drop_connections_that_take_nothing(port: int, seconds: float) -> None:
    """Let the kernel end every connection to a port of ours that takes nothing for so long; once per process.

    Set on the listening socket, from which new connections inherit it, and on those that are there. The
    server gives neither of them away, and makes them after the application has started: so they are looked
    for when the first stream begins. Systems without this option keep such connections.
    """
    if not hasattr(socket, "TCP_USER_TIMEOUT") or not _OPEN_FILES.exists():
        return
    # The listening one first: what it accepts from then on inherits, what it accepted before is found after.
    for wanted in (1, 0):
        for one in _sockets_on(port):
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == wanted:
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
