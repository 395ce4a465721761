"""Errors of pages: what the API refused is shown in the words of its problem detail."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from litestar import Response
from litestar.exceptions import HTTPException
from litestar.response import Redirect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from console.requests import PageRequest

_TITLES = {
    400: "The request can't be read",
    403: "A page of another origin sent this request",
    404: "There is no such page",
    405: "This page can't do that",
}


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
    if isinstance(error, HTTPException) and error.status_code in _TITLES:
        problem = {"title": _TITLES[error.status_code]}
        if error.status_code == 400:  # what a page found wrong with its address
            problem["detail"] = error.detail
        return show_problem(request, error.status_code, problem, error.headers)
    answer: Response[bytes] = request.app.state.answer(request, error)
    return show_problem(request, answer.status_code or 500, json.loads(answer.content), answer.headers)


def _here(request: PageRequest) -> str:
    query = request.scope["query_string"].decode("latin-1")
    path = request.scope["raw_path"].partition(b"?")[0].decode("latin-1")
    return path + (f"?{query}" if query else "")
