"""Answers that are streamed: every row of one statement, so of one snapshot, in constant memory.

A client may take its time to read one. When its key is revoked meanwhile, the connection is closed.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from litestar import Response
from litestar.response.base import ASGIResponse

from api.http.access import is_revoked
from api.http.connections import send_chunk, send_until_disconnect
from api.http.errors import TooManyStreamsError
from api.http.request import method_of
from shared.database.database_wait import WaitingForDatabase
from shared.database.engine import DB, translate_connection_errors
from shared.database.read_places import READ_PLACE, StandbyFailedError, leave_standby

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from litestar.types import Receive, Scope, Send

    from shared.database.read_places import ReadPlace

CHUNK = 500
"""Rows in memory at once, for each stream."""

MAX_STREAMS = 4
"""Streams of one process. Each has a connection of its own, so none takes one from ordinary requests."""

_slots = asyncio.Semaphore(MAX_STREAMS)


class RevokedError(Exception):
    """The key of a client that still reads was revoked. The error makes the server close the connection."""


@dataclass(frozen=True)
class _Query:
    statement: str
    arguments: Sequence[Any]
    cursor_tuple_fraction: float


def attachment(name: str) -> dict[str, str]:
    """Return the header with which browsers save an answer in a file of this name (RFC 6266)."""
    return {"Content-Disposition": f'attachment; filename="{name}"'}


class RowStream(Response[bytes]):
    """An answer with every row of a statement, as of the moment its chunks were opened."""

    def __init__(
        self, chunks: AsyncGenerator[bytes, None], media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(b"", media_type=media_type, headers=headers)
        self._chunks = chunks

    def to_asgi_response(self, app: Any, request: Any, **options: Any) -> ASGIResponse:  # noqa: ARG002 (as Litestar calls it)
        """Return the ASGI response that sends the chunks."""
        return _ChunkResponse(
            self._chunks,
            headers={**self.headers, "Content-Type": self._content_type()},
            is_head_response=method_of(request) == "HEAD",
            media_type=self.media_type,
        )

    def _content_type(self) -> str:
        # Litestar leaves it out of the answer to HEAD.
        media_type = str(self.media_type)
        return f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type


class _ChunkResponse(ASGIResponse):
    """Sends chunks until the client disconnects or is too slow, and always closes their generator.

    Litestar's own stream waits without a limit for a client that reads nothing, and then leaves the
    generator to the garbage collector.
    """

    _should_set_content_length = False

    def __init__(self, chunks: AsyncGenerator[bytes, None], **options: Any) -> None:
        super().__init__(**options)
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks):
            self._caller = scope["caller"]  # type: ignore[typeddict-item]  # of ``check_access``
            await super().__call__(scope, receive, send)

    async def send_body(self, send: Send, receive: Receive) -> None:
        await send_until_disconnect(receive, self._send_chunks(send))

    async def _send_chunks(self, send: Send) -> None:
        async for chunk in self._chunks:
            if await is_revoked(self._caller):
                raise RevokedError
            await send_chunk(send, chunk)
        await send_chunk(send, b"", more_body=False)


async def stream_rows(
    statement: str,
    arguments: Sequence[Any],
    encode: Callable[[Sequence[Any]], bytes],
    head: bytes = b"",
    tail: Callable[[], bytes] = bytes,
    *,
    cursor_tuple_fraction: float = 1,
) -> AsyncGenerator[bytes, None]:
    """Open a stream of every row of a statement, as of the moment this is called.

    Args:
        statement: a SELECT.
        arguments: its arguments.
        encode: writes some rows. Called for the first ones before this returns, it may still raise errors.
        head: comes before the rows.
        tail: makes what comes after them.
        cursor_tuple_fraction: PostgreSQL's setting: the fraction of the rows that it plans for, 0 to 1.

    Raises:
        TooManyStreamsError: as many streams as allowed are open.
        DatabaseUnavailableError: before the first byte; after it, the connection is closed.

    """
    if _slots.locked():
        raise TooManyStreamsError(MAX_STREAMS, "exports")
    query = _Query(statement, arguments, cursor_tuple_fraction)
    place = READ_PLACE.get()
    if place is not None:
        try:
            return await _open(query, encode, head, tail, place=place)
        except StandbyFailedError as failure:
            leave_standby(failure.reason)
    async with translate_connection_errors():
        return await _open(query, encode, head, tail, place=None)


async def _open(
    query: _Query,
    encode: Callable[[Sequence[Any]], bytes],
    head: bytes,
    tail: Callable[[], bytes],
    *,
    place: ReadPlace | None,
) -> AsyncGenerator[bytes, None]:
    await _slots.acquire()
    try:
        connection = await (DB.connect(serving=True) if place is None else place.connect())
    except BaseException:
        _slots.release()
        raise
    stream = _stream(connection, query, encode, head, tail, place=place)
    # The first chunk is read here, so that an error at once is still answered as a problem.
    async with nullcontext() if place is None else place.until_over():
        first = await anext(stream)
    return _with_first(first, stream)


async def _with_first(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk


async def _fetch(connection: Any, statement: str, place: ReadPlace | None) -> Sequence[Any]:
    with WaitingForDatabase():
        # A standby that stops answering in the middle ends the stream: the rest would be of another snapshot.
        async with nullcontext() if place is None else place.until_over():
            rows: Sequence[Any] = await connection.fetch(statement)
    return rows


async def _stream(
    connection: Any,
    query: _Query,
    encode: Callable[[Sequence[Any]], bytes],
    head: bytes,
    tail: Callable[[], bytes],
    *,
    place: ReadPlace | None,
) -> AsyncGenerator[bytes, None]:
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(f"SET LOCAL cursor_tuple_fraction = {query.cursor_tuple_fraction}")
            if place is None:  # no retry: it waits for a lock here
                await connection.execute("SET LOCAL lock_timeout = 0")
            await connection.execute(
                f"DECLARE stream NO SCROLL CURSOR FOR {query.statement}", *query.arguments
            )
            fetch = f"FETCH {CHUNK} FROM stream"
            yield head + encode(await _fetch(connection, fetch, place))
            while rows := await _fetch(connection, fetch, place):
                yield encode(rows)
            yield tail()
    finally:
        _slots.release()
        # The client may have disconnected mid-stream; ending the session cleans up.
        connection.terminate()
