"""The live stream of order changes: server-sent events, resumed at any position of the retained log.

A stream keeps only its position and the chunk that is being sent. A client that does not read its
chunk in time is disconnected; it reconnects with ``Last-Event-ID`` and misses nothing.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import structlog
from litestar import route
from litestar.enums import ScopeType
from litestar.types import ASGIApp

from api.changes.events import encode_event
from api.changes.queries import check_position
from api.changes.tail import TAIL
from api.http.access import is_still_allowed
from api.http.connections import SlowClientError, send_chunk, send_until_disconnect
from api.http.fields import read_position
from api.http.parameters import Query, query_of
from api.http.problems import Fault, malformed
from api.http.request import READ, AnyRequest, header_values, method_of
from api.http.scopes import CHANGES_READ
from api.http.stream_tickets import read_ticket
from shared.change_log import changes_after, log_bounds
from shared.database.engine import DatabaseUnavailableError
from shared.database.read_places import reading_at
from shared.database.standbys import STANDBYS
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from litestar.types import Receive, Scope, Send

    from shared.changes import Change

log = structlog.get_logger("order_change_stream")

EVENT_STREAM = "text/event-stream"

PAGE = 200
"""Changes that one stream reads at once while it catches up from PostgreSQL."""

_catching_up = asyncio.Semaphore(2)
"""Streams that may catch up at once: a thousand that reconnect leave connections for requests."""

HEADERS = [
    (b"content-type", EVENT_STREAM.encode()),
    (b"cache-control", b"no-store"),
    # Otherwise nginx holds the events back until its buffer is full.
    (b"x-accel-buffering", b"no"),
]


@route(
    "/order-changes/stream",
    http_method=READ,
    opt={
        "scope": CHANGES_READ,
        "takes_ticket": True,
        "produces": (EVENT_STREAM,),
        "query": Query({"after": read_position, "ticket": read_ticket}),
    },
)
async def stream_order_changes(request: AnyRequest) -> ASGIApp:
    """Stream changes after a position: ``Last-Event-ID``, else ``after``, else the latest."""
    # On the primary: where a stream starts must not go back, and so must not what it may resume at.
    bounds = await log_bounds()
    after: int = query_of(request).get("after", bounds.last)
    # A reconnecting client sends the header automatically; it is newer than ``after`` in the URL.
    last_event_ids = header_values(request.scope, b"last-event-id")
    if len(last_event_ids) > 1:
        raise malformed(Fault("exactly one is required", header="Last-Event-ID"))
    if last_event_id := "".join(last_event_ids):
        try:
            after = read_position(last_event_id)
        except ValueError as error:
            raise malformed(Fault(str(error), header="Last-Event-ID")) from None
    check_position(after, bounds)
    if method_of(request) == "HEAD":
        return _head
    TAIL.check_capacity()
    return _Stream(after, request)


async def _head(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _retry_hint() -> str:
    """Return a line: reconnect after 1 to 3 s, so that not all clients of a process return at once."""
    return f"retry: {random.randrange(1_000, 3_000)}\n"  # noqa: S311 (no secret)


def _continues(changes: Sequence[Change], position: int) -> bool:
    """Return whether changes begin with the one after a position."""
    return bool(changes) and changes[0].position == position + 1


class _Stream:
    """One client of the stream."""

    def __init__(self, after: int, request: AnyRequest) -> None:
        self.position = after
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the client disconnects, is too slow, or the process stops."""
        if scope["type"] != ScopeType.HTTP:  # the router passes nothing else on
            return
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        with TAIL.follow():
            try:
                await send_until_disconnect(receive, self._send_events(send))
            except SlowClientError:
                log.info("slow_client_dropped", position=self.position)
                raise

    async def _send_events(self, send: Send) -> None:
        # The first event sets the client's Last-Event-ID, in case no change ever arrives. It has data and a
        # type of its own: some clients deliver an id alone as an empty message.
        start = (
            f'{_retry_hint()}id: {self.position}\nevent: position\ndata: {{"position":{self.position}}}\n\n'
        )
        departures = TAIL.departures
        await send_chunk(send, start.encode())
        await TAIL.wait_for_poll(departures)
        generation = TAIL.generation
        while True:
            await TAIL.wait_beyond(self.position, settings().stream_silence, departures)
            if TAIL.is_over(departures) or TAIL.generation != generation:
                break
            if not await is_still_allowed(self._request):
                break
            if TAIL.last is None or TAIL.last <= self.position:
                await send_chunk(send, b": nothing new\n\n")
            elif TAIL.covers(self.position):
                chunk, position = TAIL.chunk(self.position)
                await send_chunk(send, chunk)
                self.position = position
            else:
                await self._catch_up(send)
        # Without an empty line: some clients would deliver an event without data as an empty message.
        await send_chunk(send, _retry_hint().encode())
        await send_chunk(send, b"", more_body=False)

    async def _catch_up(self, send: Send) -> None:
        """Send a page from PostgreSQL to a client whose next change is no longer in the ring."""
        try:
            async with _catching_up:
                with reading_at(STANDBYS.place):
                    changes = await changes_after(self.position, PAGE)
                if not _continues(changes, self.position):  # or the standby is behind the tail
                    changes = await changes_after(self.position, PAGE)
        except DatabaseUnavailableError:
            await asyncio.sleep(1)
            return
        if not _continues(changes, self.position):
            # Retention has just deleted the next change. A stream that has begun can only be cut off; the
            # client gets 410 when it reconnects.
            raise SlowClientError
        await send_chunk(send, b"".join(map(encode_event, changes)))
        self.position = changes[-1].position


ROUTES = [stream_order_changes]
