"""Every request gets an id, is counted, and has one line in the log."""

from __future__ import annotations

import re
import time
import uuid
from typing import TYPE_CHECKING

import structlog
from litestar.datastructures import MutableScopeHeaders
from litestar.enums import ScopeType

from api.http.request_metrics import count_request

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger("request")

_EVENT_STREAM = "text/event-stream"
_USABLE = re.compile(rb"[!-~]{1,128}")


def request_log(app: ASGIApp) -> ASGIApp:
    """Wrap the application: use the caller's ``X-Request-Id`` or make one, answer with it, count and log it.

    It wraps the whole application, unlike a Litestar middleware, so that unknown routes get both too.
    """

    async def logged(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        sent_id = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        # Other characters could forge lines of the log.
        request_id = sent_id.decode() if _USABLE.fullmatch(sent_id) else uuid.uuid4().hex
        scope["request_id"] = request_id  # type: ignore[typeddict-unknown-key]  # a key of our own
        started = time.perf_counter()
        status = 0
        is_counted = False

        async def send_with_id(message: Message) -> None:
            nonlocal status, is_counted
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableScopeHeaders(message)
                headers["X-Request-Id"] = request_id
                if headers.get("content-type", "").startswith(_EVENT_STREAM):
                    # It lasts as long as its client stays, and would be counted only then.
                    is_counted = True
                    count_request(scope, status, time.perf_counter() - started)
            await send(message)

        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await app(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            if not is_counted:
                count_request(scope, status, seconds)
            log.info(
                "answered",
                method=scope["method"],
                path=scope["path"],
                status=status,
                ms=round(seconds * 1000, 1),
            )

    return logged
