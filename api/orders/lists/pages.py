"""Lists of orders, page by page."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from api.http.pages import Page
from api.orders.lists.counts import Count, CountKind, count_orders
from api.orders.lists.filters import ListedOrder, OrderFilters
from api.orders.lists.horizon import find_horizon
from api.orders.lists.index_choice import SCAN_LIMIT, Reading, choose_index
from api.orders.lists.scans import select_page
from shared.database.engine import DB
from shared.database.statements import read_rows

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_json_of = attrgetter("json")


class FoundPage(NamedTuple):
    """Orders of a list, and how they were read."""

    orders: list[ListedOrder]
    edge: ListedOrder | None
    """The place up to which the list was searched; None: to its end, or until enough orders were found."""
    reading: Reading


async def list_orders(
    filters: OrderFilters, after: Sequence[Any] | None, limit: int, kind: CountKind | None
) -> tuple[Page, Count | None]:
    """List a page of orders after a place; and say how many the whole list has, if that is asked for."""
    found = await find_page(await complete(filters), after, limit + 1)
    page = Page.of(found.orders, limit, _json_of, filters.place_of)
    if page.next_after is None and found.edge is not None:
        page = Page(page.items, filters.place_of(found.edge))
    return page, None if kind is None else await count_orders(found.reading.source, kind)


async def complete(filters: OrderFilters) -> OrderFilters:
    """End a list that is sorted by ``updated_at`` where it is complete.

    Not one that is sorted the other way: it is there to see what is newest. An order that changes while one
    pages through it has passed one's place, and no horizon could bring it back.
    """
    return replace(filters, updated_before=await find_horizon()) if filters.sort == "updated_at" else filters


async def find_page(
    filters: OrderFilters,
    after: Sequence[Any] | None,
    limit: int,
    fetch: Callable[..., Awaitable[list[Any]]] | None = None,
    scan_limit: int = SCAN_LIMIT,
) -> FoundPage:
    """Find up to ``limit`` orders after a place.

    Args:
        filters: which orders, in which order.
        after: the place; None: before all.
        limit: the most orders to return.
        fetch: runs the statements, if not the pool.
        scan_limit: the most orders to read.

    """
    while True:
        # Few and many matches want different plans (tests/test_order_query_plans.py).
        reading = await choose_index(fetch or DB.fetch_with_custom_plan, filters, scan_limit)
        statement, arguments = select_page(reading, after, limit, scan_limit)
        run = fetch or (DB.fetch if reading.has_one_plan else DB.fetch_with_custom_plan)
        records = await run(statement, *arguments)
        if not records or any(value is not None for value in records[-1].values()):
            break
        # More were stored since they were counted: they are counted again.
    rows = read_rows(ListedOrder, records)
    edge = rows.pop() if rows and rows[-1].json is None else None
    return FoundPage(rows, edge, reading)
