"""Reading figures: a page of a report, and of the orders behind one, with what they are exact for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.fee_summaries.counted_orders import CountedOrder, CountedOrdersQuery
from api.fee_summaries.positions import ReadAsOf
from api.fee_summaries.reports import ReportQuery, ReportRow, Totals
from shared.database.engine import DB
from shared.database.statements import read_row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime


@dataclass(frozen=True)
class ReportPage:
    """The rows of a page, and the totals of the whole report."""

    as_of: ReadAsOf
    totals: Totals
    rows: Sequence[ReportRow]


@dataclass(frozen=True)
class CountedOrdersPage:
    """The orders of a page."""

    as_of: ReadAsOf
    orders: Sequence[CountedOrder]


async def read_report(
    query: ReportQuery, position: int | None, after: tuple[date, int, str] | None, limit: int
) -> ReportPage:
    """Read up to ``limit`` rows after a place, at a position; None: at the current one."""
    statement, arguments = query.statement(position, after, limit)
    first, *others = await DB.fetch(statement, *arguments)
    rows = [read_row(ReportRow, record) for record in others]
    return ReportPage(read_row(ReadAsOf, first), read_row(Totals, first), rows)


async def read_counted_orders(
    query: CountedOrdersQuery, position: int | None, after: tuple[datetime, int] | None, limit: int
) -> CountedOrdersPage:
    """Read up to ``limit`` orders after a place, at a position; None: at the current one."""
    statement, arguments = query.statement(position, after, limit)
    records = await DB.fetch(statement, *arguments)
    # Without orders there is still one record: it has what the list is exact for.
    orders = [read_row(CountedOrder, record) for record in records if record["id"] is not None]
    return CountedOrdersPage(read_row(ReadAsOf, records[0]), orders)
