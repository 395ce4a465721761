"""Which orders a list has, in which order, and how that is said in SQL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from api.http.fields import read_id
from api.http.times import read_datetime, utc_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.orders.queries import ListedOrder

SORTS = {"datetime": ("datetime", "id"), "id": ("id",)}


@dataclass(frozen=True)
class OrderFilters:
    """Which orders, in which order. ``earliest`` is included, ``before`` is not."""

    earliest: datetime | None = None
    before: datetime | None = None
    calendar: str | None = None
    service: int | None = None
    sort: str = "datetime"

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns that order the list; the last one makes it total."""
        return SORTS[self.sort.removeprefix("-")]

    @property
    def descending(self) -> bool:
        """Whether the list runs backwards."""
        return self.sort.startswith("-")

    def select(self, after: Sequence[Any] | None, limit: int | None) -> tuple[str, list[Any]]:
        """Write the statement that lists them, behind an item, with its arguments."""
        arguments: list[Any] = []

        def argument(value: object) -> str:
            arguments.append(value)
            return f"${len(arguments)}"

        # A service's orders stand in the list's order in a table of their own (a trigger keeps it); on a
        # calendar, which can't hold many, they are picked out of the calendar's.
        by_service = self.service is not None and self.calendar is None
        columns = (
            {"datetime": "s.datetime", "id": "s.order_id"}
            if by_service
            else {"datetime": "o.datetime", "id": "o.id"}
        )
        keys = [columns[key] for key in self.keys]
        conditions = []
        if by_service:
            conditions.append(f"s.service_id = {argument(self.service)}::bigint")
        elif self.service is not None:
            conditions.append(f"o.service_ids @> ARRAY[{argument(self.service)}::bigint]")
        if self.earliest is not None:
            conditions.append(f"{columns['datetime']} >= {argument(self.earliest)}")
        if self.before is not None:
            conditions.append(f"{columns['datetime']} < {argument(self.before)}")
        if self.calendar is not None:
            conditions.append(
                f"o.calendar_id = (SELECT id FROM calendar WHERE name = {argument(self.calendar)})"
            )
        if after is not None:
            behind = "<" if self.descending else ">"
            values = ", ".join(argument(value) for value in after)
            conditions.append(f"({', '.join(keys)}) {behind} ({values})")
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        direction = " DESC" if self.descending else ""
        order = f" ORDER BY {', '.join(key + direction for key in keys)}"
        end = f" LIMIT {argument(limit)}" if limit is not None else ""
        shown = "SELECT o.id, o.datetime, order_json(o) AS json FROM"
        if by_service:
            # The page first, then its orders: joined before, they would be merged with all orders in between.
            page = f"(SELECT s.order_id, s.datetime FROM ordered_service AS s{where}{order}{end}) AS s"
            return f"{shown} {page} JOIN orders AS o ON o.id = s.order_id{order}", arguments
        return f"{shown} orders AS o{where}{order}{end}", arguments

    def place_of(self, order: ListedOrder) -> list[object]:
        """Return an order's place in the list, as a cursor keeps it."""
        return [utc_text(order.datetime) if key == "datetime" else order.id for key in self.keys]

    def place(self, *cursor: object) -> list[Any]:
        """Read a place from what a cursor holds.

        Raises:
            ValueError: it is none.

        """
        if len(cursor) != len(self.keys):
            message = "not a place in this list"
            raise ValueError(message)
        return [
            read_datetime(value) if key == "datetime" else read_id(value)
            for key, value in zip(self.keys, cursor, strict=True)
        ]
