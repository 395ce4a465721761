"""Headers of every answer: browsers guess no media type, and nothing private is kept by a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar.datastructures import MutableScopeHeaders
from litestar.enums import ScopeType

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

_REVALIDATED = (200, 304)


def add_headers(app: ASGIApp) -> ASGIApp:
    """Wrap the application: ``X-Content-Type-Options`` and, where an answer has none, ``Cache-Control``.

    An answer with an entity tag may be kept by the caller's own cache, which must ask whether it is current
    before each use (RFC 9111, section 5.2.2.4); all others may not be kept.
    """

    async def adding(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        reads = scope["method"] in {"GET", "HEAD"}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableScopeHeaders(message)
                headers["X-Content-Type-Options"] = "nosniff"
                is_kept = reads and message["status"] in _REVALIDATED and "etag" in headers
                headers.setdefault("Cache-Control", "private, no-cache" if is_kept else "no-store")
            await send(message)

        await app(scope, receive, send_with_headers)

    return adding
