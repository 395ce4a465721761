"""Reading orders. PostgreSQL renders them (``order_json``): the same bytes wherever one is shown."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from api.fields import read_id
from api.orders.errors import Conflict, OrderNotFoundError
from api.orders.spacing import CLEARANCE
from api.pages import Page
from api.times import EARLIEST, LATEST, read_datetime, utc_text
from shared.database import DB, row, rows

if TYPE_CHECKING:
    from collections.abc import Sequence


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

        conditions = []
        if self.earliest is not None:
            conditions.append(f"datetime >= {argument(self.earliest)}")
        if self.before is not None:
            conditions.append(f"datetime < {argument(self.before)}")
        if self.calendar is not None:
            conditions.append(
                f"calendar_id = (SELECT id FROM calendar WHERE name = {argument(self.calendar)})"
            )
        if self.service is not None:
            conditions.append(f"service_ids @> ARRAY[{argument(self.service)}::bigint]")
        if after is not None:
            behind = "<" if self.descending else ">"
            values = ", ".join(argument(value) for value in after)
            conditions.append(f"({', '.join(self.keys)}) {behind} ({values})")
        direction = " DESC" if self.descending else ""
        return (
            "SELECT id, datetime, order_json(orders) AS json FROM orders "
            + (f"WHERE {' AND '.join(conditions)} " if conditions else "")
            + f"ORDER BY {', '.join(key + direction for key in self.keys)}"
            + (f" LIMIT {argument(limit)}" if limit is not None else ""),
            arguments,
        )

    def place_of(self, order: dict[str, Any]) -> list[object]:
        """Give an order's place in the list, as a cursor keeps it."""
        return [utc_text(order[key]) if key == "datetime" else order[key] for key in self.keys]

    def place(self, cursor: Sequence[Any]) -> list[Any]:
        """Read a place from a cursor.

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


async def list_orders(filters: OrderFilters, after: Sequence[Any] | None, limit: int) -> Page:
    """List a page of orders behind a place."""
    statement, arguments = filters.select(after, limit + 1)
    # A service in half of all orders and one in ten of them want different plans: 1.5 ms either way, and up
    # to 400 ms over a million orders with the other's (tests/test_order_query_plans.py).
    found = await DB.fetch_planned_afresh(statement, *arguments)
    shown = found[:limit]
    return Page(
        [order["json"] for order in shown],
        filters.place_of(dict(shown[-1])) if len(found) > limit else None,
    )


async def conflicts_near(calendar: str, at: datetime, order_id: int | None) -> list[Conflict]:
    """List the orders on a calendar that leave no room for one at that datetime (itself left aside)."""
    found = await rows(
        """
        SELECT id, datetime FROM orders
        WHERE calendar_id = (SELECT id FROM calendar WHERE name = $1)
          AND datetime > $2::timestamptz - interval '3 hours'
          AND datetime < $2::timestamptz + interval '3 hours'
          AND id IS DISTINCT FROM $3
        ORDER BY datetime, id LIMIT 100
        """,
        calendar,
        at,
        order_id,
    )
    return [Conflict(**order) for order in found]


_FREE_AFTER = """
SELECT datetime AS at FROM (
    SELECT datetime, lead(datetime) OVER (ORDER BY datetime) AS neighbour FROM orders
    WHERE calendar_id = (SELECT id FROM calendar WHERE name = $1)
      AND datetime > $2::timestamptz - interval '3 hours' AND id IS DISTINCT FROM $3
) AS taken
WHERE neighbour IS NULL OR neighbour - datetime >= interval '6 hours'
ORDER BY datetime LIMIT 1
"""
_FREE_BEFORE = """
SELECT datetime AS at FROM (
    SELECT datetime, lead(datetime) OVER (ORDER BY datetime DESC) AS neighbour FROM orders
    WHERE calendar_id = (SELECT id FROM calendar WHERE name = $1)
      AND datetime < $2::timestamptz + interval '3 hours' AND id IS DISTINCT FROM $3
) AS taken
WHERE neighbour IS NULL OR datetime - neighbour >= interval '6 hours'
ORDER BY datetime DESC LIMIT 1
"""


async def nearest_free(
    calendar: str, asked: datetime, order_id: int | None
) -> tuple[datetime | None, datetime | None]:
    """Find the nearest free datetimes before and after one that is not free (the order itself left aside).

    What is free next to a taken datetime begins exactly three hours from it, where the next order on that
    side is six hours away or more; within 1970 … 2199, as orders must be.
    """
    after = await row(_FREE_AFTER, calendar, asked, order_id)
    before = await row(_FREE_BEFORE, calendar, asked, order_id)
    earliest_after = after["at"] + CLEARANCE if after else asked
    latest_before = before["at"] - CLEARANCE if before else asked
    return (
        latest_before if latest_before >= EARLIEST else None,
        earliest_after if earliest_after <= LATEST else None,
    )
