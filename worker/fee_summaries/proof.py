"""Prove that fee summaries equal the orders: ``python -m worker.fee_summaries.proof``, ``make verify``.

Every summary is computed again from the orders, at the summaries' own position, and compared to the cent,
while orders are written and summed. Exit status 0: all are equal; 1: some differ, and each is named with the
orders behind it; 2: it could not be done. The result is kept, for ``GET /fee-summaries/proof`` and metrics.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from shared.database.engine import DB, DatabaseUnavailableError
from shared.database.locks import PROOF_LOCK, only_one
from shared.database.rows import row, rows
from worker.fee_summaries.recount import PARTS, Progress, Strides, one_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date
    from decimal import Decimal


SHOWN_ORDERS = 100
"""Orders that are named behind one row."""

_DIFFERING = f"""
WITH {PARTS}, expected AS (
    SELECT
        day, calendar_id, service_id, share, count(*)::int AS orders,
        (array_agg(order_id ORDER BY order_id))[:{SHOWN_ORDERS}] AS order_ids
    FROM part GROUP BY 1, 2, 3, 4
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
SELECT counted.counted, differing.*, coalesce(calendar.name, calendar_id::text) AS calendar
FROM (SELECT sum(orders) AS counted FROM expected WHERE service_id = 0) AS counted
LEFT JOIN differing ON true LEFT JOIN calendar ON calendar.id = differing.calendar_id
ORDER BY day, calendar, service_id, share
"""


@dataclass(frozen=True)
class Difference:
    """A row that is not what the orders say."""

    day: date
    calendar: str
    service_id: int
    """0: whole orders."""
    share: Decimal
    kept: int
    """How many orders the row says; 0: it is missing."""
    expected: int
    """How many orders there are; 0: the row should not be there."""
    order_ids: tuple[int, ...]

    def __str__(self) -> str:
        """Name the row and the orders behind it, on one line."""
        what = f"service {self.service_id}" if self.service_id else "whole orders"
        more = (
            f" and {self.expected - len(self.order_ids)} more" if self.expected > len(self.order_ids) else ""
        )
        orders = f"{', '.join(map(str, self.order_ids))}{more}" if self.order_ids else "none"
        return (
            f"{self.day} calendar {self.calendar}, {what} at {self.share}: the summary says "
            f"{self.kept} orders ({self.kept * self.share}), there are {self.expected} "
            f"({self.expected * self.share}): {orders}"
        )


@dataclass(frozen=True)
class CursorBeyondLog:
    """The summaries claim changes that nobody made; the next ones would be taken for repeats."""

    cursor: int
    last: int

    def __str__(self) -> str:
        """Say it on one line."""
        return f"the summaries' cursor is at position {self.cursor}, and the change log ends at {self.last}"


@dataclass(frozen=True)
class Proof:
    """What a proof found."""

    position: int
    """The position that the summaries were exact for, or should have been."""
    orders: int
    """How many orders were counted again."""
    differing: int
    """How many rows are not what the orders say; a cursor that can't be right counts as one."""
    seconds: float


async def prove(
    progress: Callable[[int, int], None] = lambda _counted, _total: None,
    report: Callable[[Difference | CursorBeyondLog], None] = lambda _difference: None,
) -> Proof:
    """Compare every fee summary with the orders, in one snapshot, and keep the result."""
    begun = time.monotonic()
    differing = 0
    async with one_snapshot() as snapshot:
        if snapshot.cursor > snapshot.position:
            differing += 1
            report(CursorBeyondLog(snapshot.cursor, snapshot.position))
        strides = Strides(snapshot, progress)
        async for found in strides.each(_DIFFERING, snapshot.generation.number):
            for one in found:
                if one["day"] is None:
                    continue
                differing += 1
                report(
                    Difference(
                        one["day"],
                        one["calendar"],
                        one["service_id"],
                        one["share"],
                        one["kept"],
                        one["expected"],
                        tuple(one["order_ids"]),
                    )
                )
    proof = Proof(snapshot.position, strides.counted, differing, time.monotonic() - begun)
    await rows(
        """
        UPDATE fee_summary_proof
        SET finished_at = now(), position = $1, orders = $2, differing = $3, seconds = $4 WHERE id = 1
        """,
        proof.position,
        proof.orders,
        proof.differing,
        proof.seconds,
    )
    return proof


async def prove_if_asked(report: Callable[[Difference | CursorBeyondLog], None]) -> Proof | None:
    """Prove, unless that is being done, or was done since it was last asked for; then give None.

    Requests pile up while the worker is away. All at once, their proofs would keep every child from summing.
    """
    async with only_one(PROOF_LOCK) as alone:
        asked = "SELECT FROM fee_summary_proof WHERE finished_at IS NULL OR finished_at < asked_at"
        if alone and await row(asked) is not None:
            return await prove(report=report)
    return None


async def _run() -> Proof:
    await DB.start(size=1)
    try:
        return await prove(
            Progress("verify"),
            lambda difference: print(difference, flush=True),  # noqa: T201 (a command prints)
        )
    finally:
        await DB.stop()


def main() -> int:
    """Run from the command line."""
    try:
        proof = asyncio.run(_run())
    except (DatabaseUnavailableError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        sys.stderr.write(f"verify: nothing was proved: {error}\n")
        return 2
    found = f"{proof.orders:,} orders at position {proof.position:,}, in {proof.seconds:.1f} s"
    if proof.differing:
        sys.stderr.write(
            f"verify: {proof.differing:,} fee summaries are not what the orders say ({found}); "
            "`make rebuild` makes them anew\n"
        )
        return 1
    print(f"every fee summary is what the orders say, to the cent: {found}")  # noqa: T201 (a command prints)
    return 0


if __name__ == "__main__":
    sys.exit(main())
