"""The HTTP routes of orders: read strictly, run one command or query, answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from litestar import Response, delete, patch, post, put, route

from api.http.attribution import read_attribution
from api.http.bodies import MERGE_PATCH, check_own_id, read_body
from api.http.entity_tags import etag, read_if_none_match, read_preconditions
from api.http.idempotency import created, read_idempotency_key
from api.http.json_text import encode
from api.http.media_types import JSON
from api.http.parameters import Query, path_id, query_of, read_boolean
from api.http.request import READ, AnyRequest
from api.http.responses import BytesResponse
from api.orders import commands, list_routes, queries, updates
from api.orders.bodies import NewOrder, NewOrders, OrderPatch, OrderReplacement

if TYPE_CHECKING:
    from api.orders.queries import StoredOrder

LARGEST_BATCH_BYTES = 1_048_576


class _Identity(msgspec.Struct):
    """What an answer's headers say about the order in its body."""

    id: str
    version: int


def _answer(order: StoredOrder) -> Response[bytes]:
    return BytesResponse(order.json.encode(), status_code=200, media_type=JSON, headers={"ETag": order.tag})


@post("/orders", opt={"query": Query({"dry_run": read_boolean})})
async def create_order(request: AnyRequest) -> Response[bytes]:
    """Store an order, three hours or more from every other on its calendar."""
    new = await read_body(request, NewOrder)
    key = read_idempotency_key(request, "createOrder", new)
    attribution = read_attribution(request)
    if query_of(request).get("dry_run"):
        return BytesResponse(
            encode(await commands.preview_order(new, attribution)), status_code=200, media_type=JSON
        )
    answer = await commands.create_order(new, attribution, key)
    order = msgspec.json.decode(answer.text, type=_Identity)
    return created(answer, {"Location": f"/orders/{order.id}", "ETag": etag(order.version, answer.format)})


@post("/orders/batch", request_max_body_size=LARGEST_BATCH_BYTES)
async def create_orders(request: AnyRequest) -> Response[bytes]:
    """Store all orders of a batch, or none."""
    batch = await read_body(request, NewOrders)
    key = read_idempotency_key(request, "createOrders", batch)
    return created(await commands.create_orders(batch.orders, read_attribution(request), key), {})


@route("/orders/{order_id:str}", http_method=READ)
async def read_order(request: AnyRequest) -> Response[bytes]:
    """Show an order."""
    order_id = path_id(request, "order_id")
    if_none_match = read_if_none_match(request)
    order = await queries.find_order(order_id)
    if if_none_match is not None and if_none_match.weakly_match(order.tag):
        return BytesResponse(b"", status_code=304, headers={"ETag": order.tag})
    return _answer(order)


@put("/orders/{order_id:str}")
async def replace_order(request: AnyRequest) -> Response[bytes]:
    """Replace an order that exists."""
    order_id = path_id(request, "order_id")
    preconditions = read_preconditions(request)
    new = await read_body(request, OrderReplacement)
    check_own_id(new.id, order_id)
    return _answer(await updates.update_order(order_id, new, preconditions))


@patch("/orders/{order_id:str}")
async def patch_order(request: AnyRequest) -> Response[bytes]:
    """Change parts of an order (JSON Merge Patch)."""
    order_id = path_id(request, "order_id")
    preconditions = read_preconditions(request)
    change = await read_body(request, OrderPatch, MERGE_PATCH)
    check_own_id(change.id, order_id)
    return _answer(await updates.update_order(order_id, change, preconditions))


@delete("/orders/{order_id:str}", status_code=204)
async def delete_order(request: AnyRequest) -> None:
    """Delete an order."""
    order_id = path_id(request, "order_id")
    await updates.delete_order(order_id, read_preconditions(request))


ROUTES = [
    create_order,
    create_orders,
    *list_routes.ROUTES,
    read_order,
    replace_order,
    patch_order,
    delete_order,
]
