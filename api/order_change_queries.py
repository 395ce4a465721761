"""Reading the change log for subscribers: feed pages, an order's history, where the log begins and ends."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from api.fields import GREATEST_POSITION
from api.orders.errors import OrderNotFoundError
from shared.change_log import CHANGE
from shared.changes import Change
from shared.database.rows import row, rows

if TYPE_CHECKING:
    from collections.abc import Sequence

POSITIONS_AT_ONCE = 20_000
"""How much of the log one statement looks through for changes that match filters."""

LOOKING_SECONDS = 1.0
"""How long one request looks through the log; the page then ends early, and ``next`` goes on from there."""

TYPES = ("order.created", "order.updated", "order.deleted")


@dataclass
class PositionNotInLogError(Exception):
    """A subscriber's position is not in the log: older than what is retained, or from another log.

    A position is *ahead* after PostgreSQL was restored from a backup: those changes were lost, and other
    ones will have their positions.
    """

    after: int
    first: int
    last: int


@dataclass(frozen=True)
class Bounds:
    """From where to where the log goes; ``first`` is ``last + 1`` when nothing is retained."""

    first: int
    last: int


def check_position(after: int, bounds: Bounds) -> None:
    """See that a subscriber that has everything up to a position can go on without a gap.

    Raises:
        PositionNotInLogError: it can't.

    """
    if not bounds.first - 1 <= after <= bounds.last:
        raise PositionNotInLogError(after, bounds.first, bounds.last)


async def log_bounds() -> Bounds:
    """Ask from where to where the log goes at this moment."""
    found = await row("SELECT first_position AS first, last_position AS last FROM change_log WHERE id = 1")
    return Bounds(**found) if found else Bounds(1, 0)


@dataclass(frozen=True)
class ChangeFilters:
    """Which changes. A calendar's are those of orders that were on it before the change or are after it."""

    order: int | None = None
    type: str | None = None
    calendar: str | None = None

    def conditions(self, argument_number: int) -> tuple[str, list[Any]]:
        """Write them as SQL, the first argument being ``$argument_number``."""
        calendar = "(SELECT id FROM calendar WHERE name = {0})"
        written = {
            "order_id = {0}": self.order,
            "type = {0}": self.type,
            f"({calendar} IN (calendar_id, previous_calendar_id))": self.calendar,
        }
        given = [(sql, value) for sql, value in written.items() if value is not None]
        sql = "".join(f" AND {one.format(f'${argument_number + n}')}" for n, (one, _) in enumerate(given))
        return sql, [value for _, value in given]


@dataclass(frozen=True)
class FeedPage:
    """Changes that match, and the position up to which there are no others than these and earlier ones."""

    changes: Sequence[Change]
    through: int


async def feed_page(filters: ChangeFilters, after: int, limit: int) -> FeedPage:
    """Read a page of the feed.

    A page with ``limit`` changes ends at the last of them; any other has looked through the log up to
    ``through``, so that whoever filters goes on behind what did not match.

    Raises:
        PositionNotInLogError: the log has not everything after that position.

    """
    enough = time.monotonic() + LOOKING_SECONDS
    through = after
    while True:
        changes, bounds = await _look(filters, through, limit)
        check_position(through, bounds)
        if len(changes) == limit:
            return FeedPage(changes, changes[-1].position)
        through = min(through + POSITIONS_AT_ONCE, bounds.last)
        if changes or through == bounds.last or time.monotonic() > enough:
            return FeedPage(changes, through)


async def _look(
    filters: ChangeFilters, after: int, limit: int, positions: int = POSITIONS_AT_ONCE
) -> tuple[list[Change], Bounds]:
    # One statement, so one snapshot: what is not found was not there, and was not removed in between.
    conditions, arguments = filters.conditions(4)
    found = await rows(
        f"""
        SELECT l.first_position AS log_first, l.last_position AS log_last, c.*
        FROM change_log AS l LEFT JOIN LATERAL (
            SELECT {CHANGE} FROM order_change
            WHERE position > $1 AND position <= least($1 + $2::bigint, l.last_position){conditions}
            ORDER BY position LIMIT $3
        ) AS c ON true
        WHERE l.id = 1 ORDER BY c.position
        """,
        after,
        positions,
        limit,
        *arguments,
    )
    changes = []
    bounds = Bounds(1, 0)
    for one in map(dict, found):
        bounds = Bounds(one.pop("log_first"), one.pop("log_last"))
        if one["position"] is not None:
            changes.append(Change(**one))
    return changes, bounds


async def order_history(order_id: int, after: int | None, limit: int) -> list[Change]:
    """Read an order's changes behind a position, oldest first; from what is retained of them if it is None.

    Raises:
        OrderNotFoundError: there never was such an order, or nothing of it is left.
        PositionNotInLogError: the log has not everything after that position.

    """
    changes, bounds = await _look(ChangeFilters(order=order_id), after or 0, limit, GREATEST_POSITION)
    if after is not None:
        check_position(after, bounds)
    if not changes and not await _was_there_ever(order_id):
        raise OrderNotFoundError(order_id)
    return changes


async def _was_there_ever(order_id: int) -> bool:
    # An order that was just made has no position yet; of one deleted long ago, no change may be left.
    found = await row(
        """
        SELECT FROM (SELECT $1::bigint AS id) AS asked
        WHERE EXISTS (SELECT FROM orders WHERE orders.id = asked.id)
           OR EXISTS (SELECT FROM order_change WHERE order_id = asked.id)
           OR EXISTS (SELECT FROM claimed_order_id AS claimed WHERE claimed.id = asked.id)
        """,
        order_id,
    )
    return found is not None
