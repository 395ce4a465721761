"""Which orders a list has and how it is sorted, and both in SQL."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from api.http.fields import read_id
from api.http.times import read_time, utc_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SORTS = {"datetime": ("datetime", "id"), "id": ("id",), "updated_at": ("updated_at", "id")}

ORDER_COLUMNS = {key: f"o.{key}" for key in ("id", "datetime", "created_at", "updated_at")}
"""The columns of ``orders AS o`` that orders are sorted by, or lie in a range of."""

_TYPES = {"id": "bigint"}


class Arguments(list[Any]):
    """The arguments of a statement, in the order in which its text first mentions them."""

    def __init__(self) -> None:
        super().__init__()
        self._placeholders: dict[str, str] = {}

    def add(self, name: str, value: object) -> str:
        """Return the placeholder of an argument, ``$1`` for the first; the same again for the same name."""
        if name not in self._placeholders:
            self.append(value)
            self._placeholders[name] = f"${len(self)}"
        return self._placeholders[name]


class Prefix(NamedTuple):
    """Columns that an index begins with, and the one value of each that is read from it.

    Not as conditions with ``=``: ORDER BY the prefix and a key means the same as ORDER BY the key then, and
    PostgreSQL may read an index that has only the key, for which it has to read all orders if few have the
    values. With rows of prefix and key, which it knows nothing about, only the index that is meant will do.
    """

    columns: tuple[str, ...] = ()
    values: tuple[str, ...] = ()

    def compare(self, columns: Sequence[str], operator: str, values: Sequence[str]) -> str:
        """Write a comparison of columns behind the prefix with values behind those of the prefix."""
        left, right = ", ".join((*self.columns, *columns)), ", ".join((*self.values, *values))
        return f"({left}) {operator} ({right})"

    @property
    def conditions(self) -> list[str]:
        """The conditions that the columns have the values."""
        pairs = zip(self.columns, self.values, strict=True)
        return [f"{column} {operator} {value}" for column, value in pairs for operator in (">=", "<=")]


NO_PREFIX = Prefix()


def where(*conditions: str) -> str:
    """Write the WHERE clause of conditions that must all hold; an empty string if there are none."""
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


class ListedOrder(msgspec.Struct, frozen=True):
    """An order in a list: as callers see it, and its place."""

    id: int
    updated_at: datetime
    datetime: datetime
    json: str | None
    """None: no order of the list, but a place up to which it was searched."""


@dataclass(frozen=True)
class OrderFilters:
    """Which orders, in which order. Of several values of a filter, one must match; of metadata, all must."""

    earliest: datetime | None = None
    """Included."""
    before: datetime | None = None
    """Not included."""
    calendars: Sequence[str] = ()
    services: Sequence[int] = ()
    ids: Sequence[int] = ()
    reference: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    status: str | None = None
    created_after: datetime | None = None
    """Not included."""
    updated_after: datetime | None = None
    """Not included."""
    updated_before: datetime | None = None
    """Not included: the horizon of a list that is sorted by ``updated_at`` (see ``horizon.py``)."""
    calendar_ids: Sequence[int] | None = None
    """Of ``calendars``, if they are known: PostgreSQL's estimates then depend on them."""
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
    def subjects(self) -> tuple[str, ...]:
        """What the list's conditions are about; ``condition`` writes the one of each."""
        are_given = {
            "id": self.ids,
            "reference": self.reference is not None,
            **{f"metadata {key}": True for key in self.metadata},
            "service": self.services,
            "calendar": self.calendars,
            "status": self.status is not None,
            "datetime": self.earliest or self.before,
            "created_at": self.created_after,
            "updated_at": self.updated_after or self.updated_before,
        }
        return tuple(subject for subject, is_given in are_given.items() if is_given)

    def condition(
        self,
        subject: str,
        arguments: Arguments,
        columns: Mapping[str, str] = ORDER_COLUMNS,
        prefix: Prefix = NO_PREFIX,
    ) -> str:
        """Write a condition on ``orders AS o``.

        Args:
            subject: what the condition is about.
            arguments: of the statement.
            columns: of another table, for a range of one of them.
            prefix: what an index begins with before that column.

        """
        match subject:
            case "datetime" | "created_at" | "updated_at":
                return self._range(subject, columns[subject], arguments, prefix)
            case "id":
                # From a subquery, since its length is then unknown: one plan for all lengths.
                ids = arguments.add("ids", list(self.ids))
                return f"o.id = ANY (ARRAY(SELECT unnest({ids}::bigint[])))"
            case "reference":
                return f"o.reference = {arguments.add('reference', self.reference)}::text"
            case "service":
                return f"o.service_ids && {arguments.add('services', list(self.services))}::bigint[]"
            case "calendar" if self.calendar_ids is not None:
                return f"o.calendar_id = ANY ({arguments.add('calendars', list(self.calendar_ids))}::int[])"
            case "calendar":
                names = arguments.add("calendars", list(self.calendars))
                ids = f"SELECT id FROM calendar WHERE name = ANY ({names}::text[])"
                return f"o.calendar_id = ANY (ARRAY({ids}))"
            case "status":
                # As text, since indexes have it in their conditions; read_status has checked it.
                return "o.status = 'cancelled'" if self.status == "cancelled" else "o.status = 'booked'"
        key = subject.removeprefix("metadata ")
        pair = json.dumps({key: self.metadata[key]}, ensure_ascii=False)
        return f"o.metadata @> {arguments.add(subject, pair)}::jsonb"

    def _range(self, subject: str, column: str, arguments: Arguments, prefix: Prefix) -> str:
        ends = {
            "datetime": ((">=", self.earliest), ("<", self.before)),
            "created_at": ((">", self.created_after),),
            "updated_at": ((">", self.updated_after), ("<", self.updated_before)),
        }[subject]
        return " AND ".join(
            prefix.compare(
                [column], operator, [f"{arguments.add(f'{subject} {operator}', end)}::timestamptz"]
            )
            for operator, end in ends
            if end is not None
        )

    def after(
        self,
        place: Sequence[Any] | None,
        arguments: Arguments,
        columns: Mapping[str, str] = ORDER_COLUMNS,
        prefix: Prefix = NO_PREFIX,
    ) -> list[str]:
        """Write the condition that an order comes after a place; None is before all orders."""
        if place is None:
            return []
        values = [
            f"{arguments.add(f'after {key}', value)}::{_TYPES.get(key, 'timestamptz')}"
            for key, value in zip(self.keys, place, strict=True)
        ]
        operator = "<" if self.descending else ">"
        return [prefix.compare([columns[key] for key in self.keys], operator, values)]

    def order_by(self, columns: Mapping[str, str] = ORDER_COLUMNS, prefix: Prefix = NO_PREFIX) -> str:
        """Write the ORDER BY clause."""
        direction = " DESC" if self.descending else ""
        every = (*prefix.columns, *(columns[key] for key in self.keys))
        return f"ORDER BY {', '.join(column + direction for column in every)}"

    def place_of(self, order: ListedOrder) -> list[object]:
        """Return an order's place in the list, as a cursor holds it."""
        return [order.id if key == "id" else utc_text(getattr(order, key)) for key in self.keys]

    def place(self, *cursor: object) -> list[Any]:
        """Read a place from what a cursor holds.

        Raises:
            ValueError: it is not a place in this list.

        """
        if len(cursor) != len(self.keys):
            raise ValueError("not a place in this list")
        return [
            read_id(value) if key == "id" else read_time(value)
            for key, value in zip(self.keys, cursor, strict=True)
        ]
