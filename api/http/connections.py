"""Answers that wait or are sent in chunks, for clients that may disconnect, or stay and stop reading.

granian does not cancel a handler when its client disconnects: a slow handler must watch for that.

Nor can a handler close the connection of a client that does not read: ``api/http/open_connections.py`` has
the kernel close it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from litestar.types import Receive, Send

T = TypeVar("T")


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
