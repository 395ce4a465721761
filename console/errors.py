"""Errors of pages: what the API refused is shown in the words of its problem detail."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import structlog
from litestar import Response
from litestar.exceptions import HTTPException
from litestar.response import Redirect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from console.requests import PageRequest

log = structlog.get_logger(__name__)


@dataclass
class ApiRefusalError(Exception):
    """The API answered a page's request with a problem."""

    status: int
    problem: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


def answer_error(request: PageRequest, error: Any) -> Response[Any]:
    """Show an error as a page; without a valid key, lead to the sign-in."""
    from console.rendering import show_problem

    if isinstance(error, ApiRefusalError):
        if error.status == 401:
            return Redirect(f"/console/sign-in?next={quote(_here(request), safe='')}", status_code=303)
        return show_problem(request, error.status, error.problem)
    if isinstance(error, HTTPException) and error.status_code < 500:
        titles = {404: "There is no such page", 405: "This page can't do that"}
        title = titles.get(error.status_code, "The request can't be read")
        # What a page found wrong with its address.
        detail = error.detail if error.status_code == 400 else ""
        return show_problem(request, error.status_code, {"title": title, "detail": detail})
    log.error("internal_error", exc_info=error)
    return show_problem(
        request,
        500,
        {
            "title": "Internal error",
            "detail": "The log has the details, under this request id.",
            "request_id": request.headers.get("x-request-id", ""),
        },
    )


def _here(request: PageRequest) -> str:
    query = request.scope["query_string"].decode("latin-1")
    return request.scope["path"] + (f"?{query}" if query else "")
