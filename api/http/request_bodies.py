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
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from litestar.enums import ScopeType
from litestar.exceptions.http_exceptions import RequestEntityTooLarge

from api.http.errors import BodyTimeoutError, IncompleteBodyError, TooManyBodiesError
from api.http.request import headers_by_name
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from litestar.types import ASGIApp, Message, Receive, Scope, Send

    from api.http.request import AnyRequest

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
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        if _BODIES.isdisjoint(headers_by_name(scope)):  # it has no body (RFC 9112, section 6.3)
            scope["body"] = None  # type: ignore[typeddict-unknown-key]  # a key of our own
            await app(scope, receive, send)
            return
        body = _Body(receive, in_flight, _announced_size(scope))
        scope["body"] = body  # type: ignore[typeddict-unknown-key]  # as above

        def send_after_body(message: Message) -> Awaitable[None]:
            if body.has_ended or message["type"] != "http.response.start":
                return send(message)
            return body.discard_rest_and_send(send, message)

        try:
            await app(scope, body.receive, send_after_body)
        finally:
            body.forget()

    return receiving


def _announced_size(scope: Scope) -> float:
    """Return how many bytes a body will have; infinity if that is not said."""
    headers = headers_by_name(scope)
    sizes = headers.get(b"content-length", ())
    is_announced = len(sizes) == 1 and sizes[0].isdigit() and b"transfer-encoding" not in headers
    return int(sizes[0]) if is_announced else math.inf


async def receive_body(request: AnyRequest) -> bytes:
    """Receive the whole body of a request that passed ``receive_bodies``; empty if it has none.

    Raises:
        RequestEntityTooLarge: it is, or will be, longer than its route allows.
        IncompleteBodyError: the connection ended before it, or its chunks are invalid.
        BodyTimeoutError, TooManyBodiesError: as ``receive_bodies`` limits it.

    """
    body: _Body | None = request.scope["body"]  # type: ignore[typeddict-item]  # as above
    if body is None:
        return b""
    return await body.read(request.route_handler.resolve_request_max_body_size() or math.inf)


class _InFlight:
    """The bodies of all requests of a process."""

    def __init__(self, most_unfinished: int) -> None:
        self.most_unfinished = most_unfinished
        self.unfinished: dict[_Body, None] = {}
        """Bodies of which more is to come, by when they began."""
        self.size = 0
        """Bytes that are kept of bodies, finished or not."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def make_room(self, newest: _Body) -> None:
        """End the oldest unfinished bodies until the limits are kept.

        Raises:
            TooManyBodiesError: that does not help; ``newest`` has to go.

        """
        if self.size <= MAX_BYTES_IN_FLIGHT and len(self.unfinished) <= self.most_unfinished:
            return
        for body in [*self.unfinished]:
            if self.size <= MAX_BYTES_IN_FLIGHT and len(self.unfinished) <= self.most_unfinished:
                return
            if body is not newest:
                body.evict()
        if self.size > MAX_BYTES_IN_FLIGHT:
            raise TooManyBodiesError

    def end_in_time(self, deadline: float) -> None:
        """See to it that what is unfinished ends at a deadline: one timer for all, as few bodies need it."""
        if deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = asyncio.get_running_loop().call_at(deadline, self._end_late)

    def _end_late(self) -> None:
        now = asyncio.get_running_loop().time()
        self._timer, self._timer_at = None, math.inf
        for body in self.unfinished:
            if body.deadline <= now:
                body.interrupt()
            else:
                self.end_in_time(body.deadline)


class _Body:
    """One request's body as it arrives."""

    def __init__(self, receive: Receive, in_flight: _InFlight, announced: float) -> None:
        self._receive = receive
        self._in_flight = in_flight
        self._announced = announced
        self._now = asyncio.get_running_loop().time
        self._began = self._now()
        self._received = self._kept = 0
        self.has_ended = self._is_evicted = self._was_given_up = False
        self._waiting: asyncio.Timeout | None = None

    @property
    def deadline(self) -> float:
        """When it ends if no more of it arrives, by the event loop's clock."""
        longest = settings().body_timeout
        return self._began + min(longest, longest / 3 + self._received / LEAST_BYTES_PER_SECOND)

    async def read(self, most: float) -> bytes:
        """Receive all of it, at ``most`` so many bytes; see ``receive_body``."""
        if self._announced > most and self._announced != math.inf:
            raise RequestEntityTooLarge
        parts: list[bytes] = []
        while not self.has_ended:
            message = await self.receive()
            if message["type"] != "http.request":
                raise IncompleteBodyError
            parts.append(message.get("body", b""))
            if self._received > most:
                raise RequestEntityTooLarge
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def receive(self) -> Any:
        """Receive the next message for the application.

        Raises:
            BodyTimeoutError: the body takes too long.
            TooManyBodiesError: too many bodies, or bytes of bodies, arrive at the same time.

        """
        if self.has_ended:
            return await self._receive()
        message = await self._next_part()
        size = len(message.get("body", b""))
        self._kept += size
        self._in_flight.size += size
        self._in_flight.make_room(self)
        return message

    async def discard_rest_and_send(self, send: Send, message: Message) -> None:
        """Read what the application has not read, and only then begin the answer."""
        discarded = 0
        with suppress(BodyTimeoutError, TooManyBodiesError, TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while not self.has_ended and not self._was_given_up and discarded < DISCARDED_BYTES:
                    discarded += len((await self._next_part()).get("body", b""))
        await send(message)

    def evict(self) -> None:
        """End it, and what waits for its next part, with ``TooManyBodiesError``."""
        self._is_evicted = True
        self.forget()
        self.interrupt()

    def interrupt(self) -> None:
        """End what waits for its next part."""
        if self._waiting is not None:
            self._waiting.reschedule(0)

    def forget(self) -> None:
        """Count it no longer."""
        self._in_flight.unfinished.pop(self, None)
        self._in_flight.size -= self._kept
        self._kept = 0

    async def _next_part(self) -> Any:
        if not self._is_evicted:
            self._in_flight.unfinished.setdefault(self)
            self._in_flight.make_room(self)
        deadline = self.deadline
        self._in_flight.end_in_time(deadline)
        try:
            async with asyncio.timeout(None) as self._waiting:
                if self._is_evicted or deadline <= self._now():
                    raise TimeoutError  # noqa: TRY301 - as when it is interrupted while it waits
                message: Any = await self._receive()
        except TimeoutError:
            self._was_given_up = True
            raise (TooManyBodiesError if self._is_evicted else BodyTimeoutError) from None
        finally:
            self._waiting = None
        self._received += len(message.get("body", b""))
        # granian has one more message after the last bytes, which is not worth another wait.
        if (
            message["type"] != "http.request"
            or not message.get("more_body", False)
            or self._received >= self._announced
        ):
            self.has_ended = True
            self._in_flight.unfinished.pop(self, None)
        return message
