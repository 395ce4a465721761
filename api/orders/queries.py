"""Reading orders. PostgreSQL renders them (``order_json``): the same bytes wherever one is shown."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from api.http.pages import Page
from api.http.times import EARLIEST, LATEST
from api.orders.errors import Conflict, OrderNotFoundError, OrdersTooCloseError
from api.orders.filters import ListedOrder, OrderFilters
from api.orders.spacing import CLEARANCE
from api.orders.windows import find_in_window
from shared.database.coalesced_reads import CoalescedReads
from shared.database.engine import DB
from shared.database.statements import fetch_all, fetch_values, read_rows

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_BY_IDS = "SELECT id, version, order_json(orders) AS json FROM orders WHERE id = ANY($1)"

_CONFLICTS = """
SELECT id, datetime FROM orders
WHERE calendar_id = (SELECT id FROM calendar WHERE name = $1)
  AND datetime > $2::timestamptz - $4::interval
  AND datetime < $2::timestamptz + $4::interval
  AND id IS DISTINCT FROM $3 AND import_id IS DISTINCT FROM $5
ORDER BY datetime, id LIMIT 100
"""

_TAKEN_BEFORE_FREE = """
SELECT datetime AS at FROM (
    SELECT datetime, lead(datetime) OVER (ORDER BY datetime) AS neighbour FROM orders
    WHERE calendar_id = (SELECT id FROM calendar WHERE name = $1)
      AND datetime > $2::timestamptz - $4::interval AND id IS DISTINCT FROM $3
) AS taken
WHERE neighbour IS NULL OR neighbour - datetime >= 2 * $4::interval
ORDER BY datetime LIMIT 1
"""

_TAKEN_AFTER_FREE = """
SELECT datetime AS at FROM (
    SELECT datetime, lead(datetime) OVER (ORDER BY datetime DESC) AS neighbour FROM orders
    WHERE calendar_id = (SELECT id FROM calendar WHERE name = $1)
      AND datetime < $2::timestamptz + $4::interval AND id IS DISTINCT FROM $3
) AS taken
WHERE neighbour IS NULL OR datetime - neighbour >= 2 * $4::interval
ORDER BY datetime DESC LIMIT 1
"""


class StoredOrder(msgspec.Struct, frozen=True):
    """An order as callers see it, with its id and version."""

    id: int
    version: int
    json: str


async def _find_orders(order_ids: list[int]) -> dict[int, StoredOrder]:
    return {order.id: order for order in await fetch_all(StoredOrder, _BY_IDS, order_ids)}


_orders = CoalescedReads(_find_orders)


async def find_order(order_id: int) -> StoredOrder:
    """Find an order.

    Raises:
        OrderNotFoundError: there is none with that id, or no longer.

    """
    order = await _orders.read(order_id)
    if order is None:
        raise OrderNotFoundError(order_id)
    return order


async def list_orders(filters: OrderFilters, after: Sequence[Any] | None, limit: int) -> Page:
    """List a page of orders after a place."""
    # Few and many matches want different plans (tests/test_order_query_plans.py).
    orders, edge = await find_page(DB.fetch_with_custom_plan, filters, after, limit + 1)
    page = Page.of(orders, limit, lambda order: order.json, filters.place_of)
    if page.next_after is None and edge is not None:
        return Page(page.items, [edge])
    return page


async def find_page(
    fetch: Callable[..., Awaitable[list[Any]]],
    filters: OrderFilters,
    after: Sequence[Any] | None,
    limit: int,
) -> tuple[list[ListedOrder], int | None]:
    """Find orders after a place; and the id up to which the list was searched, if not to its end."""
    if filters.keys == ("id",) and (filters.earliest or filters.before):
        rows, edge = await find_in_window(fetch, filters, after[0] if after else None, limit)
    else:
        statement, arguments = filters.select(after, limit)
        rows, edge = await fetch(statement, *arguments), None
    return read_rows(ListedOrder, rows), edge


async def _conflicts_near(
    calendar: str, at: datetime, order_id: int | None, import_id: int | None
) -> list[Conflict]:
    """List the orders on a calendar that are too close to a datetime.

    Apart from the order itself, and from those of the import that it is, or will be, one of.
    """
    return await fetch_all(Conflict, _CONFLICTS, calendar, at, order_id, CLEARANCE, import_id)


async def _nearest_free(
    calendar: str, requested: datetime, order_id: int | None
) -> tuple[datetime | None, datetime | None]:
    """Find the nearest free datetimes before and after one that is taken, apart from the order itself.

    The free time next to an order begins exactly three hours from it, if the next order on that side is six
    hours away or more. Both are within 1970 … 2199, as orders must be; None where there is no such datetime.
    """
    search = (calendar, requested, order_id, CLEARANCE)
    taken_before = await fetch_values(datetime, _TAKEN_BEFORE_FREE, *search)
    taken_after = await fetch_values(datetime, _TAKEN_AFTER_FREE, *search)
    after = taken_before[0] + CLEARANCE if taken_before else requested
    before = taken_after[0] - CLEARANCE if taken_after else requested
    return (before if before >= EARLIEST else None, after if after <= LATEST else None)


async def refuse_if_too_close(
    calendar: str, at: datetime, order_id: int | None = None, import_id: int | None = None
) -> None:
    """Check that an order may be at a datetime on a calendar, apart from itself and its import.

    Raises:
        OrdersTooCloseError: it may not; with the orders in its way and the nearest free datetimes.

    """
    conflicts = await _conflicts_near(calendar, at, order_id, import_id)
    if conflicts:
        before, after = await _nearest_free(calendar, at, order_id)
        raise OrdersTooCloseError(calendar, at, conflicts, before, after)
