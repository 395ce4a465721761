"""The console as an ASGI application, and how its requests are told from those of the API.

``/console/api/…`` is the public API for the console's own scripts: the request goes on as it came, streams
too, with the key of the session in place of the cookie (``console/gateway.py``). Everything else under
``/console`` is a page or a file of one.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from litestar import Litestar
from litestar.datastructures import State
from litestar.enums import ScopeType
from litestar.plugins.jinja import JinjaTemplateEngine
from litestar.template.config import TemplateConfig

from console import gateway, static_files
from console.errors import answer_error
from console.gateway import is_for_api, pass_on
from console.pages import changes, fees, health, imports, keys, orders, schedule, search, sign_in, webhooks
from console.rendering import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from litestar import Request, Response
    from litestar.types import ASGIApp, Receive, Scope, Send

LARGEST_BODY_BYTES = 16_384
"""The only body that a page takes is the form of the sign-in."""

ROUTES = [
    *sign_in.ROUTES,
    *schedule.ROUTES,
    *changes.ROUTES,
    *orders.ROUTES,
    *search.ROUTES,
    *fees.ROUTES,
    *webhooks.ROUTES,
    *imports.ROUTES,
    *keys.ROUTES,
    *health.ROUTES,
    *static_files.ROUTES,
    *gateway.ROUTES,
]


def create_pages(
    api: ASGIApp, answer: Callable[[Request[Any, Any, Any], Exception], Response[bytes]]
) -> Litestar:
    """Assemble the pages.

    Args:
        api: the public API with everything in front of it, as a caller from outside would reach it.
        answer: describes an error as problem details.

    """
    return Litestar(
        route_handlers=ROUTES,
        exception_handlers={Exception: answer_error},
        template_config=TemplateConfig(instance=JinjaTemplateEngine.from_environment(ENVIRONMENT)),
        request_max_body_size=LARGEST_BODY_BYTES,
        state=State({"api": api, "answer": answer}),
        openapi_config=None,
        logging_config=None,
    )


def with_console(api: ASGIApp, pages: ASGIApp) -> ASGIApp:
    """Return an application that serves both.

    Args:
        api: the public API.
        pages: what ``create_pages`` returned, with the same in front of it.

    """

    def serve(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != ScopeType.HTTP:
            return api(scope, receive, send)
        path = scope["path"]
        if path != "/console" and not path.startswith("/console/"):
            return api(scope, receive, send)
        _name_request(scope)
        if is_for_api(scope):
            return pass_on(api, scope, receive, send)
        return pages(scope, receive, send)

    return serve


def _name_request(scope: Scope) -> None:
    """Give a request its id here, so that a page's own requests to the API have the same in the log."""
    if not any(name == b"x-request-id" for name, _ in scope["headers"]):
        scope["headers"] = [*scope["headers"], (b"x-request-id", secrets.token_hex(16).encode())]
