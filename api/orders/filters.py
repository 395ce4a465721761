"""Which orders a list has and how it is sorted, and both in SQL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from api.http.fields import read_id
from api.http.times import read_time, utc_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SORTS = {"datetime": ("datetime", "id"), "id": ("id",)}


class Arguments(list[Any]):
    """The arguments of a statement, in the order in which its text mentions them."""

    def add(self, value: object) -> str:
        """Append an argument and return its placeholder: ``$1`` for the first."""
        self.append(value)
        return f"${len(self)}"


class OrderTable(NamedTuple):
    """A table with a row for each order of a list, and indexes in both of the list's orders."""

    name: str
    alias: str
    columns: Mapping[str, str]
    """Its columns by the keys of ``SORTS``."""

    @property
    def id(self) -> str:
        """The column of the order's id."""
        return self.columns["id"]

    @property
    def datetime(self) -> str:
        """The column of the order's datetime."""
        return self.columns["datetime"]


ORDERS = OrderTable("orders", "o", {"datetime": "o.datetime", "id": "o.id"})
ORDERED_SERVICE = OrderTable("ordered_service", "s", {"datetime": "s.datetime", "id": "s.order_id"})
"""The orders of each service; a trigger on ``orders`` keeps it."""


def where(*conditions: str) -> str:
    """Write the WHERE clause of conditions that must all hold; an empty string if there are none."""
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


class ListedOrder(msgspec.Struct, frozen=True):
    """An order in a list: as callers see it, and its place."""

    id: int
    datetime: datetime
    json: str


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
        """The keys that the list is sorted by; the last one, the id, is unique."""
        return SORTS[self.sort.removeprefix("-")]

    @property
    def descending(self) -> bool:
        """Whether the list is sorted in descending order."""
        return self.sort.startswith("-")

    @property
    def table(self) -> OrderTable:
        """The table that the list is read from.

        A calendar has few orders: those of a service are filtered out of them, and need no index.
        """
        return ORDERED_SERVICE if self.service is not None and self.calendar is None else ORDERS

    @property
    def has_one_plan(self) -> bool:
        """Whether one plan suits all values: the list is sorted by an index, which also has the window."""
        has_window = self.earliest is not None or self.before is not None
        return self.calendar is None and self.service is None and not (self.keys == ("id",) and has_window)

    @property
    def order_by(self) -> str:
        """The ORDER BY clause."""
        direction = " DESC" if self.descending else ""
        return f"ORDER BY {', '.join(self.table.columns[key] + direction for key in self.keys)}"

    def scope(self, arguments: Arguments) -> list[str]:
        """Write the conditions on the columns that the indexes begin with: a calendar or a service."""
        if self.calendar is not None:
            name = arguments.add(self.calendar)
            return [f"o.calendar_id = (SELECT id FROM calendar WHERE name = {name})"]
        if self.service is not None:
            return [f"s.service_id = {arguments.add(self.service)}::bigint"]
        return []

    def window(self, arguments: Arguments) -> list[str]:
        """Write the conditions on the datetime."""
        conditions = []
        if self.earliest is not None:
            conditions.append(f"{self.table.datetime} >= {arguments.add(self.earliest)}::timestamptz")
        if self.before is not None:
            conditions.append(f"{self.table.datetime} < {arguments.add(self.before)}::timestamptz")
        return conditions

    def unindexed(self, arguments: Arguments) -> list[str]:
        """Write the condition that no index finds: a service of the orders on a calendar."""
        if self.service is not None and self.calendar is not None:
            return [f"o.service_ids @> ARRAY[{arguments.add(self.service)}::bigint]"]
        return []

    def after(self, place: Sequence[Any] | None, arguments: Arguments) -> list[str]:
        """Write the condition that an order comes after a place; None is before all orders."""
        if place is None:
            return []
        columns = ", ".join(self.table.columns[key] for key in self.keys)
        values = ", ".join(arguments.add(value) for value in place)
        return [f"({columns}) {'<' if self.descending else '>'} ({values})"]

    def select(self, after: Sequence[Any] | None, limit: int | None) -> tuple[str, Arguments]:
        """Write the statement that lists the orders after a place, up to a limit, and its arguments."""
        arguments = Arguments()
        table = self.table
        rows = where(
            *self.scope(arguments),
            *self.window(arguments),
            *self.unindexed(arguments),
            *self.after(after, arguments),
        )
        end = "" if limit is None else f"LIMIT {arguments.add(limit)}"
        selected = "SELECT o.id, o.datetime, o.rendered AS json"
        if table is ORDERS:
            return f"{selected} FROM orders AS o {rows} {self.order_by} {end}", arguments
        # LIMIT inside, JOIN outside: PostgreSQL would otherwise choose a merge join that reads every order
        # between the first of the page and the last.
        page = f"SELECT s.order_id, s.datetime FROM ordered_service AS s {rows} {self.order_by} {end}"
        return (
            f"{selected} FROM ({page}) AS s JOIN orders AS o ON o.id = s.order_id {self.order_by}",
            arguments,
        )

    def place_of(self, order: ListedOrder) -> list[object]:
        """Return an order's place in the list, as a cursor holds it."""
        return [utc_text(order.datetime) if key == "datetime" else order.id for key in self.keys]

    def place(self, *cursor: object) -> list[Any]:
        """Read a place from what a cursor holds.

        Raises:
            ValueError: it is not a place in this list.

        """
        if len(cursor) != len(self.keys):
            raise ValueError("not a place in this list")
        return [
            read_time(value) if key == "datetime" else read_id(value)
            for key, value in zip(self.keys, cursor, strict=True)
        ]
