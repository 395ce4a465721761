"""The HTTP routes of orders: decode strictly, run one command or query, answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar import HttpMethod, Response, delete, patch, post, put, route

from api import fields
from api.orders import commands, queries
from api.orders.bodies import NewOrder, OrderPatch, OrderReplacement
from api.pages import DEFAULT_LIMIT, answer_page, decode_cursor, filters_of
from api.problems import INVALID_CURSOR, Fault, ProblemError, invalid, malformed
from api.requests import MERGE_PATCH, AnyRequest, path_id, read_body, read_limit, read_query
from api.times import read_datetime

if TYPE_CHECKING:
    from api.orders.queries import StoredOrder


def _answer(order: StoredOrder, status_code: int = 200) -> Response[bytes]:
    headers = {"ETag": f'"{order.version}"'}
    if status_code == 201:  # noqa: PLR2004 (Created)
        headers["Location"] = f"/orders/{order.id}"
    return Response(
        order.json.encode(), status_code=status_code, media_type="application/json", headers=headers
    )


@post("/orders")
async def create_order(request: AnyRequest) -> Response[bytes]:
    """Store an order, three hours or more from every other on its calendar."""
    read_query(request, {})
    new = await read_body(request, NewOrder)
    return _answer(await commands.create_order(new), status_code=201)


@route("/orders/{order_id:str}", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def read_order(request: AnyRequest) -> Response[bytes]:
    """Show an order."""
    order_id = path_id(request, "order_id")
    read_query(request, {})
    return _answer(await queries.find_order(order_id))


@put("/orders/{order_id:str}")
async def replace_order(request: AnyRequest) -> Response[bytes]:
    """Replace an order that exists."""
    order_id = path_id(request, "order_id")
    read_query(request, {})
    new = await read_body(request, OrderReplacement)
    if new.id is not None and new.id != order_id:
        raise invalid(Fault(f"must be {order_id}, as in the path, or be left out", pointer="#/id"))
    return _answer(await commands.replace_order(order_id, new))


@patch("/orders/{order_id:str}")
async def patch_order(request: AnyRequest) -> Response[bytes]:
    """Change a part of an order (JSON Merge Patch)."""
    order_id = path_id(request, "order_id")
    read_query(request, {})
    change = await read_body(request, OrderPatch, MERGE_PATCH)
    return _answer(await commands.patch_order(order_id, change))


@delete("/orders/{order_id:str}", status_code=204)
async def delete_order(request: AnyRequest) -> None:
    """Delete an order."""
    order_id = path_id(request, "order_id")
    read_query(request, {})
    await commands.delete_order(order_id)


def _read_sort(value: str) -> str:
    if value.removeprefix("-") not in queries.SORTS:
        message = "must be datetime, -datetime, id or -id"
        raise ValueError(message)
    return value


@route("/orders", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def list_orders(request: AnyRequest) -> Response[bytes]:
    """List orders, page by page."""
    query = read_query(
        request,
        {
            "from": read_datetime,
            "to": read_datetime,
            "calendar": fields.read_calendar,
            "service": fields.read_id,
            "sort": _read_sort,
            "limit": read_limit,
            "cursor": str,
        },
    )
    filters = queries.OrderFilters(
        earliest=query.get("from"),
        before=query.get("to"),
        calendar=query.get("calendar"),
        service=query.get("service"),
        sort=query.get("sort", "datetime"),
    )
    if filters.earliest and filters.before and filters.earliest > filters.before:
        raise malformed(Fault("must not be later than to", parameter="from"))
    after = None
    if "cursor" in query:
        try:
            after = filters.place(decode_cursor(query["cursor"], filters_of(request.query_params)))
        except ValueError:
            raise ProblemError(INVALID_CURSOR, "The cursor was not made by this service.") from None
    return answer_page(request, await queries.list_orders(filters, after, query.get("limit", DEFAULT_LIMIT)))


ROUTES = [create_order, list_orders, read_order, replace_order, patch_order, delete_order]
