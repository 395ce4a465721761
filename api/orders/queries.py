"""Reading orders, as PostgreSQL rendered them when they were written: the same bytes everywhere."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from api.http.entity_tags import etag
from api.http.times import EARLIEST, LATEST
from api.orders.errors import Conflict, OrderNotFoundError, OrdersTooCloseError
from shared.database.coalesced_reads import CoalescedReads
from shared.database.statements import fetch_all, fetch_optional

# With ``= ANY($1)``, PostgreSQL would plan this anew for each few ids: it takes a generic plan, which expects
# ten, for dearer than that. An array from a subquery has an expected length of ten in every plan.
_BY_IDS = """
SELECT id, version, format, rendered AS json FROM orders
WHERE id = ANY (ARRAY(SELECT unnest($1::bigint[])))
"""

_NEAR = 100
"""Orders on each side among which the nearest free time is looked for first."""


def _next_to_free_time(beyond: str, order: str) -> str:
    """Write the query for the nearest order on one side that has free time beyond it.

    Free time begins exactly the spacing from an order, if the next order on that side is at least twice that
    away. A window function reads all orders on its side, so it gets few first, and all only if these have no
    gap. Of the few, the last one is not next to free time: there may be more.

    Args:
        beyond: the condition for the orders on that side.
        order: in which they come, beginning with the nearest.

    """
    side = f"""
        SELECT datetime FROM orders
        WHERE calendar_id = place.calendar_id AND clear_until > datetime
          AND {beyond} AND id IS DISTINCT FROM $3
        ORDER BY datetime {order}
    """

    def search(rows: str, has_gap: str) -> str:
        return f"""
        SELECT datetime FROM (
            SELECT datetime, lead(datetime) OVER (ORDER BY datetime {order}) AS neighbour
            FROM ({rows}) AS side
        ) AS taken
        WHERE {has_gap} ORDER BY datetime {order} LIMIT 1
        """

    gap = "greatest(neighbour - datetime, datetime - neighbour) >= 2 * spacing"
    few = search(f"{side} LIMIT {_NEAR}", gap)
    return f"coalesce(({few}), ({search(side, f'neighbour IS NULL OR {gap}')}))"


# The conflicts and, only if there are any, the nearest orders before and after which it is free. Orders that
# are cancelled, or have left their place to move, are in nobody's way: clear_until is their datetime.
_REFUSAL = f"""
SELECT
    ids, datetimes, spacing,
    {_next_to_free_time("datetime > $2::timestamptz - spacing", "ASC")} AS taken_before_free,
    {_next_to_free_time("datetime < $2::timestamptz + spacing", "DESC")} AS taken_after_free
FROM (
    SELECT id AS calendar_id, make_interval(secs => spacing_seconds) AS spacing FROM calendar WHERE name = $1
) AS place
CROSS JOIN LATERAL (
    SELECT array_agg(id ORDER BY datetime, id) AS ids, array_agg(datetime ORDER BY datetime, id) AS datetimes
    FROM (
        SELECT id, datetime FROM orders
        WHERE calendar_id = place.calendar_id AND clear_until > datetime
          AND datetime > $2::timestamptz - spacing
          AND datetime < $2::timestamptz + spacing
          AND id IS DISTINCT FROM $3 AND import_id IS DISTINCT FROM $4
        ORDER BY datetime, id LIMIT 100
    ) AS conflict
) AS conflicts
WHERE ids IS NOT NULL
"""


class _Refusal(msgspec.Struct, frozen=True):
    ids: list[int]
    datetimes: list[datetime]
    spacing: timedelta
    taken_before_free: datetime | None
    taken_after_free: datetime | None


class StoredOrder(msgspec.Struct, frozen=True):
    """An order as callers see it."""

    id: int
    version: int
    format: int
    json: str

    @property
    def tag(self) -> str:
        """Its entity tag."""
        return etag(self.version, self.format)


async def _find_orders(order_ids: list[int]) -> dict[int, StoredOrder]:
    return {order.id: order for order in await fetch_all(StoredOrder, _BY_IDS, order_ids)}


_orders = CoalescedReads(_find_orders)


async def find_order(order_id: int) -> StoredOrder:
    """Find an order.

    Raises:
        OrderNotFoundError: there is none with that id, or no longer.

    """
    order = await _orders.read(order_id)
    if order is None:
        raise OrderNotFoundError(order_id)
    return order


async def refuse_if_too_close(
    calendar: str, at: datetime, order_id: int | None = None, import_id: int | None = None
) -> None:
    """Check that an order may be at a datetime on a calendar.

    Args:
        calendar: its name.
        at: the datetime.
        order_id: the order, if it exists: it is not in its own way.
        import_id: of the import that the order is, or will be, one of: nor are the others of that.

    Raises:
        OrdersTooCloseError: it may not; with the orders in its way, and the nearest free datetimes within
            1970 … 2199, as orders must be.

    """
    refusal = await fetch_optional(_Refusal, _REFUSAL, calendar, at, order_id, import_id)
    if refusal is None:
        return
    after = refusal.taken_before_free + refusal.spacing if refusal.taken_before_free else at
    before = refusal.taken_after_free - refusal.spacing if refusal.taken_after_free else at
    raise OrdersTooCloseError(
        calendar,
        refusal.spacing,
        at,
        [Conflict(*conflict) for conflict in zip(refusal.ids, refusal.datetimes, strict=True)],
        before if before >= EARLIEST else None,
        after if after <= LATEST else None,
    )
