"""A page of a list of orders, which reads a bounded number of orders whatever the filters are.

No index serves all conditions and orders of a list, so each page is read in one of two ways:

- If an index that is not in the list's order finds no more orders than the scan limit, they are read whole,
  and sorted.
- Otherwise the orders are read in the list's order, from the previous page on, and those that do not match
  are left out. The scan ends after as many orders as the scan limit. The last of them is its edge. A page
  that the scan did not fill is followed by one that starts after the edge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from api.orders.lists.filters import Arguments, where
from api.orders.lists.index_choice import SCAN_LIMIT, Reading
from api.orders.lists.index_reads import IndexRead

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHOWN = "o.id, o.updated_at, o.datetime, o.rendered AS json"

# PostgreSQL plans a subquery that has a LIMIT or an OFFSET by itself: it neither merges it with the query
# around it nor moves that query's conditions into it. So the subquery decides which index is read. Without
# it, PostgreSQL may choose the other index, and read every order. For the same reason each order is looked up
# by its id with a LIMIT: any other join may read the whole table first.
_LOOK_UP = "CROSS JOIN LATERAL (SELECT * FROM orders AS o WHERE o.id = {id} LIMIT 1) AS o"

# All of one snapshot: whatever is written meanwhile, the scan reads every order up to the edge.
_TO_EDGE = """
WITH edge AS MATERIALIZED (SELECT {keys} FROM ({edges}) AS edges ORDER BY {order} LIMIT 1),
page AS MATERIALIZED ({page})
SELECT id, updated_at, datetime, json FROM (
    SELECT id, updated_at, datetime, json, false AS is_edge FROM page
    UNION ALL
    SELECT {edge}, NULL::json, true FROM edge WHERE (SELECT count(*) FROM page) < {limit}
) AS page_and_edge
ORDER BY is_edge, {order}
"""

_WHOLE = """
WITH of_index AS MATERIALIZED (SELECT id FROM ({rows}) AS every LIMIT {most} + 1),
page AS MATERIALIZED ({page})
SELECT id, updated_at, datetime, json FROM (
    SELECT id, updated_at, datetime, json, false AS are_more FROM page
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, true WHERE (SELECT count(*) FROM of_index) > {most}
) AS page_or_more
ORDER BY are_more, {order}
"""


def select_page(
    reading: Reading, after: Sequence[Any] | None, limit: int, scan_limit: int = SCAN_LIMIT
) -> tuple[str, Arguments]:
    """Write the statement of up to ``limit`` orders after a place, and its arguments.

    Its last row may be no order of the list. If it has a place, but no ``json``, it is the edge of the scan:
    the place from which the next page continues. If it has nothing, there are too many orders meanwhile to
    read them whole: the index has to be chosen again.
    """
    source = reading.source
    if reading.whole:
        return _select_whole(source, after, limit, scan_limit)
    if source.rest:
        return _select_to_edge(source, after, limit, scan_limit)
    arguments = Arguments()
    most = arguments.add("limit", limit)
    return (
        f"{_show(source, _scan(source, arguments, after, f'LIMIT {most}'), arguments)} LIMIT {most}",
        arguments,
    )


def _scan(
    source: IndexRead, arguments: Arguments, after: Sequence[Any] | None, end: str, *conditions: str
) -> str:
    """Write a SELECT of the sorted rows of all values, in the list's order, each order once."""
    branches = source.sorted_branches(arguments, source.columns, after, end)
    if len(branches) == 1:
        return branches[0]
    filters, columns = source.filters, source.scanned
    keys = ", ".join(columns[key] for key in filters.keys)
    once = f"DISTINCT ON ({keys}) " if source.may_repeat else ""
    rows = " UNION ALL ".join(f"({branch})" for branch in branches)
    return f"SELECT {once}* FROM ({rows}) AS scan {where(*conditions)} {filters.order_by(columns)}"


def _show(source: IndexRead, scan: str, arguments: Arguments) -> str:
    """Write a SELECT of the orders of a scan that match all conditions, in the list's order."""
    filters = source.filters
    matching = where(*(filters.condition(subject, arguments) for subject in source.rest))
    order = filters.order_by(source.scanned, source.prefix_of_one)
    rows = f"({scan}) AS o" if source.has_orders else f"({scan}) AS scan {_LOOK_UP.format(id='scan.id')}"
    return f"SELECT {_SHOWN} FROM {rows} {matching} {order}"


