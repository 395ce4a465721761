"""The public API for the console's scripts, under ``/console/api``: the session's key replaces its cookie."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from litestar.response.base import ASGIResponse

from console.requests import api_scope
from console.sessions import header_of, key_of

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from litestar.types import ASGIApp, Receive, Scope, Send

PREFIX = "/console/api/"

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_NOT_PASSED_ON = frozenset({b"authorization", b"cookie"})


def pass_on(api: ASGIApp, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """Send a request of a page's script on to the public API.

    A browser adds the cookie by itself, so what may write has to come from a page of this origin. The cookie
    is SameSite=Strict; this also keeps out pages of other hosts of the same site.
    """
    method = str(scope.get("method"))
    if method not in _READING and not is_same_origin(scope):
        return _refusal()(scope, receive, send)
    headers = [pair for pair in scope["headers"] if pair[0] not in _NOT_PASSED_ON]
    if key := key_of(scope):
        headers.append((b"authorization", b"Bearer " + key.encode()))
    path = scope["path"].removeprefix(PREFIX[:-1])
    raw_path = scope.get("raw_path") or scope["path"].encode()
    return api(
        api_scope(scope, method, path, raw_path.removeprefix(PREFIX[:-1].encode()), headers),
        receive,
        send,
    )


def is_same_origin(scope: Scope) -> bool:
    """Return whether a browser says that a page of this origin sent the request (Fetch Metadata)."""
    site = header_of(scope, b"sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    # Browsers send no Sec-Fetch-Site over plain HTTP to other hosts than this machine.
    origin = header_of(scope, b"origin")
    return origin is not None and urlsplit(origin).netloc.lower() == (header_of(scope, b"host") or "").lower()


def _refusal() -> ASGIResponse:
    problem = {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "detail": "A page of another origin sent this request. Only the console's own pages may write.",
    }
    return ASGIResponse(
        body=json.dumps(problem).encode(), status_code=403, media_type="application/problem+json"
    )
