"""Every request gets an id, is counted, and has one line in the log, unless reads are sampled."""

from __future__ import annotations

import os
import random
import re
import time
from typing import TYPE_CHECKING, Any

import structlog
from litestar.enums import ScopeType

from api.http.answer_headers import common_headers
from api.http.callers import READING
from api.http.request import headers_by_name
from api.http.request_metrics import count_request, route_of
from shared.database.database_wait import measure_database_wait
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection, Iterator, Mapping

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


_MOST_CALENDARS = 5
"""How many calendars a line names, of a request that names more."""


def _is_logged(scope: Scope, status: int, sample: float) -> bool:
    """Return whether a request gets a line: all do, except of reads that succeeded (304 too) a random share.

    By chance and not by the request's id: callers choose that, and could choose not to be logged.
    """
    if sample >= 1 or not 200 <= status < 400 or str(scope.get("method")) not in READING:
        return True
    return random.random() < sample  # noqa: S311 - nobody gains from a guess


def _add_caller_and_calendars(fields: dict[str, Any], scope: Mapping[str, Any]) -> None:
    """Add who sends a request, if that is known, and which calendars it names, in path, query or body."""
    if (caller := scope.get("caller")) is not None:
        fields["actor"] = caller.name
    if (path := scope.get("path_params")) and "calendar" in path:
        fields["calendar"] = path["calendar"]
    elif (query := scope.get("query")) and "calendar" in query:
        fields["calendar"] = _join(query["calendar"])
    elif named := scope.get("named_calendars"):
        fields["calendar"] = _join(named)


def _join(calendars: str | Collection[str]) -> str:
    if isinstance(calendars, str):
        return calendars
    names = sorted(set(calendars))
    more = f"+{len(names) - _MOST_CALENDARS}" if len(names) > _MOST_CALENDARS else ""
    return ",".join(names[:_MOST_CALENDARS]) + more


def request_log(app: ASGIApp) -> ASGIApp:
    """Wrap the application: use the caller's ``X-Request-Id`` or make one, answer with it, count and log it.

    It wraps the whole application, unlike a Litestar middleware, so that unknown routes get both too. All
    headers that every answer has are added here, in one pass.
    """
    # Of this application's own: processes that are forked later would share what was drawn before.
    new_ids = _random_ids()
    sample = settings().log_sample

    async def logged(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        sent_id = headers_by_name(scope).get(b"x-request-id", (b"",))[0]
        # Other characters could forge lines of the log.
        request_id = sent_id.decode() if _USABLE.fullmatch(sent_id) else next(new_ids)
        scope["request_id"] = request_id  # type: ignore[typeddict-unknown-key]  # a key of our own
        waits = measure_database_wait()
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
            if _is_logged(scope, status, sample):
                fields: dict[str, Any] = {
                    "method": scope["method"],
                    "path": scope["path"],
                    "route": route_of(scope),
                    "status": status,
                    "ms": round(seconds * 1000, 1),
                    "database_ms": round(waits.seconds * 1000, 1),
                    **scope.get("log_fields", {}),  # type: ignore[dict-item]  # of a route that has more to say
                }
                _add_caller_and_calendars(fields, scope)
                log.info("answered", **fields)

    return logged
