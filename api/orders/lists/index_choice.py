"""Which index a list of orders is read from.

A list's conditions are each served by an index of their own, or by none. The one that finds the fewest orders
is read; the other conditions are checked on those.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from api.orders.lists.filters import Arguments
from api.orders.lists.index_reads import ORDER_METADATA, ORDERED_SERVICE, ORDERS, IndexRead, OrderTable
from shared.database.statements import read_row

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from api.orders.lists.filters import OrderFilters

SCAN_LIMIT = 10_000
"""Orders that are read for one page, at most; and up to which those that an index finds are counted."""


class Reading(NamedTuple):
    """How a list is read."""

    source: IndexRead
    whole: bool
    """Read all that the index finds for each page, and sort it; otherwise read on from the previous page."""

    @property
    def has_one_plan(self) -> bool:
        """Whether one plan suits all values: the index has all orders, in the list's order, and no other."""
        return not self.whole and self.source.subject is None and not self.source.rest


class _Counts(msgspec.Struct, frozen=True):
    counts: list[int]


async def choose_index(
    fetch: Callable[..., Awaitable[list[Any]]], filters: OrderFilters, scan_limit: int = SCAN_LIMIT
) -> Reading:
    """Choose the index that finds the fewest orders, each counted up to the limit; in doubt, one in order."""
    for subject in ("reference", "id"):
        if subject in filters.subjects:
            return Reading(IndexRead(filters, ORDERS, subject, "id"), whole=True)
    everything = IndexRead(filters, ORDERS, None, filters.keys[0])
    indexes = _indexes_of(filters)
    if not indexes or (len(indexes) == 1 and indexes[0].in_order):
        return Reading(indexes[0] if indexes else everything, whole=False)
    statement, arguments = _count(indexes, scan_limit + 1)
    (record,) = await fetch(statement, *arguments)
    counts = read_row(_Counts, record).counts
    # Of equals, one in the list's order: its rows need not be sorted.
    count, _, place = min((count, not indexes[n].in_order, n) for n, count in enumerate(counts))
    fewest = indexes[place]
    if fewest.in_order:
        return Reading(fewest, whole=False)
    if count <= scan_limit:
        return Reading(fewest, whole=True)
    otherwise = replace(fewest, key=filters.keys[0])
    return Reading(otherwise if _exists(otherwise) else everything, whole=False)


def _indexes_of(filters: OrderFilters) -> list[IndexRead]:
    """List the indexes that find fewer than all orders, each by the key whose condition it serves too."""
    subjects, key = filters.subjects, filters.keys[0]
    indexes = [
        IndexRead(filters, table, subject, "datetime")
        for subject in subjects
        if (table := _table_of(filters, subject)) is not None
    ]
    if "datetime" not in subjects:
        indexes = [other if _exists(other := replace(index, key=key)) else index for index in indexes]
    ranges = {
        "datetime": "datetime" in subjects and not indexes,  # those of a value are fewer
        "created_at": filters.created_after is not None,
        "updated_at": filters.updated_after is not None,  # nearly all are before the horizon
    }
    return [
        *indexes,
        *(IndexRead(filters, ORDERS, None, one) for one, is_given in ranges.items() if is_given),
    ]


def _table_of(filters: OrderFilters, subject: str) -> OrderTable | None:
    if subject.startswith("metadata "):
        return ORDER_METADATA
    if subject == "status":
        return ORDERS if filters.status == "cancelled" else None
    return {"service": ORDERED_SERVICE, "calendar": ORDERS}.get(subject)


def _exists(index: IndexRead) -> bool:
    """Return whether there is such an index: of values by datetime and by id, of all orders by every key."""
    return index.subject is None or index.key in ("datetime", "id")


def _count(indexes: Sequence[IndexRead], most: int) -> tuple[str, Arguments]:
    """Count how many orders each index finds, up to a number."""
    arguments = Arguments()
    limit = arguments.add("most", most)
    counts = []
    for index in indexes:
        rows = " UNION ALL ".join(f"({branch})" for branch in index.counted_branches(arguments, "1", limit))
        counts.append(f"(SELECT count(*) FROM (SELECT 1 FROM ({rows}) AS every LIMIT {limit}) AS counted)")
    return f"SELECT ARRAY[{', '.join(counts)}] AS counts", arguments
