"""How many orders a list has, on request: counted, or as PostgreSQL's planner estimates it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from api.orders.lists.filters import Arguments, where
from api.orders.lists.index_reads import ORDERS
from shared.database.engine import DB
from shared.database.statements import fetch_values

if TYPE_CHECKING:
    from api.orders.lists.filters import OrderFilters
    from api.orders.lists.index_reads import IndexRead

CountKind = Literal["exact", "estimated"]

_CALENDAR_IDS = "SELECT id FROM calendar WHERE name = ANY($1::text[])"


class Count(NamedTuple):
    """How many orders a list has."""

    orders: int
    kind: CountKind

    @property
    def headers(self) -> dict[str, str]:
        """The headers that say so."""
        return {"X-Total-Count": str(self.orders), "X-Total-Count-Precision": self.kind}


async def count_orders(index: IndexRead, kind: CountKind) -> Count:
    """Count the orders of a list, or estimate how many there are.

    Args:
        index: what the list is read from.
        kind: an exact count takes longer the more orders there are; an estimate does not, and may be far off.

    """
    index = replace(index, filters=await with_calendar_ids(index.filters))
    statement, arguments = _matching(index)
    if kind == "exact":
        (record,) = await DB.fetch_with_custom_plan(f"SELECT count(*) FROM ({statement}) AS o", *arguments)
        return Count(record[0], kind)
    (record,) = await DB.fetch_with_custom_plan(f"EXPLAIN (FORMAT JSON) {statement}", *arguments)
    return Count(round(json.loads(record[0])[0]["Plan"]["Plan Rows"]), kind)


async def with_calendar_ids(filters: OrderFilters) -> OrderFilters:
    """Look the ids of a list's calendars up, so that PostgreSQL's plans and estimates depend on them."""
    if not filters.calendars:
        return filters
    return replace(filters, calendar_ids=await fetch_values(int, _CALENDAR_IDS, list(filters.calendars)))


def _matching(index: IndexRead) -> tuple[str, Arguments]:
    """Write a SELECT with a row for each order of a list, which PostgreSQL may read as it likes."""
    arguments = Arguments()
    rest = [index.filters.condition(subject, arguments) for subject in index.rest]
    if index.table is ORDERS:
        return " UNION ALL ".join(index.branches(arguments, "1", None, *rest)), arguments
    # UNION: an order that has two of the services appears once.
    branches = index.branches(arguments, f"{index.table.columns['id']} AS id")
    ids = f"({(' UNION ' if index.may_repeat else ' UNION ALL ').join(branches)}) AS of_index"
    join = "JOIN orders AS o ON o.id = of_index.id" if rest else ""
    return f"SELECT 1 FROM {ids} {join} {where(*rest)}", arguments
