"""Every order that matches, as one stream: NDJSON or CSV, from one snapshot, in constant memory."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from typing import TYPE_CHECKING, Any

from api.problem_types import UNAVAILABLE
from api.problems import ProblemError
from shared.database import DB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from api.orders.queries import OrderFilters

CHUNK = 500
"""Orders in memory at once, for each stream."""

MOST_AT_ONCE = 4
"""Streams of one process. Each has a connection of its own, so none takes one from ordinary requests."""

_places = asyncio.Semaphore(MOST_AT_ONCE)

NDJSON = "application/x-ndjson"
CSV = "text/csv"

CSV_COLUMNS = (
    "id",
    "datetime",
    "totalfee",
    "calendar",
    "service_ids",
    "service_names",
    "version",
    "created_at",
    "updated_at",
)


def ndjson_lines(orders: Sequence[str]) -> bytes:
    """Write orders one per line, as they are shown everywhere else."""
    return "".join(f"{order}\n" for order in orders).encode()


def _harmless(cell: str) -> str:
    # A spreadsheet runs a cell that begins with one of these; an apostrophe makes it text (OWASP).
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def csv_lines(orders: Sequence[str]) -> bytes:
    """Write orders as CSV (RFC 4180), with no cell that a spreadsheet would run."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    for order in orders:
        # Numbers as they are written, so that no fee passes through a float.
        shown: dict[str, Any] = json.loads(order, parse_float=str)
        services = shown.pop("services")
        shown["service_ids"] = " ".join(service["id"] for service in services)
        # Each name, as a reader whose separator is a semicolon sees each as a cell.
        shown["service_names"] = "; ".join(_harmless(service["name"]) for service in services)
        writer.writerow(_harmless(str(shown[column])) for column in CSV_COLUMNS)
    return text.getvalue().encode()


CSV_HEAD = (",".join(CSV_COLUMNS) + "\r\n").encode()


async def stream_orders(
    filters: OrderFilters, encode: Callable[[Sequence[str]], bytes], head: bytes = b""
) -> AsyncIterator[bytes]:
    """Open a stream of every order that matches, as of the moment this is called.

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
    stream = _stream(connection, filters, encode, head)
    # Begun here and not with the first byte: what fails at once is still answered as a problem, and a
    # stream that has begun gives back its place and its connection even if nobody ever reads it.
    return _resumed(await anext(stream), stream)


async def _resumed(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


async def _stream(
    connection: Any, filters: OrderFilters, encode: Callable[[Sequence[str]], bytes], head: bytes
) -> AsyncIterator[bytes]:
    statement, arguments = filters.select(None, None)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            # Declared, and planned for its first thousandth: the plan that is cheapest for all rows sorts
            # them all, rendered, before it gives the first. It neither begins at once, nor ends when the
            # caller goes, nor, with enough orders, stays below the statement timeout.
            await connection.execute("SET LOCAL cursor_tuple_fraction = 0.001")
            await connection.execute(f"DECLARE stream NO SCROLL CURSOR FOR {statement}", *arguments)
            yield head
            while orders := await connection.fetch(f"FETCH {CHUNK} FROM stream"):
                yield encode([order["json"] for order in orders])
    finally:
        _places.release()
        # The caller may have gone in the middle of it: not worth a polite goodbye.
        connection.terminate()
