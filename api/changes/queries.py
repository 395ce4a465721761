"""Reading the change log for subscribers: pages of the feed, and an order's history."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from api.changes.errors import PositionNotInLogError
from api.http.fields import GREATEST_POSITION
from api.orders.errors import OrderNotFoundError
from shared.change_log import CHANGE, Bounds
from shared.changes import Change
from shared.database.engine import DB
from shared.database.statements import fetch_value, read_row

if TYPE_CHECKING:
    from collections.abc import Sequence

POSITIONS_PER_SEARCH = 20_000
"""How many positions one statement searches for changes that match filters."""

SEARCH_SECONDS = 1.0
"""How long one request searches the log. The page then ends early, and ``next`` continues from there."""

TYPES = ("order.created", "order.updated", "order.cancelled", "order.reinstated", "order.deleted")

# At least one row: without a change it has the log's bounds only.
#
# The limit is part of the statement. For an argument PostgreSQL expects a tenth of the log, prefers a plan
# for its value, and plans the statement anew at each execution when the log is long.
_SEARCH = f"""
SELECT l.first_position AS first, l.last_position AS last, c.*
FROM change_log AS l LEFT JOIN LATERAL (
    SELECT {CHANGE} FROM order_change
    WHERE position > $1 AND position <= least($1 + $2::bigint, l.last_position){{conditions}}
    ORDER BY position LIMIT {{limit:d}}
) AS c ON true
WHERE l.id = 1 ORDER BY c.position
"""

# The change of a new order may have no position yet; those of an order deleted long ago may all be gone.
_ORDER_EXISTED = """
SELECT EXISTS (SELECT FROM orders WHERE id = $1)
    OR EXISTS (SELECT FROM order_change WHERE order_id = $1)
    OR EXISTS (SELECT FROM claimed_order_id WHERE id = $1)
"""


def check_position(after: int, bounds: Bounds) -> None:
    """Check that a subscriber that has everything up to a position can continue without a gap.

    Raises:
        PositionNotInLogError: it can't.

    """
    if not bounds.first - 1 <= after <= bounds.last:
        raise PositionNotInLogError(after, bounds.first, bounds.last)


@dataclass(frozen=True)
class ChangeFilters:
    """Which changes to return. A calendar's are those of orders that were on it before or are on it after."""

    order: int | None = None
    type: str | None = None
    calendar: str | None = None
    actor: str | None = None

    def conditions(self, argument_number: int) -> tuple[str, list[Any]]:
        """Return them as SQL with its arguments, the first of which is ``$argument_number``."""
        calendar = "(SELECT id FROM calendar WHERE name = {0})"
        filters = {
            "order_id = {0}": self.order,
            "type = {0}": self.type,
            "actor = {0}": self.actor,
            f"({calendar} IN (calendar_id, previous_calendar_id))": self.calendar,
        }
        used = {condition: value for condition, value in filters.items() if value is not None}
        sql = "".join(
            f" AND {condition.format(f'${argument_number + n}')}" for n, condition in enumerate(used)
        )
        return sql, list(used.values())


@dataclass(frozen=True)
class FeedPage:
    """Changes that match, and the position up to which no others match."""

    changes: Sequence[Change]
    through: int


async def feed_page(filters: ChangeFilters, after: int, limit: int) -> FeedPage:
    """Read a page of the feed.

    A page with ``limit`` changes ends at the last of them. A shorter one ends where the search ended, so that
    callers with filters do not search the same changes again.

    Raises:
        PositionNotInLogError: the log does not have everything after that position.

    """
    deadline = time.monotonic() + SEARCH_SECONDS
    through = after
    while True:
        changes, bounds = await _search(filters, through, limit)
        check_position(through, bounds)
        if len(changes) == limit:
            return FeedPage(changes, changes[-1].position)
        through = min(through + POSITIONS_PER_SEARCH, bounds.last)
        if changes or through == bounds.last or time.monotonic() > deadline:
            return FeedPage(changes, through)


async def _search(
    filters: ChangeFilters, after: int, limit: int, positions: int = POSITIONS_PER_SEARCH
) -> tuple[list[Change], Bounds]:
    # One statement, so one snapshot: changes and bounds agree, even if changes are deleted meanwhile.
    conditions, arguments = filters.conditions(3)
    statement = _SEARCH.format(conditions=conditions, limit=limit)
    rows = await DB.fetch(statement, after, positions, *arguments)
    return [read_row(Change, row) for row in rows if row["position"] is not None], read_row(Bounds, rows[0])


async def order_history(order_id: int, after: int | None, limit: int) -> list[Change]:
    """Read an order's changes after a position, oldest first; None: from the first that is retained.

    Raises:
        OrderNotFoundError: there never was such an order, or nothing of it is left.
        PositionNotInLogError: the log does not have everything after that position.

    """
    changes, bounds = await _search(ChangeFilters(order=order_id), after or 0, limit, GREATEST_POSITION)
    if after is not None:
        check_position(after, bounds)
    if not changes and not await fetch_value(bool, _ORDER_EXISTED, order_id):
        raise OrderNotFoundError(order_id)
    return changes
