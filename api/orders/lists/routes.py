"""The HTTP routes of lists of orders: by page, and as one file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Response, route

from api.http.fields import one_of, read_id
from api.http.media_types import CSV, NDJSON, choose, media_type_of
from api.http.pages import answer_page, limit_of, read_cursor
from api.http.parameters import PAGING, Query, Readers, query_of, read_bom, require
from api.http.pictures import OFFERED, TIMELINE, VARY, answer_picture, wants_timeline, zone_of
from api.http.problems import Fault, malformed
from api.http.read_after import READ_AFTER
from api.http.request import READ, AnyRequest
from api.http.scopes import ORDERS_READ
from api.http.times import read_time
from api.orders.fields import (
    read_calendar,
    read_metadata_key,
    read_metadata_value,
    read_reference,
    read_status,
)
from api.orders.lists import exports, pages, timelines
from api.orders.lists.filters import SORTS, OrderFilters

if TYPE_CHECKING:
    from collections.abc import Mapping

_FORMATS = {"csv": CSV, "ndjson": NDJSON}

MAX_IDS = 100


def _read_metadata(key: str, value: str) -> str:
    try:
        read_metadata_key(key)
    except ValueError as error:
        raise ValueError(f"its key {error}") from None
    return read_metadata_value(value)


def _query(more: Readers) -> Query:
    readers: Readers = {
        "from": read_time,
        "to": read_time,
        "calendar": read_calendar,
        "service": read_id,
        "id": read_id,
        "reference": read_reference,
        "status": read_status,
        "created_after": read_time,
        "updated_after": read_time,
        "sort": one_of(*(direction + sort for sort in SORTS for direction in ("", "-"))),
    }
    return Query(
        {**readers, **READ_AFTER, **more},
        repeatable=("calendar", "service", "id"),
        most={"id": MAX_IDS},
        keyed={"metadata": _read_metadata},
    )


def _filters_of(query: Mapping[str, Any]) -> OrderFilters:
    filters = OrderFilters(
        earliest=query.get("from"),
        before=query.get("to"),
        calendars=query.get("calendar", ()),
        services=query.get("service", ()),
        ids=query.get("id", ()),
        reference=query.get("reference"),
        metadata=query.get("metadata", {}),
        status=query.get("status"),
        created_after=query.get("created_after"),
        updated_after=query.get("updated_after"),
        sort=query.get("sort", "datetime"),
    )
    if filters.earliest and filters.before and filters.earliest > filters.before:
        raise malformed(Fault("must not be later than to", parameter="from"))
    return filters


@route(
    "/orders",
    http_method=READ,
    opt={
        "scope": ORDERS_READ,
        "standby": "parameters",
        "produces": OFFERED,
        "query": _query({**PAGING, **TIMELINE, "count": one_of("exact", "estimated")}),
        "elsewhere": f"GET /orders/export answers with {CSV} or {NDJSON}.",
    },
)
async def list_orders(request: AnyRequest) -> Response[bytes]:
    """List orders page by page; or draw those of a window, all of them."""
    query = query_of(request)
    if wants_timeline(request):
        require(query, "from", "to")
        begin, end = query["from"], query["to"]
        filters = _filters_of(query)
        timelines.check_length(begin, end)
        return answer_picture(await timelines.draw_orders(filters, begin, end, zone_of(request)))
    filters = _filters_of(query)
    after = read_cursor(request, filters.place)
    page, count = await pages.list_orders(filters, after, limit_of(request), query.get("count"))
    return answer_page(request, page, headers={**VARY, **(count.headers if count else {})})


@route(
    "/orders/export",
    http_method=READ,
    opt={
        "scope": ORDERS_READ,
        "standby": "parameters",
        "produces": tuple(_FORMATS.values()),
        "query": _query({"format": one_of(*_FORMATS), "bom": read_bom}),
    },
)
async def export_orders(request: AnyRequest) -> Response[Any]:
    """Stream all orders that match: in the format that is asked for, or that ``Accept`` rates highest."""
    query = query_of(request)
    filters = _filters_of(query)
    media_type = media_type_of(request)
    if "format" in query:
        media_type = choose(request, (_FORMATS[query["format"]],))
    bom = query.get("bom", b"")
    if bom and media_type != CSV:
        raise malformed(Fault(f"has no meaning with {media_type}", parameter="bom"))
    return await exports.export_orders(filters, media_type, bom)


ROUTES = [list_orders, export_orders]
