"""The HTTP routes of orders: decode strictly, run one command or query, answer."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import HttpMethod, Response, delete, patch, post, put, route

from api import fields
from api.exports import CSV, NDJSON
from api.idempotency import read_idempotency_key
from api.negotiation import JSON, accepted
from api.orders import commands, queries
from api.orders.bodies import NewOrder, NewOrders, OrderPatch, OrderReplacement
from api.orders.exports import export_orders
from api.orders.filters import OrderFilters
from api.pages import DEFAULT_LIMIT, answer_page, read_cursor
from api.preconditions import etag, read_if_none_match, read_preconditions
from api.problems import Fault, invalid, malformed
from api.requests import MERGE_PATCH, AnyRequest, path_id, read_body, read_limit, read_query, read_yes_no
from api.times import read_datetime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from api.orders.queries import StoredOrder

_encode = msgspec.json.Encoder(decimal_format="number").encode

LARGEST_BATCH_BYTES = 1_048_576

REPLAYED = {"Idempotency-Replayed": "true"}


def _answer(
    order: StoredOrder, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response[bytes]:
    return Response(
        order.json.encode(),
        status_code=status_code,
        media_type=JSON,
        headers={"ETag": etag(order.version), **(headers or {})},
    )


@post("/orders")
async def create_order(request: AnyRequest) -> Response[bytes]:
    """Store an order, three hours or more from every other on its calendar."""
    query = read_query(request, {"dry_run": read_yes_no})
    new = await read_body(request, NewOrder)
    key = read_idempotency_key(request, "createOrder", new)
    if query.get("dry_run"):
        return _preview(await commands.rehearse_order(new), new)
    stored = await commands.create_order(new, key)
    headers = {"Location": f"/orders/{stored.id}"}
    return _answer(stored, 201, headers | (REPLAYED if stored.replayed else {}))


class OrderPreview(msgspec.Struct):
    """An order as it would be stored: without what only a stored one has."""

    id: str | None
    datetime: str
    totalfee: Decimal
    services: list[dict[str, str]]
    calendar: str


def _preview(order: StoredOrder, new: NewOrder) -> Response[bytes]:
    preview = msgspec.json.decode(order.json, type=OrderPreview)
    preview.id = None if new.id is None else str(new.id)
    return Response(_encode(preview), status_code=200, media_type=JSON)


@post("/orders/batch", request_max_body_size=LARGEST_BATCH_BYTES)
async def create_orders(request: AnyRequest) -> Response[bytes]:
    """Store all orders of a batch, or none."""
    read_query(request, {})
    batch = await read_body(request, NewOrders)
    stored = await commands.create_orders(batch.orders, read_idempotency_key(request, "createOrders", batch))
    return Response(
        f'{{"orders":[{",".join(order.json for order in stored)}]}}'.encode(),
        status_code=201,
        media_type=JSON,
        headers=REPLAYED if any(order.replayed for order in stored) else {},
    )


@route("/orders/{order_id:str}", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def read_order(request: AnyRequest) -> Response[bytes]:
    """Show an order."""
    order_id = path_id(request, "order_id")
    read_query(request, {})
    known = read_if_none_match(request)
    order = await queries.find_order(order_id)
    if known is not None and known.weakly_match(order.version):
        return Response(b"", status_code=304, headers={"ETag": etag(order.version)})
    return _answer(order)


@put("/orders/{order_id:str}")
async def replace_order(request: AnyRequest) -> Response[bytes]:
    """Replace an order that exists."""
    order_id = path_id(request, "order_id")
    read_query(request, {})
    meant = read_preconditions(request)
    new = await read_body(request, OrderReplacement)
    if new.id is not None and new.id != order_id:
        raise invalid(Fault(f"must be {order_id}, as in the path, or be left out", pointer="#/id"))
    return _answer(await commands.replace_order(order_id, new, meant))


@patch("/orders/{order_id:str}")
async def patch_order(request: AnyRequest) -> Response[bytes]:
    """Change a part of an order (JSON Merge Patch)."""
    order_id = path_id(request, "order_id")
    read_query(request, {})
    meant = read_preconditions(request)
    change = await read_body(request, OrderPatch, MERGE_PATCH)
    return _answer(await commands.patch_order(order_id, change, meant))


@delete("/orders/{order_id:str}", status_code=204)
async def delete_order(request: AnyRequest) -> None:
    """Delete an order."""
    order_id = path_id(request, "order_id")
    read_query(request, {})
    await commands.delete_order(order_id, read_preconditions(request))


FILTERS: Mapping[str, Callable[[str], Any]] = {
    "from": read_datetime,
    "to": read_datetime,
    "calendar": fields.read_calendar,
    "service": fields.read_id,
    "sort": fields.one_of("datetime", "-datetime", "id", "-id"),
}
PAGE_PARAMETERS: Mapping[str, Callable[[str], Any]] = {**FILTERS, "limit": read_limit, "cursor": str}


@route(
    "/orders",
    http_method=[HttpMethod.GET, HttpMethod.HEAD],
    opt={"produces": (JSON, NDJSON, CSV)},
)
async def list_orders(request: AnyRequest) -> Response[Any]:
    """List orders page by page, or all that match as one stream."""
    media_type = accepted(request, (JSON, NDJSON, CSV))
    query = read_query(request, PAGE_PARAMETERS if media_type == JSON else FILTERS)
    filters = OrderFilters(
        earliest=query.get("from"),
        before=query.get("to"),
        calendar=query.get("calendar"),
        service=query.get("service"),
        sort=query.get("sort", "datetime"),
    )
    if filters.earliest and filters.before and filters.earliest > filters.before:
        raise malformed(Fault("must not be later than to", parameter="from"))
    if media_type != JSON:
        return await export_orders(filters, media_type)
    after = read_cursor(request, query, filters.place)
    return answer_page(request, await queries.list_orders(filters, after, query.get("limit", DEFAULT_LIMIT)))


ROUTES = [
    create_order,
    create_orders,
    list_orders,
    read_order,
    replace_order,
    patch_order,
    delete_order,
]
