"""Signing in with a key, and out; the page that ``/console`` leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from litestar import Response, post, route
from litestar.enums import HttpMethod
from litestar.exceptions import PermissionDeniedException
from litestar.response import Redirect

from console.errors import ApiRefusalError
from console.gateway import is_same_origin, origin_of
from console.rendering import PAGES, show_without_visitor
from console.requests import PageRequest, ask
from console.sessions import LONGEST_KEY, begin_session, end_session, header_of
from console.visitors import visitor_of

if TYPE_CHECKING:
    from litestar.types import Scope

READ = [HttpMethod.GET, HttpMethod.HEAD]
FIRST = "/console"
_NO_PAGES = frozenset({"", "api", "static", "sign-in", "sign-out"})


@route("/console", http_method=READ)
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
    if problem := _transport_problem(request.scope):
        return show_without_visitor(request, "sign_in.html", next=FIRST, problem=problem, status=400)
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


def _transport_problem(scope: Scope) -> dict[str, str] | None:
    """Say why a browser would not keep the session: its cookie is not for plain HTTP (RFC 6265bis)."""
    origin = origin_of(scope)
    # It sends Sec-Fetch-Site where it keeps such cookies: over TLS, and to this machine.
    if header_of(scope, b"sec-fetch-site") is not None or origin is None or origin[0] == "https":
        return None
    return {
        "detail": "Browsers keep sessions only over HTTPS; most also on the machine that serves the console."
    }


def _next(address: str | None) -> str:
    """Return where to go after the sign-in: only to a page of the console."""
    if not address or not address.isprintable():
        return FIRST
    segments = unquote(address.partition("?")[0]).split("/")
    # Browsers resolve "..", also as "%2e%2e", before they ask.
    leaves = segments[:2] != ["", "console"] or not {".", ".."}.isdisjoint(segments)
    if leaves or (len(segments) > 2 and segments[2] in _NO_PAGES):
        return FIRST
    return quote(address, safe="/?&=%:,.~-_+[]")


ROUTES = [show_first_page, show_sign_in, sign_in, sign_out]
