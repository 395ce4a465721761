"""Signing in with a key, and out; the page that ``/console`` leads to."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from litestar import Response, get, post, route
from litestar.enums import HttpMethod
from litestar.exceptions import PermissionDeniedException
from litestar.response import Redirect

from console.errors import ApiRefusalError
from console.gateway import is_same_origin
from console.rendering import PAGES, show_without_visitor
from console.requests import PageRequest, ask
from console.sessions import LONGEST_KEY, begin_session, end_session
from console.visitors import visitor_of

READ = [HttpMethod.GET, HttpMethod.HEAD]


@get("/console")
async def show_first_page(request: PageRequest) -> Redirect:
    """Lead to the first page that the visitor may read."""
    visitor = await visitor_of(request)
    first = next(path for path, _, scope in PAGES if scope is None or visitor.may_read(scope))
    return Redirect(first, status_code=303)


@route("/console/sign-in", http_method=READ)
async def show_sign_in(request: PageRequest) -> Response[Any]:
    """Show the form."""
    return show_without_visitor(
        request, "sign_in.html", next=_next(request.query_params.get("next")), problem=None
    )


@post("/console/sign-in", status_code=200)
async def sign_in(request: PageRequest) -> Response[Any]:
    """Begin a session, if the API knows the key."""
    if not is_same_origin(request.scope):
        raise PermissionDeniedException
    form = await request.form()
    key, here = str(form.get("key", "")).strip(), _next(str(form.get("next", "")))
    if not key or len(key) > LONGEST_KEY or not key.isascii() or not key.isprintable():
        problem = {"detail": "Enter an API key or an access token."}
        return show_without_visitor(request, "sign_in.html", next=here, problem=problem, status=401)
    try:
        await ask(request, "/caller", key=key)
    except ApiRefusalError as refusal:
        return show_without_visitor(
            request, "sign_in.html", next=here, problem=refusal.problem, status=refusal.status
        )
    return Response(None, status_code=303, headers={"Location": here, "Set-Cookie": begin_session(key)})


@post("/console/sign-out", status_code=303)
async def sign_out(request: PageRequest) -> Response[Any]:
    """End the session."""
    if not is_same_origin(request.scope):
        raise PermissionDeniedException
    return Response(
        None, status_code=303, headers={"Location": "/console/sign-in", "Set-Cookie": end_session()}
    )


def _next(address: str | None) -> str:
    """Return where to go after the sign-in: only to a page of the console."""
    if address and (address == "/console" or address.startswith("/console/")) and address.isprintable():
        return quote(address, safe="/?&=%:,.~-_+[]")
    return "/console"


ROUTES = [show_first_page, show_sign_in, sign_in, sign_out]
