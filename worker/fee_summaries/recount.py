"""Recounting fee summaries from the orders: as of one position, a few days at a time.

One snapshot shows orders, changes and summaries at the same moment. The orders are ahead of the summaries by
the changes that are not applied yet. These changes are undone: an order that one of them changed counts as it
was before the first of them. The result must equal the summaries, to the cent.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, TypeVar

import msgspec

from shared.change_log import FEE_SUMMARIES, cursor_of
from shared.database.statements import execute, fetch_all, fetch_one, fetch_values
from shared.database.transaction import lift_time_limit, transaction
from shared.progress import Progress, ReportProgress
from worker.fee_summaries.consumer import Generation, current_generation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


FIRST_CHUNK_ORDERS = 1_000
"""Orders in the first chunk; the later ones are as large as ``CHUNK_SECONDS`` allows."""

CHUNK_SECONDS = 0.5
"""How long one chunk should take: short, so that progress is shown often and no statement runs long."""

# Changes that the snapshot's summaries don't include yet. Each order's first one has its state before them.
_CREATE_LATER_CHANGES = """
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

_CREATE_EARLIER_EFFECTS = """
CREATE TEMP TABLE earlier_effect (
    order_id bigint, day date, calendar_id int, service_id bigint, share numeric
) ON COMMIT DROP
"""

_FILL_EARLIER_EFFECTS = """
INSERT INTO earlier_effect
SELECT later.order_id, e.day, c.id, e.service_id, e.share
FROM later_change AS later CROSS JOIN LATERAL fee_effects(later.previous_state, $1) AS e
JOIN calendar AS c ON c.name = e.calendar
WHERE later.previous_state IS NOT NULL
"""

_EXTENT = """
SELECT
    (SELECT count(*) FROM orders) - (SELECT count(*) FROM orders WHERE status = 'cancelled') AS orders,
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
"""

# Local midnight may occur twice or not at all on a day when clocks change. So the range that uses the index
# is one day longer on each side, and then the local day itself is compared.
ORDER_SHARES = """
order_share AS (
    SELECT o.id AS order_id, (o.datetime AT TIME ZONE $1)::date AS day, o.calendar_id, s.service_id, s.share
    FROM orders AS o CROSS JOIN LATERAL fee_shares(o.totalfee, o.service_ids) AS s
    WHERE o.datetime >= ($2::date - 1)::timestamptz AND o.datetime < ($3::date + 1)::timestamptz
        AND (o.datetime AT TIME ZONE $1)::date >= $2 AND (o.datetime AT TIME ZONE $1)::date < $3
        AND o.status = 'booked'
        AND NOT EXISTS (SELECT FROM later_change AS later WHERE later.order_id = o.id)
    UNION ALL
    SELECT order_id, day, calendar_id, service_id, share FROM earlier_effect WHERE day >= $2 AND day < $3
)
"""
"""What each order adds to each summary of the days from $2 until before $3, in the zone $1."""

EXPECTED_SUMMARIES = f"""
{ORDER_SHARES}, expected AS (
    SELECT day, calendar_id, service_id, share, count(*)::int AS orders FROM order_share GROUP BY 1, 2, 3, 4
)
"""
"""The summaries that these days must have."""

COUNTED = "SELECT coalesce(sum(orders), 0) AS counted FROM expected WHERE service_id = 0"
"""How many orders these days have: one ``CountedRow``."""

# Days have very different numbers of orders: none for years, then thousands a week. So a chunk is a number of
# orders, to the end of the last one's day. Exactly where its first day begins does not matter here.
_LAST_DAY_OF_CHUNK = """
SELECT (datetime AT TIME ZONE $1)::date AS day FROM orders
WHERE datetime >= $2::date::timestamp AT TIME ZONE $1
ORDER BY datetime, id OFFSET $3::bigint LIMIT 1
"""


@dataclass(frozen=True)
class Snapshot:
    """The database at one moment: the position of its fee summaries, and what there is to count."""

    position: int
    cursor: int
    """The same as ``position``, unless the cursor is damaged and beyond the end of the change log."""
    generation: Generation
    time_zone: str
    """The zone to count in: the summaries' own, or another that they are rebuilt for."""
    orders: int
    first: date | None
    """The first day that has an order or a summary; None: no day has."""
    last: date | None


class _Extent(msgspec.Struct, frozen=True):
    orders: int
    first: date | None
    last: date | None


@asynccontextmanager
async def open_snapshot(time_zone: str | None = None) -> AsyncIterator[Snapshot]:
    """Open a transaction with one snapshot, prepared for ``ORDER_SHARES`` and ``EXPECTED_SUMMARIES``."""
    async with transaction("repeatable_read"):
        # Each chunk limits its own statement; the transaction as a whole has no time limit.
        await lift_time_limit()
        await execute(_CREATE_LATER_CHANGES)
        cursor = await cursor_of(FEE_SUMMARIES)
        generation = await current_generation()
        zone = time_zone or generation.time_zone
        await execute("CREATE UNIQUE INDEX ON later_change (order_id)")
        await execute(_CREATE_EARLIER_EFFECTS)
        await execute(_FILL_EARLIER_EFFECTS, zone)
        await execute("CREATE INDEX ON earlier_effect (day)")
        await execute("ANALYZE later_change, earlier_effect")
        extent = await fetch_one(_Extent, _EXTENT, zone, generation.number)
        yield Snapshot(
            min(cursor), cursor.position, generation, zone, extent.orders, extent.first, extent.last
        )


class CountedRow(msgspec.Struct, frozen=True):
    """A row of a statement that recounts the orders of some days."""

    counted: int
    """How many orders these days have: the same in every row of the statement."""


CountedT = TypeVar("CountedT", bound=CountedRow)


@dataclass
class OrderChunks:
    """Runs a statement over a snapshot's days, a few at a time: as many orders as fit ``CHUNK_SECONDS``."""

    snapshot: Snapshot
    progress: ReportProgress
    counted: int = 0

    async def fetch(
        self, row_type: type[CountedT], statement: str, *more: object
    ) -> AsyncIterator[list[CountedT]]:
        """Run a statement for each chunk and yield its rows.

        Args:
            row_type: the type of the rows.
            statement: returns at least one row. Its arguments are the zone, the first day of the chunk, the
                day after its last one, and ``more``.
            more: further arguments.

        """
        zone, first, last = self.snapshot.time_zone, self.snapshot.first, self.snapshot.last
        orders = FIRST_CHUNK_ORDERS
        while first is not None and last is not None and first <= last:
            began = time.monotonic()
            last_days = await fetch_values(date, _LAST_DAY_OF_CHUNK, zone, first, orders)
            end = (min(max(last_days[0], first), last) if last_days else last) + timedelta(days=1)
            rows = await fetch_all(row_type, statement, zone, first, end, *more)
            self.counted += rows[0].counted
            self.progress(Progress(self.counted, self.snapshot.orders))
            yield rows
            took = time.monotonic() - began
            if took < CHUNK_SECONDS / 2:
                orders *= 2
            elif took > CHUNK_SECONDS * 2:
                orders = max(orders // 2, 1)
            first = end
