"""Every order that matches, as one stream: NDJSON or CSV."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from api.http.csv_text import csv_lines, names_cell, object_cell
from api.http.json_text import encode_text
from api.http.media_types import CSV, NDJSON
from api.http.row_streams import RowStream, attachment, stream_rows
from api.orders.lists.counts import with_calendar_ids
from api.orders.lists.index_choice import choose_index
from api.orders.lists.pages import complete
from api.orders.lists.scans import select_all
from api.orders.members import READ_ONLY, STORED_AS_SENT
from shared.database.engine import DB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.orders.lists.filters import OrderFilters

_FIRST_COLUMNS = (
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
# Newer members come last, so that the columns of existing readers stay in their places.
CSV_COLUMNS = (
    *_FIRST_COLUMNS,
    *(name for name in (*STORED_AS_SENT, *READ_ONLY) if name not in _FIRST_COLUMNS),
)
CSV_HEAD = csv_lines([CSV_COLUMNS])


def ndjson_of_orders(orders: Sequence[Any]) -> bytes:
    """Write orders one per line, with the same bytes as everywhere else."""
    return "".join(f"{order['json']}\n" for order in orders).encode()


def csv_of_orders(orders: Sequence[Any]) -> bytes:
    """Write orders as lines of CSV."""
    return csv_lines(_cells(order["json"]) for order in orders)


def _cells(order: str) -> list[object]:
    # Decimals, so that no fee passes through a float.
    shown: dict[str, Any] = json.loads(order, parse_float=Decimal)
    services = shown.pop("services")
    shown["service_ids"] = encode_text([service["id"] for service in services])
    shown["service_names"] = names_cell(service["name"] for service in services)
    shown["metadata"] = object_cell(shown["metadata"])
    return [shown[column] for column in CSV_COLUMNS]


async def export_orders(filters: OrderFilters, media_type: str, bom: bytes) -> RowStream:
    """Open a stream of every order that matches, as of the moment this is called: NDJSON or CSV.

    Args:
        filters: which orders, and in which order.
        media_type: NDJSON or CSV.
        bom: what a file in CSV begins with: a byte order mark, or nothing.

    Raises:
        TooManyStreamsError: as many streams as allowed are open.
        DatabaseUnavailableError: before the first byte; later the stream is cut off.

    """
    filters = await with_calendar_ids(await complete(filters))
    reading = await choose_index(DB.fetch_with_custom_plan, filters)
    statement, arguments = select_all(reading)
    # Planned for the first thousandth of the rows. The plan that is cheapest for all rows renders and sorts
    # all orders before it returns the first: 5 s for 200,000 orders. It would not start at once, not end
    # when the client disconnects, and not stay below the statement timeout.
    encode, head, file_name = {
        NDJSON: (ndjson_of_orders, b"", "orders.ndjson"),
        CSV: (csv_of_orders, bom + CSV_HEAD, "orders.csv"),
    }[media_type]
    chunks = await stream_rows(statement, arguments, encode, head, cursor_tuple_fraction=0.001)
    return RowStream(chunks, media_type, attachment(file_name))
