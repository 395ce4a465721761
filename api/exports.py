"""Answers that are streamed: every row of one statement, so of one snapshot, in constant memory."""

from __future__ import annotations

import asyncio
import csv
import io
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from litestar import Response
from litestar.response.base import ASGIResponse

from api.connections import send_in_time, send_while_read
from api.problem_types import UNAVAILABLE
from api.problems import ProblemError
from api.requests import method_of
from shared.database.engine import DB, translate_connection_errors
from shared.database.rows import Row

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence

    from litestar.types import Receive, Scope, Send

CHUNK = 500
"""Rows in memory at once, for each stream."""

MOST_AT_ONCE = 4
"""Streams of one process. Each has a connection of its own, so none takes one from ordinary requests."""

_places = asyncio.Semaphore(MOST_AT_ONCE)

NDJSON = "application/x-ndjson"
CSV = "text/csv"


@dataclass(frozen=True)
class _Query:
    statement: str
    arguments: Sequence[Any]
    planned_for: float


def harmless(cell: str) -> str:
    """Make a cell one that no spreadsheet runs: with an apostrophe in front it is text (OWASP)."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def csv_lines(lines: Iterable[Iterable[object]]) -> bytes:
    """Write lines of CSV (RFC 4180), with no cell that a spreadsheet would run; None is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    for cells in lines:
        writer.writerow("" if cell is None else harmless(str(cell)) for cell in cells)
    return text.getvalue().encode()


class Export(Response[bytes]):
    """An answer with every row of a statement, as of the moment its chunks were opened."""

    def __init__(
        self, chunks: AsyncGenerator[bytes, None], media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(b"", media_type=media_type, headers=headers)
        self._chunks = chunks

    def to_asgi_response(self, app: Any, request: Any, **given: Any) -> ASGIResponse:  # noqa: ARG002 (as Litestar calls it)
        """Make what sends it."""
        return _Sending(
            self._chunks,
            headers={**self.headers},
            is_head_response=method_of(request) == "HEAD",
            media_type=self.media_type,
        )


class _Sending(ASGIResponse):
    """Sends chunks until the reader goes or is too slow; what they hold is given back in any case.

    Litestar's own stream waits without end for a reader who takes nothing, and then leaves the chunks to
    the garbage collector.
    """

    _should_set_content_length = False

    def __init__(self, chunks: AsyncGenerator[bytes, None], **given: Any) -> None:
        super().__init__(**given)
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks):
            await super().__call__(scope, receive, send)

    async def send_body(self, send: Send, receive: Receive) -> None:
        await send_while_read(receive, self._send_chunks(send))

    async def _send_chunks(self, send: Send) -> None:
        async for chunk in self._chunks:
            await send_in_time(send, chunk)
        await send_in_time(send, b"", more_body=False)


async def stream_rows(
    statement: str,
    arguments: Sequence[Any],
    encode: Callable[[Sequence[Row]], bytes],
    head: bytes = b"",
    tail: Callable[[], bytes] = bytes,
    *,
    planned_for: float = 1,
) -> AsyncGenerator[bytes, None]:
    """Open a stream of every row of a statement, as of the moment this is called.

    ``planned_for`` is the part of the rows that shall come as fast as can be. The first ones are encoded
    before this returns, so ``encode`` may still refuse them.

    Raises:
        ProblemError: 503, as many streams as there may be are under way.
        DatabaseUnavailableError: before the first byte; later the stream is cut off.

    """
    if _places.locked():
        raise ProblemError(
            UNAVAILABLE, f"{MOST_AT_ONCE} streams are under way already.", headers={"Retry-After": "5"}
        )
    await _places.acquire()
    try:
        connection = await DB.connect()
    except BaseException:
        _places.release()
        raise
    stream = _stream(connection, _Query(statement, arguments, planned_for), encode, head, tail)
    # Begun here and not with the first byte: what fails at once is still answered as a problem.
    async with translate_connection_errors():
        first = await anext(stream)
    return _resumed(first, stream)


async def _resumed(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk


async def _stream(
    connection: Any,
    query: _Query,
    encode: Callable[[Sequence[Row]], bytes],
    head: bytes,
    tail: Callable[[], bytes],
) -> AsyncGenerator[bytes, None]:
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(f"SET LOCAL cursor_tuple_fraction = {query.planned_for}")
            await connection.execute(
                f"DECLARE stream NO SCROLL CURSOR FOR {query.statement}", *query.arguments
            )
            fetch = f"FETCH {CHUNK} FROM stream"
            yield head + encode(await connection.fetch(fetch))
            while found := await connection.fetch(fetch):
                yield encode(found)
            yield tail()
    finally:
        _places.release()
        # The caller may have gone in the middle of it: not worth a polite goodbye.
        connection.terminate()
