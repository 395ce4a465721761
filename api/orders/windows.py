"""Pages of the orders of a window of datetimes, sorted by id: of bounded cost, however many orders there are.

No index has both orders. A window of few orders is sorted for each page. Through a larger one the ids are
followed, at most so many for each page: one that ends early says where to go on, as any other does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from api.orders.filters import OrderFilters


MOST_LOOKED_AT = 10_000
"""Orders that are looked at for one page."""


class _Statement:
    """A statement about such a list, and its arguments in the order in which its text asks for them."""

    def __init__(self, filters: OrderFilters) -> None:
        self.filters = filters
        self.arguments: list[Any] = []
        self.behind, direction = ("<", " DESC") if filters.descending else (">", "")
        self.order = f"ORDER BY id{direction}"
        # A service's orders have a table of their own; on a calendar they are picked out of the calendar's.
        self.by_service = filters.service is not None and filters.calendar is None
        self.orders = (
            "(SELECT service_id, order_id AS id, datetime FROM ordered_service) AS t"
            if self.by_service
            else "orders"
        )

    def argument(self, value: object) -> str:
        self.arguments.append(value)
        return f"${len(self.arguments)}"

    def scope(self) -> str:
        """Say what an index finds by itself."""
        if self.by_service:
            return f"service_id = {self.argument(self.filters.service)}::bigint"
        if self.filters.calendar is not None:
            name = self.argument(self.filters.calendar)
            return f"calendar_id = (SELECT c.id FROM calendar AS c WHERE c.name = {name})"
        return "true"

    def window(self) -> str:
        """Say which of those an index by datetime finds."""
        found = []
        if self.filters.earliest is not None:
            found.append(f"datetime >= {self.argument(self.filters.earliest)}::timestamptz")
        if self.filters.before is not None:
            found.append(f"datetime < {self.argument(self.filters.before)}::timestamptz")
        return " AND ".join(found)

    def within(self) -> str:
        """Say which of those are on the list."""
        if self.filters.service is None or self.by_service:
            return self.window()
        return f"{self.window()} AND service_ids @> ARRAY[{self.argument(self.filters.service)}::bigint]"

    def beyond(self, place: int | None) -> str:
        return "true" if place is None else f"id {self.behind} {self.argument(place)}::bigint"

    def up_to(self, place: int | None) -> str:
        return "true" if place is None else f"NOT id {self.behind} {self.argument(place)}::bigint"


def _count(filters: OrderFilters, most: int) -> tuple[str, list[Any]]:
    # What has to be looked at, whatever else it is filtered by.
    one = _Statement(filters)
    text = f"""
        SELECT count(*) AS count FROM (
            SELECT FROM {one.orders} WHERE {one.scope()} AND {one.window()} LIMIT {one.argument(most)}::int
        ) AS few
    """
    return text, one.arguments


def _edge(filters: OrderFilters, after: int | None, most: int) -> tuple[str, list[Any]]:
    one = _Statement(filters)
    text = f"""
        SELECT id FROM {one.orders} WHERE {one.scope()} AND {one.beyond(after)}
        {one.order} OFFSET {one.argument(most - 1)}::int LIMIT 1
    """
    return text, one.arguments


_SHOWN = """
SELECT o.id, o.datetime, order_json(o) AS json FROM ({page}) AS page JOIN orders AS o ON o.id = page.id
{order}
"""

# In both, OFFSET 0 keeps what is inside from being planned together with what is outside: PostgreSQL would
# otherwise choose the other way, and then look at as many orders as there are.


def _sorted(filters: OrderFilters, after: int | None, limit: int) -> tuple[str, list[Any]]:
    one = _Statement(filters)
    page = f"""
        SELECT id FROM (SELECT id FROM {one.orders} WHERE {one.scope()} AND {one.within()} OFFSET 0) AS few
        WHERE {one.beyond(after)} {one.order} LIMIT {one.argument(limit)}::int
    """
    return _SHOWN.format(page=page, order=one.order.replace(" id", " o.id")), one.arguments


def _followed(
    filters: OrderFilters, after: int | None, edge: int | None, limit: int
) -> tuple[str, list[Any]]:
    one = _Statement(filters)
    columns = "id, datetime" if one.by_service or filters.service is None else "id, datetime, service_ids"
    page = f"""
        SELECT id FROM (
            SELECT {columns} FROM {one.orders}
            WHERE {one.scope()} AND {one.beyond(after)} AND {one.up_to(edge)} {one.order} OFFSET 0
        ) AS looked_at
        WHERE {one.within()} {one.order} LIMIT {one.argument(limit)}::int
    """
    return _SHOWN.format(page=page, order=one.order.replace(" id", " o.id")), one.arguments


async def find_in_window(
    fetch: Callable[..., Awaitable[list[Any]]],
    filters: OrderFilters,
    after: int | None,
    limit: int,
    most: int = MOST_LOOKED_AT,
) -> tuple[list[Any], int | None]:
    """Find up to ``limit`` orders behind an id; and the id up to which was looked, if not to the end.

    The edge is found first and by itself: whatever is written in between, all up to it are looked at.
    """
    (count,) = await fetch(*_flat(_count(filters, most + 1)))
    if count["count"] <= most:
        return await fetch(*_flat(_sorted(filters, after, limit))), None
    found = await fetch(*_flat(_edge(filters, after, most)))
    edge = found[0]["id"] if found else None
    return await fetch(*_flat(_followed(filters, after, edge, limit))), edge


def _flat(statement: tuple[str, list[Any]]) -> list[Any]:
    text, arguments = statement
    return [text, *arguments]
