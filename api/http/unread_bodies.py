"""Reads the rest of a refused request's body before the answer is sent.

If a server answers and closes while the caller is still sending, the connection is reset and the caller may
never see the answer (RFC 9112, section 9.6). So up to a limit, the rest of the body is read and discarded.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from litestar.enums import ScopeType

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

MAX_BYTES = 8_000_000
"""The most that is read of a refused body; the connection of a caller who sends more may be reset."""

MAX_SECONDS = 5.0

_BODIES = (b"content-length", b"transfer-encoding")


def read_unread_bodies(app: ASGIApp) -> ASGIApp:
    """Wrap the application: begin an answer only after the whole request was read."""

    async def reading(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or not any(name in _BODIES for name, _ in scope["headers"]):
            await app(scope, receive, send)
            return
        ended = False

        async def watched_receive() -> Any:
            nonlocal ended
            message = await receive()
            ended = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def drain() -> None:
            read = 0
            while not ended and read < MAX_BYTES:
                message = await watched_receive()
                read += len(message.get("body", b"")) if message["type"] == "http.request" else 0

        async def send_after_body(message: Message) -> None:
            if message["type"] == "http.response.start" and not ended:
                with suppress(TimeoutError):
                    await asyncio.wait_for(drain(), MAX_SECONDS)
            await send(message)

        await app(scope, watched_receive, send_after_body)

    return reading
