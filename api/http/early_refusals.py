"""Refuses requests before they are routed, on every path: those without a route too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request
from litestar.enums import ScopeType

from api.http.problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from litestar import Response
    from litestar.types import ASGIApp, Receive, Scope, Send


def refuse_early(
    app: ASGIApp,
    answer: Callable[[Request[Any, Any, Any], Exception], Response[bytes]],
    *checks: Callable[[Scope], None],
) -> ASGIApp:
    """Wrap the application: what a check raises is answered, and the application is not called.

    Args:
        app: the application.
        answer: makes a response of an error, as it does for the routes.
        checks: raise a ``ProblemError`` for a request that is refused.

    """

    def checked(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == ScopeType.HTTP:
            try:
                for check in checks:
                    check(scope)
            except ProblemError as refusal:
                request: Request[Any, Any, Any] = Request(scope)
                return answer(request, refusal).to_asgi_response(None, request)(scope, receive, send)
        return app(scope, receive, send)

    return checked
