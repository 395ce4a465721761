"""Prove that fee summaries equal the orders: ``oms verify summaries``, and the worker once a day.

Every summary is recomputed from the orders, at the summaries' own position, and compared to the cent, while
orders are written and summaries updated. The result is stored, for ``GET /fee-summaries/proof`` and metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.database.locks import PROOF_LOCK, only_one
from shared.database.statements import execute, fetch_value
from shared.progress import ReportProgress, ignore_progress
from worker.fee_summaries.recount import COUNTED, ORDER_SHARES, CountedRow, OrderChunks, open_snapshot

if TYPE_CHECKING:
    from datetime import date
    from decimal import Decimal


SHOWN_ORDERS = 100
"""The most orders that are listed for one difference."""

_COMPARE = f"""
WITH {ORDER_SHARES}, expected AS (
    SELECT
        day, calendar_id, service_id, share, count(*)::int AS orders,
        (array_agg(order_id ORDER BY order_id))[:{SHOWN_ORDERS}] AS order_ids
    FROM order_share GROUP BY 1, 2, 3, 4
), kept AS (
    SELECT day, calendar_id, service_id, share, orders FROM fee_summary
    WHERE generation = $4 AND day >= $2 AND day < $3
), differing AS (
    SELECT
        day, calendar_id, service_id, share, coalesce(expected.orders, 0) AS expected,
        coalesce(kept.orders, 0) AS kept, coalesce(expected.order_ids, '{{}}') AS order_ids
    FROM expected FULL JOIN kept USING (day, calendar_id, service_id, share)
    WHERE expected.orders IS DISTINCT FROM kept.orders
)
SELECT
    counted, day, coalesce(calendar.name, calendar_id::text) AS calendar, service_id, share, kept, expected,
    order_ids
FROM ({COUNTED}) AS counted
LEFT JOIN differing ON true LEFT JOIN calendar ON calendar.id = differing.calendar_id
ORDER BY day, calendar, service_id, share
"""

_IS_REQUESTED = """
SELECT EXISTS (SELECT FROM fee_summary_proof WHERE finished_at IS NULL OR finished_at < asked_at)
"""

_STORE_PROOF = """
UPDATE fee_summary_proof
SET finished_at = now(), position = $1, orders = $2, differing = $3, seconds = $4 WHERE id = 1
"""


@dataclass(frozen=True)
class Difference:
    """A fee summary that does not match the orders."""

    day: date
    calendar: str
    service_id: int
    """0: whole orders."""
    share: Decimal
    kept: int
    """How many orders the summary counts; 0: it is missing."""
    expected: int
    """How many orders there are; 0: there should be no such summary."""
    order_ids: tuple[int, ...]

    def __str__(self) -> str:
        """Name the summary and its orders, on one line."""
        what = f"service {self.service_id}" if self.service_id else "whole orders"
        more = (
            f" and {self.expected - len(self.order_ids)} more" if self.expected > len(self.order_ids) else ""
        )
        orders = f"{', '.join(map(str, self.order_ids))}{more}" if self.order_ids else "none"
        return (
            f"{self.day} calendar {self.calendar}, {what} at {self.share}: the summary counts "
            f"{self.kept} orders ({self.kept * self.share}), there are {self.expected} "
            f"({self.expected * self.share}): {orders}"
        )


@dataclass(frozen=True)
class CursorBeyondLog:
    """The cursor is past the end of the change log: the next changes would be dropped as repeats."""

    cursor: int
    last: int

    def __str__(self) -> str:
        """Describe it on one line."""
        return f"the summaries' cursor is at position {self.cursor}, and the change log ends at {self.last}"


Report = Callable[[Difference | CursorBeyondLog], None]
"""Called with each difference."""


@dataclass(frozen=True)
class Proof:
    """The result of a proof."""

    position: int
    """The position that the summaries were exact for, or should have been."""
    orders: int
    """How many orders were recounted."""
    differing: int
    """How many summaries do not match the orders; a cursor beyond the log counts as one."""
    seconds: float


class _ComparedRow(CountedRow, frozen=True):
    """A difference; or the only row of days without any: then ``day`` and all fields after it are null."""

    day: date | None
    calendar: str
    service_id: int
    share: Decimal
    kept: int
    expected: int
    order_ids: list[int]

    def difference(self) -> Difference | None:
        if self.day is None:
            return None
        return Difference(
            self.day,
            self.calendar,
            self.service_id,
            self.share,
            self.kept,
            self.expected,
            tuple(self.order_ids),
        )


def _ignore(_difference: Difference | CursorBeyondLog) -> None:
    pass


async def prove(progress: ReportProgress = ignore_progress, report: Report = _ignore) -> Proof:
    """Compare every fee summary with the orders, in one snapshot, and store the result."""
    began = time.monotonic()
    differing = 0
    async with open_snapshot() as snapshot:
        if snapshot.cursor > snapshot.position:
            differing += 1
            report(CursorBeyondLog(snapshot.cursor, snapshot.position))
        chunks = OrderChunks(snapshot, progress)
        async for compared in chunks.fetch(_ComparedRow, _COMPARE, snapshot.generation.number):
            for row in compared:
                if (difference := row.difference()) is not None:
                    differing += 1
                    report(difference)
    proof = Proof(snapshot.position, chunks.counted, differing, time.monotonic() - began)
    await execute(_STORE_PROOF, proof.position, proof.orders, proof.differing, proof.seconds)
    return proof


async def prove_if_requested(report: Report) -> Proof | None:
    """Prove, unless a proof is running or was finished since the last request; then return None.

    Requests pile up while the worker is down. If all of them ran at once, their proofs would occupy every
    child process, and the consumers would have to wait.
    """
    async with only_one(PROOF_LOCK) as is_locked:
        if is_locked and await fetch_value(bool, _IS_REQUESTED):
            return await prove(report=report)
    return None
