"""The public API for the console's scripts, under ``/console/api``: the session's key replaces its cookie."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from litestar import Response, route
from litestar.enums import HttpMethod

from console.requests import PageRequest, api_scope
from console.sessions import header_of, key_of

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from litestar.types import ASGIApp, Receive, Scope, Send

PREFIX = "/console/api/"

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_WRITING = [HttpMethod.POST, HttpMethod.PUT, HttpMethod.PATCH, HttpMethod.DELETE]
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<host>[^/?#]+)")
_NOT_PASSED_ON = frozenset({b"authorization", b"cookie"})


def is_for_api(scope: Scope) -> bool:
    """Return whether a request is to be passed on: it is one of a page's script, and may be.

    A browser adds the cookie by itself, so what may write has to come from a page of this origin. The cookie
    is SameSite=Strict; this also keeps out pages of other hosts of the same site.
    """
    if not _raw_path(scope).startswith(PREFIX.encode()):  # "%61pi" may be anything to a proxy in front
        return False
    return scope.get("method") in _READING or is_same_origin(scope)


def pass_on(api: ASGIApp, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """Send a request on to the public API, with the session's key as its only credentials."""
    headers = [pair for pair in scope["headers"] if pair[0] not in _NOT_PASSED_ON]
    if key := key_of(scope):
        headers.append((b"authorization", b"Bearer " + key.encode()))
    prefix = PREFIX.rstrip("/")
    path, raw_path = scope["path"].removeprefix(prefix), _raw_path(scope).removeprefix(prefix.encode())
    return api(api_scope(scope, str(scope.get("method")), path, raw_path, headers), receive, send)


def _raw_path(scope: Scope) -> bytes:
    return scope.get("raw_path") or scope["path"].encode()


def is_same_origin(scope: Scope) -> bool:
    """Return whether a browser says that a page of this origin sent the request (Fetch Metadata)."""
    site = header_of(scope, b"sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    # Browsers send no Sec-Fetch-Site over plain HTTP to other hosts than this machine.
    origin, host = origin_of(scope), header_of(scope, b"host")
    return origin is not None and host is not None and origin[1] == host.lower()


def origin_of(scope: Scope) -> tuple[str, str] | None:
    """Return scheme and host of the page that sent a request, as its browser says it."""
    match = _ORIGIN.fullmatch((header_of(scope, b"origin") or "").lower())
    return match and (match["scheme"], match["host"])


@route("/console/api/{path:path}", http_method=_WRITING)
async def refuse(request: PageRequest) -> Response[bytes]:
    """Answer a request that is not passed on, in the form and with the type of the API's problems."""
    problem = {
        "type": "/problems/forbidden",
        "title": "This caller may not do this",
        "status": 403,
        "detail": "A page of another origin sent this request. Only the console's own pages may write.",
        "request_id": request.scope.get("request_id", ""),
    }
    return Response(json.dumps(problem).encode(), status_code=403, media_type="application/problem+json")


ROUTES = [refuse]
