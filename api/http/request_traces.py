"""A span for every request, which continues the trace of its ``traceparent`` (W3C Trace Context).

Its attributes are those of OpenTelemetry's semantic conventions for HTTP servers, except what callers may
hold to be secret: it has no query, and no header.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from litestar.enums import ScopeType

from api.http.request import METHODS, header_values
from api.http.request_metrics import UNKNOWN_ROUTE, route_of
from shared.tracing.spans import active_tracer

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from litestar.types import ASGIApp, Message, Receive, Scope, Send

    from shared.tracing.sdk import Tracer

PROBES = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Paths that are read every few seconds by machines, and get no span."""

_EVENT_STREAM = b"text/event-stream"
_OTHER_METHOD = "_OTHER"
"""The method of a span whose method is not known, by the conventions."""


def trace_requests(app: ASGIApp) -> ASGIApp:
    """Wrap the application: begin and end a span for each request. Unless traces are exported, do nothing."""
    tracer = active_tracer()
    if tracer is None:
        return app

    async def traced(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["path"] in PROBES:
            await app(scope, receive, send)
            return
        request = _TracedRequest(tracer, scope, send)
        structlog.contextvars.bind_contextvars(trace_id=request.span.trace_id)
        try:
            with request.span.current():
                await app(scope, receive, request.send)
        finally:
            request.end()

    return traced


class _TracedRequest:
    def __init__(self, tracer: Tracer, scope: Scope, send: Send) -> None:
        method = str(scope.get("method"))
        is_known = method in METHODS
        self._scope = scope
        self._send = send
        self._name = method if is_known else "HTTP"
        self._status = 0
        self.span = tracer.begin_request(
            self._name,
            {
                "http.request.method": method if is_known else _OTHER_METHOD,
                "url.path": scope["path"],
                "url.scheme": scope["scheme"],
            },
            header_values(scope, b"traceparent"),
            header_values(scope, b"tracestate"),
        )

    def send(self, message: Message) -> Awaitable[None]:
        """Send a part of the answer, and note its status."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            if any(value.startswith(_EVENT_STREAM) for _, value in message["headers"]):
                self.end()  # it lasts as long as its client stays
        return self._send(message)

    def end(self) -> None:
        """End the span, once."""
        span = self.span
        if not span.is_recorded:  # it is not sampled, or has ended
            return
        attributes: dict[str, str | float] = {"oms.request_id": str(self._scope.get("request_id", ""))}
        route = route_of(self._scope)
        if route != UNKNOWN_ROUTE:
            span.rename(f"{self._name} {route}")
            attributes["http.route"] = route
        if self._status:
            attributes["http.response.status_code"] = self._status
        span.set(attributes)
        if not 0 < self._status < 500:
            span.fail(str(self._status) if self._status else "no_answer")
        span.end()
