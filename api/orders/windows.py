"""A page of a window, which is the orders between two datetimes, sorted by id.

No index serves both: one has a window's orders together, another has the orders sorted by id. Either way
alone would read every order of some lists, so each page is found in one of two ways:

- A window of no more orders than the scan limit is read whole and sorted.
- In a larger window the orders are scanned by id, from the previous page on, and those outside of the window
  are left out. The scan ends after as many orders as the scan limit. The last of them is its edge. A page
  that the scan did not fill is followed by one that starts after the edge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from api.orders.filters import Arguments, where
from shared.database.statements import read_row

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from api.orders.filters import OrderFilters


SCAN_LIMIT = 10_000
"""Orders that are read for one page, at most."""

_FETCH_PAGE = """
SELECT o.id, o.datetime, o.rendered AS json
FROM ({page}) AS page JOIN orders AS o ON o.id = page.id
ORDER BY o.id {direction}
"""


class _WindowSize(msgspec.Struct, frozen=True):
    count: int


class _Edge(msgspec.Struct, frozen=True):
    id: int


async def find_in_window(
    fetch: Callable[..., Awaitable[list[Any]]],
    filters: OrderFilters,
    after: int | None,
    limit: int,
    scan_limit: int = SCAN_LIMIT,
) -> tuple[list[Any], int | None]:
    """Find up to ``limit`` orders after an id, and the edge of the scan; None if it reached the list's end.

    The edge is found before the page, by a statement of its own. Whatever is written between the two, the
    scan reads every order up to that edge, so that the next page may start there.
    """
    sql, arguments = _count_window(filters, scan_limit + 1)
    (record,) = await fetch(sql, *arguments)
    if read_row(_WindowSize, record).count <= scan_limit:
        sql, arguments = _sort_window(filters, after, limit)
        return await fetch(sql, *arguments), None
    sql, arguments = _find_edge(filters, after, scan_limit)
    records = await fetch(sql, *arguments)
    edge = read_row(_Edge, records[0]).id if records else None
    sql, arguments = _scan_to_edge(filters, after, edge, limit)
    return await fetch(sql, *arguments), edge


def _count_window(filters: OrderFilters, most: int) -> tuple[str, Arguments]:
    """Count the orders that an index finds in the window, up to a number.

    A calendar's orders count whatever their services are: they are read to find out.
    """
    arguments = Arguments()
    table = filters.table
    in_window = where(*filters.scope(arguments), *filters.window(arguments))
    window = f"SELECT FROM {table.name} AS {table.alias} {in_window} LIMIT {arguments.add(most)}"
    return f"SELECT count(*) AS count FROM ({window}) AS window_rows", arguments


def _find_edge(filters: OrderFilters, after: int | None, scan_limit: int) -> tuple[str, Arguments]:
    """Find the id of the last order of a scan that starts after an id; no row if the list ends before."""
    arguments = Arguments()
    table = filters.table
    scanned = where(*filters.scope(arguments), *filters.after(_place(after), arguments))
    scan = f"SELECT {table.id} AS id FROM {table.name} AS {table.alias} {scanned} {filters.order_by}"
    return f"{scan} OFFSET {arguments.add(scan_limit - 1)} LIMIT 1", arguments


# Both statements below need OFFSET 0. PostgreSQL plans a subquery that has an OFFSET by itself: it neither
# merges it with the query around it nor moves that query's conditions into it. So the subquery decides which
# index is read. Without it, PostgreSQL may choose the other index, and read every order.
#
# Each subquery is named like the table that it reads, so that the conditions inside and outside are the same.


def _sort_window(filters: OrderFilters, after: int | None, limit: int) -> tuple[str, Arguments]:
    """Read the whole window by the index on datetimes, then sort what comes after an id."""
    arguments = Arguments()
    table = filters.table
    in_window = where(*filters.scope(arguments), *filters.window(arguments), *filters.unindexed(arguments))
    window = f"SELECT {table.id} FROM {table.name} AS {table.alias} {in_window} OFFSET 0"
    after_place = where(*filters.after(_place(after), arguments))
    page = (
        f"SELECT {table.id} AS id FROM ({window}) AS {table.alias} {after_place} {filters.order_by} "
        f"LIMIT {arguments.add(limit)}"
    )
    return _fetch_page(filters, page), arguments


def _scan_to_edge(
    filters: OrderFilters, after: int | None, edge: int | None, limit: int
) -> tuple[str, Arguments]:
    """Read the orders from an id to the edge by the index on ids; leave out those outside of the window."""
    arguments = Arguments()
    table = filters.table
    to_edge = [f"NOT {condition}" for condition in filters.after(_place(edge), arguments)]
    scanned = where(*filters.scope(arguments), *filters.after(_place(after), arguments), *to_edge)
    in_window = where(*filters.window(arguments), *(unindexed := filters.unindexed(arguments)))
    # Where the index has all columns, PostgreSQL need not read the table.
    columns = f"{table.id}, {table.datetime}" + (", o.service_ids" if unindexed else "")
    scan = f"SELECT {columns} FROM {table.name} AS {table.alias} {scanned} {filters.order_by} OFFSET 0"
    page = (
        f"SELECT {table.id} AS id FROM ({scan}) AS {table.alias} {in_window} {filters.order_by} "
        f"LIMIT {arguments.add(limit)}"
    )
    return _fetch_page(filters, page), arguments


def _fetch_page(filters: OrderFilters, page: str) -> str:
    return _FETCH_PAGE.format(page=page, direction="DESC" if filters.descending else "")


def _place(order_id: int | None) -> list[int] | None:
    return None if order_id is None else [order_id]
