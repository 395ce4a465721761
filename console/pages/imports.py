"""Imports: files of orders, checked or stored as a whole, and those of before."""

from __future__ import annotations

from litestar import route
from litestar.enums import HttpMethod
from litestar.response import Template

from console.rendering import render
from console.requests import PageRequest, ask
from console.visitors import visitor_of

_READ = [HttpMethod.GET, HttpMethod.HEAD]

PER_PAGE = "50"

SCOPES = ("orders:write", "services:manage")
"""What an import needs: its orders may be nearer to each other than the spacing."""


@route("/console/imports", http_method=_READ)
async def show_imports(request: PageRequest) -> Template:
    """Show the form for a file, and what was imported, the latest first."""
    visitor = await visitor_of(request)
    query = [("limit", PER_PAGE), ("cursor", request.query_params.get("cursor", ""))]
    imports = (await ask(request, "/imports", query)).data
    return await render(
        request, "imports.html", imports=imports, may_import=all(visitor.may(scope) for scope in SCOPES)
    )


ROUTES = [show_imports]
