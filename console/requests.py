"""Requests of pages to the public API, in process: the same code path and the same access as from outside."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode

from litestar import Request

from console.errors import ApiRefusalError
from console.sessions import key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from litestar.types import ASGIApp, Message, Scope

PageRequest = Request[Any, Any, Any]

JSON = "application/json"

_STANDARD = ("type", "asgi", "http_version", "scheme", "root_path", "client", "server", "query_string")
_PASSED_ON = frozenset({b"host", b"x-request-id", b"user-agent"})


def api_scope(
    scope: Scope, method: str, path: str, raw_path: bytes, headers: Sequence[tuple[bytes, bytes]]
) -> Scope:
    """Return the scope of a request to the API, made of a page's: nothing but what ASGI defines is kept."""
    standard = {name: scope[name] for name in _STANDARD if name in scope}  # type: ignore[literal-required]  # names from a constant
    return {
        **standard,
        "method": method,
        "path": path,
        "raw_path": raw_path,
        "headers": list(headers),
        "extensions": {},
        # People at a page expect to see what they have just done: their pages are read on the primary.
        "reads_primary": True,
    }  # type: ignore[return-value]  # the names that ASGI defines


@dataclass(frozen=True)
class Answer:
    """An answer of the API."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def data(self) -> Any:
        """Its JSON; numbers with a fraction are decimals, so that no cent is lost."""
        return json.loads(self.content, parse_float=Decimal) if self.content else None

    @property
    def text(self) -> str:
        """Its text."""
        return self.content.decode()


async def ask(
    request: PageRequest,
    path: str,
    query: Iterable[tuple[str, str]] = (),
    *,
    accept: str = JSON,
    key: str | None = None,
    refusals: frozenset[int] = frozenset(),
) -> Answer:
    """GET something of the public API, as the visitor of a page.

    Args:
        request: the page's.
        path: of the API, percent-encoded.
        query: parameters; those with an empty value are left out.
        accept: the media type.
        key: the visitor's, if it is not the session's.
        refusals: statuses from 400 on that are returned like an answer.

    Raises:
        ApiRefusalError: the API answered with a problem.

    """
    scope = request.scope
    headers = [pair for pair in scope["headers"] if pair[0] in _PASSED_ON]
    headers.append((b"accept", accept.encode()))
    if key := key or key_of(scope):
        headers.append((b"authorization", b"Bearer " + key.encode()))
    asked = api_scope(scope, "GET", unquote(path), path.encode(), headers)
    asked["query_string"] = urlencode([pair for pair in query if pair[1] != ""]).encode()
    answer = await _call(request.app.state.api, asked)
    if answer.status >= 400 and answer.status not in refusals:
        raise ApiRefusalError(answer.status, answer.data or {}, answer.headers)
    return answer


async def _call(api: ASGIApp, scope: Scope) -> Answer:
    status, headers, parts = 0, {}, []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            parts.append(message.get("body", b""))

    await api(scope, receive, send)
    return Answer(status, headers, b"".join(parts))
