"""Health: what an operator looks at first."""

from __future__ import annotations

import asyncio

from litestar import route
from litestar.enums import HttpMethod
from litestar.response import Template

from console.rendering import render
from console.requests import PageRequest, ask

_READ = [HttpMethod.GET, HttpMethod.HEAD]


@route("/console/health", http_method=_READ)
async def show_health(request: PageRequest) -> Template:
    """Show whether orders can be stored, and how far each part has come."""
    (ready,) = await asyncio.gather(ask(request, "/health/ready", refusals=frozenset({503})))
    return await render(request, "health.html", ready=ready.data)


ROUTES = [show_health]
