"""OPTIONS: which methods a path answers (RFC 9110, section 9.3.7)."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from litestar import HttpMethod, Response, route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from litestar.handlers import HTTPRouteHandler


def options_routes(handlers: Iterable[HTTPRouteHandler]) -> list[HTTPRouteHandler]:
    """Make an OPTIONS route for every path. Litestar's own lists the methods of only one handler."""
    methods: dict[str, set[str]] = defaultdict(lambda: {"OPTIONS"})
    for handler in handlers:
        for path in handler.paths:
            methods[path] |= {str(method) for method in handler.http_methods}
    return [_options(path, allowed) for path, allowed in sorted(methods.items())]


def _options(path: str, methods: set[str]) -> HTTPRouteHandler:
    allowed = ", ".join(sorted(methods))

    @route(path, http_method=[HttpMethod.OPTIONS], status_code=204)
    async def show_methods() -> Response[None]:
        return Response(None, status_code=204, headers={"Allow": allowed})

    return show_methods
