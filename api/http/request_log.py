"""Every request gets an id, is counted, and has one line in the log."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

import structlog
from litestar.enums import ScopeType

from api.http.answer_headers import common_headers
from api.http.request import headers_by_name
from api.http.request_metrics import count_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from litestar.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger("request")

_ID_BYTES = 16
_IDS_AT_ONCE = 256


def _random_ids() -> Iterator[str]:
    """Yield ids that nobody can guess. To ask the kernel for each would be the slowest step of an answer."""
    while True:
        block = os.urandom(_IDS_AT_ONCE * _ID_BYTES)
        for start in range(0, len(block), _ID_BYTES):
            yield block[start : start + _ID_BYTES].hex()


_EVENT_STREAM = b"text/event-stream"
_USABLE = re.compile(rb"[!-~]{1,128}")


def request_log(app: ASGIApp) -> ASGIApp:
    """Wrap the application: use the caller's ``X-Request-Id`` or make one, answer with it, count and log it.

    It wraps the whole application, unlike a Litestar middleware, so that unknown routes get both too. All
    headers that every answer has are added here, in one pass.
    """
    # Of this application's own: processes that are forked later would share what was drawn before.
    new_ids = _random_ids()

    async def logged(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        sent_id = headers_by_name(scope).get(b"x-request-id", (b"",))[0]
        # Other characters could forge lines of the log.
        request_id = sent_id.decode() if _USABLE.fullmatch(sent_id) else next(new_ids)
        scope["request_id"] = request_id  # type: ignore[typeddict-unknown-key]  # a key of our own
        started = time.perf_counter()
        status = 0
        is_counted = False

        def send_with_headers(message: Message) -> Awaitable[None]:
            nonlocal status, is_counted
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = dict(message["headers"])
                message["headers"] = [
                    *message["headers"],
                    *common_headers(scope["method"], status, headers),
                    (b"x-request-id", request_id.encode()),
                ]
                if headers.get(b"content-type", b"").startswith(_EVENT_STREAM):
                    # It lasts as long as its client stays, and would be counted only then.
                    is_counted = True
                    count_request(scope, status, time.perf_counter() - started)
            return send(message)

        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await app(scope, receive, send_with_headers)
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
                **scope.get("log_fields", {}),  # type: ignore[arg-type]  # of a route that has more to say
            )

    return logged
