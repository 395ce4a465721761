"""Receives the bodies of requests: each in limited time, all of a process in limited memory.

A body that stalls or drips ends with 408. When too much arrives at once, the bodies that began first and are
still unfinished end with 503. One that is sent without a pause is read before it is the oldest, so slow
callers can't keep others out.

If a server answers and closes while the caller is still sending, the connection is reset and the caller may
never see the answer (RFC 9112, section 9.6). So the rest of a refused body is read and discarded, up to a
limit, before the answer is sent.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from litestar.enums import ScopeType

from api.http.errors import BodyTimeoutError, TooManyBodiesError
from api.http.request import headers_by_name
from shared.settings import settings

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

LEAST_BYTES_PER_SECOND = 1_000
"""A body has a third of ``OMS_BODY_TIMEOUT``, and a second more for as many bytes as it has sent."""

MAX_BYTES_IN_FLIGHT = 64_000_000
"""Of the bodies of all requests that a process is receiving or answering."""

DISCARDED_BYTES = 8_000_000
"""The most that is read of a refused body; the connection of a caller who sends more may be reset."""

DISCARD_SECONDS = 5.0

_BODIES = frozenset({b"content-length", b"transfer-encoding"})


def receive_bodies(app: ASGIApp, most_unfinished: int) -> ASGIApp:
    """Wrap the application: limit what it receives, and begin an answer only after the whole request is read.

    Args:
        app: the application.
        most_unfinished: bodies that may be arriving at the same time; beyond it the oldest end with 503.

    """
    in_flight = _InFlight(most_unfinished)

    async def receiving(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or _BODIES.isdisjoint(headers_by_name(scope)):
            await app(scope, receive, send)
            return
        body = _Body(receive, in_flight)

        async def send_after_body(message: Message) -> None:
            if message["type"] == "http.response.start":
                await body.discard_rest()
            await send(message)

        try:
            await app(scope, body.receive, send_after_body)
        finally:
            body.forget()

    return receiving


class _InFlight:
    """The bodies of all requests of a process."""

    def __init__(self, most_unfinished: int) -> None:
        self.most_unfinished = most_unfinished
        self.unfinished: dict[_Body, None] = {}
        """Bodies of which more is to come, by when they began."""
        self.size = 0
        """Bytes that are kept of bodies, finished or not."""

    def make_room(self, newest: _Body) -> None:
        """End the oldest unfinished bodies until the limits are kept.

        Raises:
            TooManyBodiesError: that does not help; ``newest`` has to go.

        """
        for body in [*self.unfinished]:
            if self.size <= MAX_BYTES_IN_FLIGHT and len(self.unfinished) <= self.most_unfinished:
                return
            if body is not newest:
                body.evict()
        if self.size > MAX_BYTES_IN_FLIGHT:
            raise TooManyBodiesError


class _Body:
    """One request's body as it arrives."""

    def __init__(self, receive: Receive, in_flight: _InFlight) -> None:
        self._receive = receive
        self._in_flight = in_flight
        self._began = asyncio.get_running_loop().time()
        self._received = self._kept = 0
        self._has_ended = self._is_evicted = self._was_given_up = False
        self._timeout: asyncio.Timeout | None = None

    async def receive(self) -> Any:
        """Receive the next message for the application.

        Raises:
            BodyTimeoutError: the body takes too long.
            TooManyBodiesError: too many bodies, or bytes of bodies, arrive at the same time.

        """
        if self._has_ended:
            return await self._receive()
        message = await self._next_part(self._began + settings().body_timeout)
        size = len(message.get("body", b""))
        self._kept += size
        self._in_flight.size += size
        self._in_flight.make_room(self)
        return message

    async def discard_rest(self) -> None:
        """Read what the application has not read."""
        limit = asyncio.get_running_loop().time() + DISCARD_SECONDS
        discarded = 0
        with suppress(BodyTimeoutError, TooManyBodiesError):
            while not self._has_ended and not self._was_given_up and discarded < DISCARDED_BYTES:
                discarded += len((await self._next_part(limit)).get("body", b""))

    def evict(self) -> None:
        """End it, and what waits for its next part, with ``TooManyBodiesError``."""
        self._is_evicted = True
        self.forget()
        if self._timeout is not None:
            self._timeout.reschedule(0)

    def forget(self) -> None:
        """Count it no longer."""
        self._in_flight.unfinished.pop(self, None)
        self._in_flight.size -= self._kept
        self._kept = 0

    async def _next_part(self, latest: float) -> Any:
        if not self._is_evicted:
            self._in_flight.unfinished.setdefault(self)
            self._in_flight.make_room(self)
        try:
            least = settings().body_timeout / 3 + self._received / LEAST_BYTES_PER_SECOND
            async with asyncio.timeout_at(min(latest, self._began + least)) as self._timeout:
                if self._is_evicted:
                    raise TimeoutError  # noqa: TRY301 - as when it is evicted while it waits
                message: Any = await self._receive()
        except TimeoutError:
            self._was_given_up = True
            raise (TooManyBodiesError if self._is_evicted else BodyTimeoutError) from None
        finally:
            self._timeout = None
        self._received += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._has_ended = True
            self._in_flight.unfinished.pop(self, None)
        return message
