"""Litestar's types of requests, with their type parameters filled in."""

from __future__ import annotations

from typing import Any

from litestar import HttpMethod, Request
from litestar.connection import ASGIConnection

AnyRequest = Request[Any, Any, Any]
AnyConnection = ASGIConnection[Any, Any, Any, Any]

READ = [HttpMethod.GET, HttpMethod.HEAD]
"""The methods of a route that reads: Litestar does not add HEAD to GET."""


def method_of(connection: AnyConnection) -> str:
    """Return a request's method."""
    return str(connection.scope.get("method", "GET"))
