"""Cross-origin requests of web pages (CORS, Fetch standard) from ``OMS_CORS_ORIGINS``; without it, none.

Browsers send no cookies or passwords for them: a page has to have a key, a token or a ticket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar.enums import ScopeType

from api.http.request import METHODS, headers_by_name
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from litestar.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_HEADERS = (
    *("Accept", "Authorization", "Change-Reason", "Content-Type", "Idempotency-Key", "If-Match"),
    *("If-None-Match", "Last-Event-ID", "Read-After", "X-Request-Id", "traceparent", "tracestate"),
)
"""What a page may send."""

RESPONSE_HEADERS = (
    *("Accept", "Accept-Patch", "Allow", "Content-Disposition", "ETag", "Idempotency-Replayed", "Link"),
    *("Location", "Read-After", "Retry-After", "WWW-Authenticate", "X-Request-Id", "X-Total-Count"),
    "X-Total-Count-Precision",
)
"""What a page may read, beside what every page may."""

LIFETIME_SECONDS = 600
"""How long a browser remembers the answer to a preflight request."""

_VARY = (b"vary", b"Origin")
_EXPOSED = (b"access-control-expose-headers", ", ".join(RESPONSE_HEADERS).encode())
_PREFLIGHT = [
    (b"access-control-allow-methods", ", ".join(METHODS).encode()),
    (b"access-control-allow-headers", ", ".join(REQUEST_HEADERS).encode()),
    (b"access-control-max-age", b"%d" % LIFETIME_SECONDS),
]


def allow_origins(app: ASGIApp) -> ASGIApp:
    """Wrap the application: let pages of the allowed origins read its answers, errors too.

    It wraps all that refuses requests, unlike Litestar's, and answers preflight requests before a key is
    asked for: browsers send none with them. Requests from other origins pass unchanged, and their pages can
    read nothing.
    """
    origins = frozenset(origin.encode() for origin in settings().cors_origins)
    if not origins:
        return app
    are_all = origins == {b"*"}

    def allowed(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != ScopeType.HTTP:
            return app(scope, receive, send)
        headers = headers_by_name(scope)
        sent = headers.get(b"origin", ())
        added = [] if are_all else [_VARY]
        if len(sent) == 1 and (are_all or sent[0] in origins):
            added.append((b"access-control-allow-origin", b"*" if are_all else sent[0]))
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                return _answer_preflight(send, added)
            added.append(_EXPOSED)

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *added]
            return send(message)

        return app(scope, receive, send_with_headers)

    return allowed


async def _answer_preflight(send: Send, added: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": [*added, *_PREFLIGHT]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
