"""The indexes that lists of orders are read from, in SQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from api.orders.lists.filters import NO_PREFIX, ORDER_COLUMNS, Arguments, Prefix, where

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from api.orders.lists.filters import OrderFilters


class OrderTable(NamedTuple):
    """A table with a row for each order, or for each of its services or metadata."""

    name: str
    alias: str
    columns: Mapping[str, str]
    """Its columns by what they are of an order."""


ORDERS = OrderTable("orders", "o", ORDER_COLUMNS)
ORDERED_SERVICE = OrderTable("ordered_service", "s", {"id": "s.order_id", "datetime": "s.datetime"})
"""The orders of each service; a trigger on ``orders`` keeps it."""
ORDER_METADATA = OrderTable("order_metadata", "m", {"id": "m.order_id", "datetime": "m.datetime"})
"""The orders of each pair of key and value in metadata; a trigger on ``orders`` keeps it."""


@dataclass(frozen=True)
class IndexRead:
    """A list's orders as one index has them: for each of some values, sorted by a key and then by id."""

    filters: OrderFilters
    table: OrderTable
    subject: str | None
    """What the values are of; None: the index has all orders."""
    key: str

    @property
    def in_order(self) -> bool:
        """Whether the index has the orders of each value in the list's order."""
        return self.key == self.filters.keys[0]

    @property
    def rest(self) -> tuple[str, ...]:
        """What the conditions are about that the index does not serve."""
        return tuple(one for one in self.filters.subjects if one not in (self.subject, self.key))

    @property
    def values(self) -> int:
        """How many values are read, each for itself."""
        if self.subject == "calendar" and self.filters.calendar_ids is not None:
            return 1
        counts = {"service": len(self.filters.services), "calendar": len(self.filters.calendars)}
        return counts.get(self.subject or "", 1)

    @property
    def has_orders(self) -> bool:
        """Whether the orders are read where the index finds them.

        Otherwise only what they are sorted by is, from the index alone, and each order is looked up by its
        id: if the table does not have the orders; if those of several values are merged, so that no more are
        read than are shown; and if orders are left out. A scan of many thousand orders seems so dear to
        PostgreSQL that it may read the whole table instead.
        """
        return self.table is ORDERS and self.values == 1 and not self.rest

    @property
    def scanned(self) -> Mapping[str, str]:
        """The columns of the list's keys in the selected rows: of ``orders AS o``, or of ``scan``."""
        return ORDER_COLUMNS if self.has_orders else {key: f"scan.{key}" for key in self.filters.keys}

    @property
    def columns(self) -> str:
        """What is selected: all of an order, or what is needed to find it."""
        if self.has_orders:
            return "o.*"
        keys = [f"{self.table.columns[key]} AS {key}" for key in self.filters.keys]
        return ", ".join((*("o.calendar_id" for _ in self.prefix_of_one.columns), *keys))

    @property
    def may_repeat(self) -> bool:
        """Whether an order may have two of the values."""
        return self.subject == "service" and self.values > 1

    def branches(
        self, arguments: Arguments, columns: str, after: Sequence[Any] | None = None, *more: str
    ) -> list[str]:
        """Write a SELECT of the index's orders for each value, after a place and with further conditions."""
        filters, table = self.filters, self.table
        branches = []
        for prefix, conditions in self._scopes(arguments):
            every = [*prefix.conditions, *conditions, *more]
            if self.key in filters.subjects:
                every.append(filters.condition(self.key, arguments, table.columns, prefix))
            every += filters.after(after, arguments, table.columns, prefix)
            branches.append(f"SELECT {columns} FROM {table.name} AS {table.alias} {where(*every)}")
        return branches

    def sorted_branches(
        self, arguments: Arguments, columns: str, after: Sequence[Any] | None, end: str
    ) -> list[str]:
        """Write ``branches`` in the list's order, with the end of each statement."""
        orders = [self.filters.order_by(self.table.columns, prefix) for prefix, _ in self._scopes(arguments)]
        branches = self.branches(arguments, columns, after)
        return [f"{branch} {order} {end}" for branch, order in zip(branches, orders, strict=True)]

    def counted_branches(self, arguments: Arguments, columns: str, limit: str) -> list[str]:
        """Write ``branches`` up to a limit, in the order of the index.

        In no order, PostgreSQL may read the table, whose matches may be at its end.
        """
        columns_of = self.table.columns
        return [
            f"{branch} ORDER BY {', '.join((*prefix.columns, columns_of[self.key]))} LIMIT {limit}"
            for branch, (prefix, _) in zip(
                self.branches(arguments, columns), self._scopes(arguments), strict=True
            )
        ]

    @property
    def prefix_of_one(self) -> Prefix:
        """What the rows of the only value are sorted by before the list's keys: the same in all of them."""
        if self.subject == "calendar" and self.values == 1 and self.filters.calendar_ids is None:
            return Prefix(("o.calendar_id" if self.has_orders else "scan.calendar_id",))
        return NO_PREFIX

    def _scopes(self, arguments: Arguments) -> Iterable[tuple[Prefix, list[str]]]:
        """Write the conditions of each value.

        Calendars are prefixes, as there are indexes of all orders beside theirs. The other tables have none.
        """
        filters = self.filters
        match self.subject:
            case None:
                return [(NO_PREFIX, [])]
            case "service":
                return [
                    (NO_PREFIX, [f"s.service_id = {arguments.add(f'service {service}', service)}::bigint"])
                    for service in filters.services
                ]
            case "calendar" if filters.calendar_ids is None:
                names = [f"{arguments.add(f'calendar {name}', name)}::text" for name in filters.calendars]
                ids = [f"(SELECT id FROM calendar WHERE name = {name})" for name in names]
                return [(Prefix(("o.calendar_id",), (one,)), []) for one in ids]
            case str(subject) if subject.startswith("metadata "):
                key = subject.removeprefix("metadata ")
                value = arguments.add(f"{subject} value", filters.metadata[key])
                is_key = f"m.key = {arguments.add(f'{subject} key', key)}::text"
                return [(NO_PREFIX, [is_key, f"m.value = {value}::text"])]
            case str(subject):
                return [(NO_PREFIX, [filters.condition(subject, arguments)])]
