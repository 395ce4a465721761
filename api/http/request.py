"""Litestar's types of requests, with their type parameters filled in, and the headers of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import HttpMethod, Request
from litestar.connection import ASGIConnection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from litestar.types import Scope

AnyRequest = Request[Any, Any, Any]
AnyConnection = ASGIConnection[Any, Any, Any, Any]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""The methods that routes have."""

READ = [HttpMethod.GET, HttpMethod.HEAD]
"""The methods of a route that reads: Litestar does not add HEAD to GET."""


def note_calendars(connection: AnyConnection, *calendars: str) -> None:
    """Note the calendars that a request's body names, for the log."""
    connection.scope["named_calendars"] = calendars  # type: ignore[typeddict-unknown-key]  # a key of our own


def method_of(connection: AnyConnection) -> str:
    """Return a request's method."""
    return str(connection.scope.get("method", "GET"))


def header_values(scope: Scope, name: bytes) -> Sequence[str]:
    """Return the values of a header, whose name is in lower case, in the order in which they were sent."""
    values = headers_by_name(scope).get(name)
    return [value.decode("latin-1") for value in values] if values else ()


def headers_by_name(scope: Scope) -> Mapping[bytes, Sequence[bytes]]:
    """Return a request's headers by their names in lower case; they are grouped once for each request."""
    headers: dict[bytes, list[bytes]] | None = scope.get("headers_by_name")  # type: ignore[assignment]  # a key of our own
    if headers is None:
        headers = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        scope["headers_by_name"] = headers  # type: ignore[typeddict-unknown-key]  # as above
    return headers
