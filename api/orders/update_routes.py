"""The HTTP routes that change, cancel, reinstate and delete orders: one, or many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar import Response, delete, patch, post, put

from api.http.attribution import read_attribution
from api.http.bodies import MERGE_PATCH, check_own_id, read_body, read_optional_body
from api.http.entity_tags import read_preconditions, require_versions
from api.http.idempotency import answer_write, read_idempotency_key
from api.http.parameters import path_id
from api.http.read_after import read_after
from api.http.request import AnyRequest, note_calendars
from api.orders import batch_updates, updates
from api.orders.answers import WRITE, answer_order, is_dry_run_of, read_after_batch
from api.orders.bodies import LARGEST_BATCH_BYTES, LARGEST_ORDER_BYTES, OrderPatch, OrderReplacement
from api.orders.current_orders import StatusChange
from api.orders.fields import BOOKED, CANCELLED
from api.orders.write_bodies import OrderPatches, OrdersOfBatch, StatusReason
from shared.database.transaction import roll_back_if

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from api.http.attribution import Attribution
    from api.http.entity_tags import Preconditions
    from api.http.idempotency_keys import Answer, IdempotencyKey
    from api.orders.current_orders import OrderChange
    from api.orders.write_bodies import OrderOfBatch

    _BatchCommand = Callable[[Sequence[OrderOfBatch], Attribution, IdempotencyKey | None], Awaitable[Answer]]


@put("/orders/{order_id:str}", request_max_body_size=LARGEST_ORDER_BYTES, opt=WRITE)
async def replace_order(request: AnyRequest) -> Response[bytes]:
    """Replace an order that exists."""
    order_id = path_id(request, "order_id")
    preconditions = read_preconditions(request)
    new = await read_body(request, OrderReplacement)
    note_calendars(request, new.calendar)
    check_own_id(new.id, order_id)
    return await _update(request, order_id, new, preconditions)


@patch("/orders/{order_id:str}", request_max_body_size=LARGEST_ORDER_BYTES, opt=WRITE)
async def patch_order(request: AnyRequest) -> Response[bytes]:
    """Change parts of an order (JSON Merge Patch)."""
    order_id = path_id(request, "order_id")
    preconditions = read_preconditions(request)
    change = await read_body(request, OrderPatch, MERGE_PATCH)
    note_calendars(request, *filter(None, [change.calendar]))
    check_own_id(change.id, order_id)
    return await _update(request, order_id, change, preconditions)


@post("/orders/{order_id:str}/cancel", opt=WRITE)
async def cancel_order(request: AnyRequest) -> Response[bytes]:
    """Cancel an order: it is kept, and its place is free."""
    return await _change_status(request, CANCELLED)


@post("/orders/{order_id:str}/reinstate", opt=WRITE)
async def reinstate_order(request: AnyRequest) -> Response[bytes]:
    """Give a cancelled order its place again."""
    return await _change_status(request, BOOKED)


async def _change_status(request: AnyRequest, status: str) -> Response[bytes]:
    order_id = path_id(request, "order_id")
    preconditions = read_preconditions(request)
    body = await read_optional_body(request, StatusReason)
    return await _update(request, order_id, StatusChange(status), preconditions, body.reason)


async def _update(
    request: AnyRequest,
    order_id: int,
    change: OrderChange,
    preconditions: Preconditions,
    reason: str | None = None,
) -> Response[bytes]:
    attribution = read_attribution(request, reason)
    is_dry_run = is_dry_run_of(request)
    with roll_back_if(is_dry_run=is_dry_run):
        order = await updates.update_order(order_id, change, attribution, preconditions)
    return answer_order(order, is_dry_run=is_dry_run)


@delete("/orders/{order_id:str}", status_code=204, opt=WRITE)
async def delete_order(request: AnyRequest) -> Response[None]:
    """Delete an order."""
    order_id = path_id(request, "order_id")
    preconditions = read_preconditions(request)
    is_dry_run = is_dry_run_of(request)
    with roll_back_if(is_dry_run=is_dry_run):
        version = await updates.delete_order(order_id, read_attribution(request), preconditions)
    return Response(None, status_code=204, headers={} if is_dry_run else read_after(order_id, version))


@patch("/orders/batch", request_max_body_size=LARGEST_BATCH_BYTES, opt=WRITE)
async def patch_orders(request: AnyRequest) -> Response[bytes]:
    """Change parts of many orders, all or none; they may swap places."""
    batch = await read_body(request, OrderPatches)
    note_calendars(request, *filter(None, (order.calendar for order in batch.orders)))
    require_versions(order.version for order in batch.orders)
    is_dry_run = is_dry_run_of(request)
    with roll_back_if(is_dry_run=is_dry_run):
        answer = await batch_updates.update_orders(batch.orders, read_attribution(request))
    return answer_write(answer, {} if is_dry_run else read_after_batch(answer), 200)


@post("/orders/batch/cancel", request_max_body_size=LARGEST_BATCH_BYTES, opt=WRITE)
async def cancel_orders(request: AnyRequest) -> Response[bytes]:
    """Cancel many orders, all or none."""
    return await _run(batch_updates.cancel_orders, request, "cancelOrders")


@post("/orders/batch/delete", request_max_body_size=LARGEST_BATCH_BYTES, opt=WRITE)
async def delete_orders(request: AnyRequest) -> Response[bytes]:
    """Delete many orders, all or none."""
    return await _run(batch_updates.delete_orders, request, "deleteOrders")


async def _run(command: _BatchCommand, request: AnyRequest, operation: str) -> Response[bytes]:
    batch = await read_body(request, OrdersOfBatch)
    require_versions(order.version for order in batch.orders)
    key = read_idempotency_key(request, operation, batch)
    attribution = read_attribution(request, batch.reason)
    is_dry_run = is_dry_run_of(request)
    with roll_back_if(is_dry_run=is_dry_run):
        answer = await command(batch.orders, attribution, None if is_dry_run else key)
    is_deletion = operation == "deleteOrders"
    return answer_write(answer, {} if is_dry_run else read_after_batch(answer, is_deletion=is_deletion), 200)


ROUTES = [
    replace_order,
    patch_order,
    cancel_order,
    reinstate_order,
    delete_order,
    patch_orders,
    cancel_orders,
    delete_orders,
]
