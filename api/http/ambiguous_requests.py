"""Refuses requests that a proxy might read differently from this service, before any route."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from api.http.problem_types import NOT_FOUND
from api.http.problems import Fault, ProblemError, malformed
from api.http.request import headers_by_name

if TYPE_CHECKING:
    from litestar.types import Scope

    from api.http.request import AnyConnection


_PLAIN_PATH = re.compile(rb"(?:/[A-Za-z0-9._-]+)+")
"""Paths in which there is nothing to read differently."""


def check_transfer_coding(scope: Scope) -> None:
    """Refuse a body whose end a proxy in front might have read elsewhere.

    Raises:
        ProblemError: 400, its transfer coding is not ``chunked`` alone, once (RFC 9112, section 6.1).

    """
    codings = headers_by_name(scope).get(b"transfer-encoding")
    if codings and [value.strip().lower() for value in codings] != [b"chunked"]:
        raise malformed(Fault("may be chunked, once, and nothing else", header="Transfer-Encoding"))


def check_path(connection: AnyConnection) -> None:
    """Refuse a path that the router would take for another.

    Litestar drops doubled and trailing slashes, and reads ``%2F`` as a slash, which RFC 3986 (section 2.2)
    forbids: ``/orders%2F5`` is one segment. Where a proxy reads a path differently from the service, its
    access rules for paths can be bypassed.

    Raises:
        ProblemError: 404, the path as it was sent is not the route's.

    """
    raw_path = connection.scope.get("raw_path", b"").partition(b"?")[0]
    if _PLAIN_PATH.fullmatch(raw_path):
        return
    path = raw_path.decode("ascii", "replace")
    if "%2f" in path.lower():
        raise ProblemError(NOT_FOUND, "No route has this path.")
    route = re.sub("/+", "/", path).rstrip("/") or "/"
    if path != route:
        raise ProblemError(
            NOT_FOUND, f"No route has this path; {route} has one, without the additional slash."
        )
