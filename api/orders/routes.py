"""The HTTP routes of orders: read strictly, run one command or query, answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Response, post, route

from api.http.attribution import read_attribution
from api.http.bodies import read_body
from api.http.entity_tags import etag, read_if_none_match
from api.http.idempotency import answer_write, read_idempotency_key
from api.http.json_text import encode, read_json
from api.http.media_types import JSON
from api.http.parameters import Query, path_id, query_of
from api.http.problems import Fault, invalid
from api.http.read_after import READ_AFTER, read_after, require_known_version
from api.http.request import READ, AnyRequest, note_calendars
from api.http.responses import BytesResponse
from api.http.scopes import ORDERS_READ
from api.orders import commands, queries
from api.orders.answers import WRITE, is_dry_run_of, read_after_batch
from api.orders.bodies import LARGEST_BATCH_BYTES, LARGEST_ORDER_BYTES, NewOrder, NewOrders
from api.orders.fields import read_calendar
from api.orders.lists import routes as list_routes
from api.orders.members import SET_WHEN_STORED
from shared.database.transaction import roll_back_if

if TYPE_CHECKING:
    from collections.abc import Mapping


class _Identity(msgspec.Struct):
    """What an answer's headers say about the order in its body."""

    id: str
    version: int


def _preview(order: dict[str, Any], new: NewOrder) -> dict[str, Any]:
    """Return the members that a new order would have; its id only if that is certain."""
    shown = {name: value for name, value in order.items() if name not in SET_WHEN_STORED}
    return {**shown, "id": None if new.id is None else shown["id"]}


CREATE = {**WRITE, "query": Query({**WRITE["query"].readers, "calendar": read_calendar})}
"""The options of a route that creates orders. A proxy that divides calendars reads the parameter."""


def _check_calendar(request: AnyRequest, calendars: Mapping[str, str]) -> None:
    """Check that the query, if it names a calendar, names that of the body, given by pointers."""
    named = query_of(request).get("calendar")
    faults = [
        Fault(f"must be {named}, as the parameter calendar says", pointer=pointer)
        for pointer, calendar in calendars.items()
        if named not in (None, calendar)
    ]
    if faults:
        raise invalid(*faults)


@post("/orders", request_max_body_size=LARGEST_ORDER_BYTES, opt=CREATE)
async def create_order(request: AnyRequest) -> Response[bytes]:
    """Store an order, its calendar's spacing or more from every other one there."""
    new = await read_body(request, NewOrder)
    _check_calendar(request, {"#/calendar": new.calendar})
    note_calendars(request, new.calendar)
    key = read_idempotency_key(request, "createOrder", new)
    attribution = read_attribution(request)
    if is_dry_run_of(request):
        with roll_back_if(is_dry_run=True):
            answer = await commands.create_order(new, attribution)
        return BytesResponse(encode(_preview(read_json(answer.text.encode()), new)), status_code=200)
    answer = await commands.create_order(new, attribution, key)
    order = msgspec.json.decode(answer.text, type=_Identity)
    return answer_write(
        answer,
        {
            "Location": f"/orders/{order.id}",
            "ETag": etag(order.version, answer.format),
            **read_after(order.id, order.version),
        },
    )


@post("/orders/batch", request_max_body_size=LARGEST_BATCH_BYTES, opt=CREATE)
async def create_orders(request: AnyRequest) -> Response[bytes]:
    """Store all orders of a batch, or none."""
    batch = await read_body(request, NewOrders)
    _check_calendar(request, {f"#/orders/{i}/calendar": new.calendar for i, new in enumerate(batch.orders)})
    note_calendars(request, *(order.calendar for order in batch.orders))
    key = read_idempotency_key(request, "createOrders", batch)
    attribution = read_attribution(request)
    if is_dry_run_of(request):
        with roll_back_if(is_dry_run=True):
            answer = await commands.create_orders(batch.orders, attribution)
        orders = read_json(answer.text.encode(), math.inf)["orders"]
        previews = [_preview(order, new) for order, new in zip(orders, batch.orders, strict=True)]
        return BytesResponse(encode({"orders": previews}), status_code=200)
    answer = await commands.create_orders(batch.orders, attribution, key)
    return answer_write(answer, read_after_batch(answer))


@route(
    "/orders/{order_id:str}",
    http_method=READ,
    opt={"scope": ORDERS_READ, "standby": "parameters", "query": Query(READ_AFTER)},
)
async def read_order(request: AnyRequest) -> Response[bytes]:
    """Show an order."""
    order_id = path_id(request, "order_id")
    if_none_match = read_if_none_match(request)
    await require_known_version(order_id, if_none_match)
    order = await queries.find_order(order_id)
    if if_none_match is not None and if_none_match.weakly_match(order.tag):
        return BytesResponse(b"", status_code=304, headers={"ETag": order.tag})
    return BytesResponse(order.json.encode(), status_code=200, media_type=JSON, headers={"ETag": order.tag})


ROUTES = [
    create_order,
    create_orders,
    *list_routes.ROUTES,
    read_order,
]
