"""The live stream of order changes: server-sent events, resumed at any position of the retained log.

Every stream is a position and the chunk that is being sent, nothing else. A reader that does not take its
chunk in time is dropped; it comes back with ``Last-Event-ID`` and misses nothing.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import structlog
from litestar import HttpMethod, route
from litestar.enums import ScopeType
from litestar.types import ASGIApp

from api import fields
from api.connections import SlowReaderError, send_in_time, send_while_read
from api.order_change_queries import check_position, log_bounds
from api.order_change_tail import TAIL, encode_event
from api.order_changes import refuse_if_too_many_follow
from api.problems import Fault, malformed
from api.requests import AnyRequest, method_of, read_query
from shared.change_log import changes_after
from shared.database.engine import DatabaseUnavailableError
from shared.settings import settings

if TYPE_CHECKING:
    from litestar.types import Receive, Scope, Send

log = structlog.get_logger("order_change_stream")

EVENT_STREAM = "text/event-stream"

PAGE = 200
"""Changes that one stream reads at once while it catches up from PostgreSQL."""

_catching_up = asyncio.Semaphore(2)
"""Streams that read PostgreSQL at the same time: a thousand that return at once leave room for requests."""

HEADERS = [
    (b"content-type", EVENT_STREAM.encode()),
    (b"cache-control", b"no-store"),
    # nginx would collect the events until its buffer is full.
    (b"x-accel-buffering", b"no"),
]


@route(
    "/order-changes/stream", http_method=[HttpMethod.GET, HttpMethod.HEAD], opt={"produces": (EVENT_STREAM,)}
)
async def stream_order_changes(request: AnyRequest) -> ASGIApp:
    """Stream changes after a position: ``Last-Event-ID``, else ``after``, else the latest."""
    query = read_query(request, {"after": fields.read_position})
    bounds = await log_bounds()
    after: int = query.get("after", bounds.last)
    # What a client that connects again sends by itself is newer than the address it connects to.
    given = request.headers.getall("last-event-id", [])
    if len(given) > 1:
        raise malformed(Fault("must be there once", header="Last-Event-ID"))
    if last_event_id := "".join(given):
        try:
            after = fields.read_position(last_event_id)
        except ValueError as error:
            raise malformed(Fault(str(error), header="Last-Event-ID")) from None
    check_position(after, bounds)
    if method_of(request) == "HEAD":
        return _head
    refuse_if_too_many_follow()
    return _Stream(after)


async def _head(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Stream:
    """One reader of the stream."""

    def __init__(self, after: int) -> None:
        self.position = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the reader goes, is too slow, or the process stops."""
        if scope["type"] != ScopeType.HTTP:  # the router lets nothing else through
            return
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        with TAIL.follow():
            try:
                await send_while_read(receive, self._send_events(send))
            except SlowReaderError:
                log.info("slow_reader_dropped", position=self.position)
                raise

    async def _send_events(self, send: Send) -> None:
        # Back after 1 to 3 s: all who lost a process do not return in the same moment. The id alone is no
        # event, and makes the reader's next Last-Event-ID right even if it is cut off before the first one.
        greeting = f"retry: {random.randrange(1_000, 3_000)}\nid: {self.position}\n\n"  # noqa: S311 (no secret)
        await send_in_time(send, greeting.encode())
        await TAIL.wait_for_a_look()
        generation = TAIL.generation
        while True:
            await TAIL.wait_beyond(self.position, settings().stream_silence)
            if TAIL.ended or TAIL.generation != generation:
                break
            if TAIL.last is None or TAIL.last <= self.position:
                await send_in_time(send, b": nothing new\n\n")
            elif TAIL.reaches(self.position):
                chunk, position = TAIL.chunk(self.position)
                await send_in_time(send, chunk)
                self.position = position
            else:
                await self._catch_up(send)
        await send_in_time(send, b"", more_body=False)

    async def _catch_up(self, send: Send) -> None:
        """Send a page from PostgreSQL to a reader that is behind the ring."""
        try:
            async with _catching_up:
                changes = await changes_after(self.position, PAGE)
        except DatabaseUnavailableError:
            await asyncio.sleep(1)
            return
        if not changes or changes[0].position != self.position + 1:
            # It stood at the very edge of what is retained, and that was removed: it is told 410 when it
            # connects again. Ending is the only way to say so in the middle of a stream.
            raise SlowReaderError
        await send_in_time(send, b"".join(map(encode_event, changes)))
        self.position = changes[-1].position


ROUTES = [stream_order_changes]