def _select_to_edge(
    source: IndexRead, after: Sequence[Any] | None, limit: int, scan_limit: int
) -> tuple[str, Arguments]:
    """Read orders in the list's order, as many as the scan limit; and the edge, if too few of them match.

    Of several values, each has its part of the limit. Where the first of them reached its part is the edge:
    beyond it, others were read and orders of that value were not.
    """
    arguments = Arguments()
    filters, columns, scanned = source.filters, source.table.columns, source.scanned
    part = max(1, scan_limit // source.values)
    most, last = arguments.add("part", part), arguments.add("last", part - 1)
    keys = ", ".join(f"{columns[key]} AS {key}" for key in filters.keys)
    edges = source.sorted_branches(arguments, keys, after, f"OFFSET {last} LIMIT 1")
    place = f"({', '.join(scanned[key] for key in filters.keys)})"
    to_edge = f"{place} {'>=' if filters.descending else '<='} (SELECT {', '.join(filters.keys)} FROM edge)"
    scan = _scan(source, arguments, after, f"LIMIT {most}", f"coalesce({to_edge}, true)")
    limited = arguments.add("limit", limit)
    edge = {"id": "NULL::bigint", "updated_at": "NULL::timestamptz", "datetime": "NULL::timestamptz"}
    return _TO_EDGE.format(
        keys=", ".join(filters.keys),
        edges=" UNION ALL ".join(f"({one})" for one in edges),
        page=f"{_show(source, scan, arguments)} LIMIT {limited}",
        edge=", ".join((edge | {key: key for key in filters.keys}).values()),
        limit=limited,
        order=_order_of_rows(source),
    ), arguments


def _order_of_rows(source: IndexRead) -> str:
    return source.filters.order_by({key: key for key in source.filters.keys}).removeprefix("ORDER BY ")


def _select_whole(
    source: IndexRead, after: Sequence[Any] | None, limit: int, scan_limit: int
) -> tuple[str, Arguments]:
    """Read all orders that the index finds, then sort those that match and come after a place."""
    arguments = Arguments()
    filters = source.filters
    most = arguments.add("most", max(scan_limit, len(filters.ids)))
    branches = source.counted_branches(arguments, f"{source.table.columns['id']} AS id", f"{most} + 1")
    limited = f"LIMIT {arguments.add('limit', limit)}"
    once = "DISTINCT " if source.may_repeat else ""
    ids = f"SELECT {once}id FROM of_index"
    if not source.rest and filters.keys == ("id",):
        # The index has all that is needed to find the page.
        by_id = {"id": "id"}
        ids = f"{ids} {where(*filters.after(after, arguments, by_id))} {filters.order_by(by_id)} {limited}"
    return _WHOLE.format(
        rows=" UNION ALL ".join(f"({branch})" for branch in branches),
        most=most,
        page=f"{_show_whole(source, ids, after, arguments)} {limited}",
        order=_order_of_rows(source),
    ), arguments


def _show_whole(source: IndexRead, ids: str, after: Sequence[Any] | None, arguments: Arguments) -> str:
    filters = source.filters
    matching = [filters.condition(subject, arguments) for subject in source.rest]
    matching += filters.after(after, arguments)
    look_up = _LOOK_UP.format(id="of_index.id")
    return f"SELECT {_SHOWN} FROM ({ids}) AS of_index {look_up} {where(*matching)} {filters.order_by()}"


def select_all(reading: Reading) -> tuple[str, Arguments]:
    """Write the statement of all orders of a list, and its arguments; ``calendar_ids`` must be known.

    It is planned for its first rows, so it needs no LIMIT to read the right index.
    """
    arguments = Arguments()
    source = reading.source
    if reading.whole:
        # UNION: an order that has two of the services appears once.
        branches = source.branches(arguments, f"{source.table.columns['id']} AS id")
        ids = (" UNION " if source.may_repeat else " UNION ALL ").join(branches)
        return _show_whole(source, f"SELECT id FROM ({ids} OFFSET 0) AS found", None, arguments), arguments
    if source.values > 1:
        return _show(source, _scan(source, arguments, None, ""), arguments), arguments
    # Not sorted inside, so that it is merged with the query around it, and planned for the first rows too.
    (scan,) = source.branches(arguments, source.columns)
    return _show(source, scan, arguments), arguments
