"""Reading orders. PostgreSQL renders them (``order_json``): the same bytes wherever one is shown."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from api.orders.errors import Conflict, OrderNotFoundError
from api.orders.filters import OrderFilters
from api.orders.spacing import CLEARANCE
from api.orders.windows import find_in_window
from api.pages import Page
from api.times import EARLIEST, LATEST
from shared.database.engine import DB
from shared.database.rows import row, rows

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from shared.database.rows import Row


@dataclass(frozen=True)
class StoredOrder:
    """An order as it is shown: its JSON text, and what else HTTP needs to know of it."""

    id: int
    version: int
    json: str
    replayed: bool = False
    """Whether this is the answer to an earlier request, as it was given then."""

    @classmethod
    def replay(cls, text: str) -> Self:
        """Read an order back from how it was shown."""
        shown = json.loads(text)
        return cls(int(shown["id"]), shown["version"], text, replayed=True)


async def find_order(order_id: int) -> StoredOrder:
    """Find an order.

    Raises:
        OrderNotFoundError: there is none with that id, or none any more.

    """
    found = await row("SELECT id, version, order_json(orders) AS json FROM orders WHERE id = $1", order_id)
    if found is None:
        raise OrderNotFoundError(order_id)
    return StoredOrder(**found)


async def list_orders(filters: OrderFilters, after: Sequence[Any] | None, limit: int) -> Page:
    """List a page of orders behind a place."""
    # Few and many matches want different plans (tests/test_order_query_plans.py).
    found, edge = await find_page(DB.fetch_with_custom_plan, filters, after, limit + 1)
    shown = found[:limit]
    behind: Sequence[object] | None = None
    if len(found) > limit:
        behind = filters.place_of(dict(shown[-1]))
    elif edge is not None:
        behind = [edge]
    return Page([order["json"] for order in shown], behind)


async def find_page(
    fetch: Callable[..., Awaitable[list[Row]]],
    filters: OrderFilters,
    after: Sequence[Any] | None,
    limit: int,
) -> tuple[list[Row], int | None]:
    """Find orders behind a place; and the id up to which was looked, if that was not to the list's end."""
    if filters.keys == ("id",) and (filters.earliest or filters.before):
        return await find_in_window(fetch, filters, after[0] if after else None, limit)
    statement, arguments = filters.select(after, limit)
    return await fetch(statement, *arguments), None


async def conflicts_near(calendar: str, at: datetime, order_id: int | None) -> list[Conflict]:
    """List the orders on a calendar that leave no room for one at that datetime (itself left aside)."""
    found = await rows(
        """
        SELECT id, datetime FROM orders
        WHERE calendar_id = (SELECT id FROM calendar WHERE name = $1)
          AND datetime > $2::timestamptz - $4::interval
          AND datetime < $2::timestamptz + $4::interval
          AND id IS DISTINCT FROM $3
        ORDER BY datetime, id LIMIT 100
        """,
        calendar,
        at,
        order_id,
        CLEARANCE,
    )
    return [Conflict(**order) for order in found]


_FREE_AFTER = """
SELECT datetime AS at FROM (
    SELECT datetime, lead(datetime) OVER (ORDER BY datetime) AS neighbour FROM orders
    WHERE calendar_id = (SELECT id FROM calendar WHERE name = $1)
      AND datetime > $2::timestamptz - $4::interval AND id IS DISTINCT FROM $3
) AS taken
WHERE neighbour IS NULL OR neighbour - datetime >= 2 * $4::interval
ORDER BY datetime LIMIT 1
"""
_FREE_BEFORE = """
SELECT datetime AS at FROM (
    SELECT datetime, lead(datetime) OVER (ORDER BY datetime DESC) AS neighbour FROM orders
    WHERE calendar_id = (SELECT id FROM calendar WHERE name = $1)
      AND datetime < $2::timestamptz + $4::interval AND id IS DISTINCT FROM $3
) AS taken
WHERE neighbour IS NULL OR datetime - neighbour >= 2 * $4::interval
ORDER BY datetime DESC LIMIT 1
"""


async def nearest_free(
    calendar: str, asked: datetime, order_id: int | None
) -> tuple[datetime | None, datetime | None]:
    """Find the nearest free datetimes before and after one that is not free (the order itself left aside).

    What is free next to a taken datetime begins exactly three hours from it, where the next order on that
    side is six hours away or more; within 1970 … 2199, as orders must be.
    """
    after = await row(_FREE_AFTER, calendar, asked, order_id, CLEARANCE)
    before = await row(_FREE_BEFORE, calendar, asked, order_id, CLEARANCE)
    earliest_after = after["at"] + CLEARANCE if after else asked
    latest_before = before["at"] - CLEARANCE if before else asked
    return (
        latest_before if latest_before >= EARLIEST else None,
        earliest_after if earliest_after <= LATEST else None,
    )
