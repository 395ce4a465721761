"""Counting fee summaries again, from the orders: at the state of one position, days after days.

One snapshot shows orders, changes and summaries as they were at one moment. Orders are ahead of the
summaries there, by the changes that are not applied yet; these are taken back: an order that one of them
touched counts as its first such change found it. What remains must be the summaries, to the cent.
"""

from __future__ import annotations

import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from shared.change_log import FEE_SUMMARIES, cursor_of
from shared.database.rows import row, rows
from shared.database.transaction import transaction
from worker.fee_summaries.consumer import Generation, current_generation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

FIRST_STRIDE = 1_000
"""Orders that are counted at once to begin with; afterwards as many as fit into the aim."""

AIM_SECONDS = 0.5
"""How long one stride should take: progress is seen to move, and a statement stays small."""

# Changes that the snapshot's summaries don't have. Each order's first one says what the order was.
_LATER = """
CREATE TEMP TABLE later_change ON COMMIT DROP AS
SELECT DISTINCT ON (order_id) order_id, previous_state
FROM (
    SELECT order_id, order_version, previous_state FROM order_change
    WHERE position > (SELECT position FROM consumer_cursor WHERE consumer = 'fee_summaries')
    UNION ALL
    SELECT order_id, order_version, previous_state FROM order_change WHERE position IS NULL
) AS change
ORDER BY order_id, order_version
"""
_EARLIER_EFFECTS = """
INSERT INTO earlier_effect
SELECT later.order_id, e.day, c.id, e.service_id, e.share
FROM later_change AS later CROSS JOIN LATERAL fee_effects(later.previous_state, $1) AS e
JOIN calendar AS c ON c.name = e.calendar
WHERE later.previous_state IS NOT NULL
"""

# Local midnight may come twice or never on a day that clocks change, so the index finds the orders of a day
# too many on each side, and the day itself decides.
PARTS = """
part AS (
    SELECT o.id AS order_id, (o.datetime AT TIME ZONE $1)::date AS day, o.calendar_id, s.service_id, s.share
    FROM orders AS o CROSS JOIN LATERAL fee_shares(o.totalfee, o.service_ids) AS s
    WHERE o.datetime >= ($2::date - 1)::timestamptz AND o.datetime < ($3::date + 1)::timestamptz
        AND (o.datetime AT TIME ZONE $1)::date >= $2 AND (o.datetime AT TIME ZONE $1)::date < $3
        AND NOT EXISTS (SELECT FROM later_change AS later WHERE later.order_id = o.id)
    UNION ALL
    SELECT order_id, day, calendar_id, service_id, share FROM earlier_effect WHERE day >= $2 AND day < $3
)
"""
"""What each order brings to each row of the days from $2 until before $3, in the zone $1."""

EXPECTED = f"""
{PARTS}, expected AS (
    SELECT day, calendar_id, service_id, share, count(*)::int AS orders FROM part GROUP BY 1, 2, 3, 4
)
"""
"""What the rows of these days must be."""

# Orders lie unevenly over days: years of nothing, then thousands a week. So a stride is so many orders, to
# the end of the last one's day. Where exactly its first day begins matters little here.
_END_OF_STRIDE = """
SELECT (datetime AT TIME ZONE $1)::date AS day FROM orders
WHERE datetime >= $2::date::timestamp AT TIME ZONE $1
ORDER BY datetime, id OFFSET $3::bigint LIMIT 1
"""


@dataclass(frozen=True)
class Snapshot:
    """One moment: the position that its summaries are exact for, and what there is to count."""

    position: int
    cursor: int
    """The same, unless somebody damaged it: no position behind the end of the change log is one."""
    generation: Generation
    time_zone: str
    """The zone to count in: the summaries' own, or another that they are rebuilt for."""
    orders: int
    first: date | None
    """The first day that has an order or a row; None: there is none."""
    last: date | None


@asynccontextmanager
async def one_snapshot(time_zone: str | None = None) -> AsyncIterator[Snapshot]:
    """Open a transaction that sees one moment, prepared for ``EXPECTED``."""
    async with transaction("repeatable_read"):
        # However long it takes in all: what runs here is bounded by its strides.
        await rows("SET LOCAL statement_timeout = 0")
        await rows(_LATER)
        cursor = await cursor_of(FEE_SUMMARIES)
        generation = await current_generation()
        zone = time_zone or generation.time_zone
        await rows("CREATE UNIQUE INDEX ON later_change (order_id)")
        await rows(
            "CREATE TEMP TABLE earlier_effect (order_id bigint, day date, calendar_id int, "
            "service_id bigint, share numeric) ON COMMIT DROP"
        )
        await rows(_EARLIER_EFFECTS, zone)
        await rows("CREATE INDEX ON earlier_effect (day)")
        await rows("ANALYZE later_change, earlier_effect")
        extent = await row(
            """
            SELECT
                (SELECT count(*) FROM orders) AS orders,
                least(
                    (SELECT min(datetime) AT TIME ZONE $1 FROM orders)::date,
                    (SELECT min(day) FROM earlier_effect),
                    (SELECT min(day) FROM fee_summary WHERE generation = $2)
                ) AS first,
                greatest(
                    (SELECT max(datetime) AT TIME ZONE $1 FROM orders)::date,
                    (SELECT max(day) FROM earlier_effect),
                    (SELECT max(day) FROM fee_summary WHERE generation = $2)
                ) AS last
            """,
            zone,
            generation.number,
        )
        yield Snapshot(min(cursor), cursor.position, generation, zone, **(extent or {}))


@dataclass
class Strides:
    """Walks over a snapshot's days, as many orders at once as fit into the aim, and tells how far it is."""

    snapshot: Snapshot
    progress: Callable[[int, int], None]
    counted: int = 0

    async def each(self, statement: str, *more: object) -> AsyncIterator[list[dict[str, Any]]]:
        """Run a statement for each stride and give its rows; the first says what was ``counted``."""
        zone, first, last = self.snapshot.time_zone, self.snapshot.first, self.snapshot.last
        orders = FIRST_STRIDE
        while first is not None and last is not None and first <= last:
            begun = time.monotonic()
            found_end = await row(_END_OF_STRIDE, zone, first, orders)
            end = (min(max(found_end["day"], first), last) if found_end else last) + timedelta(days=1)
            found = await rows(statement, zone, first, end, *more)
            self.counted += int(found[0]["counted"] or 0)
            self.progress(self.counted, self.snapshot.orders)
            yield found
            took = time.monotonic() - begun
            if took < AIM_SECONDS / 2:
                orders *= 2
            elif took > AIM_SECONDS * 2:
                orders = max(orders // 2, 1)
            first = end


class Progress:
    """A line on standard error each second at most: a long run is seen to move, and a short one is silent."""

    def __init__(self, what: str, pause: float = 1) -> None:
        self._what = what
        self._pause = pause
        self._begun = self._said = time.monotonic()

    def __call__(self, counted: int, total: int) -> None:
        """Tell how many of how many orders are counted."""
        now = time.monotonic()
        if now - self._said < self._pause or counted == 0:
            return
        self._said = now
        left = (now - self._begun) / counted * max(0, total - counted)
        self._say(f"{counted:,} of {total:,} orders, about {left:.0f} s left")

    def note(self, text: str) -> None:
        """Tell what else is done, if it has taken long enough for anybody to wonder."""
        if time.monotonic() - self._begun >= self._pause:
            self._say(text)

    def _say(self, text: str) -> None:
        sys.stderr.write(f"{self._what}: {text}\n")
        sys.stderr.flush()
