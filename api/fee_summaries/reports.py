"""Reports: orders and fees per period, summed by PostgreSQL at one position, in one statement."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from api.fee_summaries.errors import ReportTooLargeError
from api.fee_summaries.statements import Statement

if TYPE_CHECKING:
    from collections.abc import Sequence

PERIODS = ("day", "week", "month", "quarter", "year")

MAX_FILLED_ITEMS = 200_000
"""Items that a report filled with zeros may have: PostgreSQL makes them all before it returns a page."""

_REPORT = Statement("report.sql")
_CHART = Statement("chart.sql")


class Figures(msgspec.Struct, frozen=True):
    """The sums of a row; without orders they may all be null."""

    orders: int | None
    totalfee: Decimal | None
    minfee: Decimal | None
    maxfee: Decimal | None


class ReportRow(Figures, frozen=True):
    """An item of a report."""

    period: date
    """Its first day."""
    service_id: int
    """0: all services."""
    service: str | None
    """Its name."""
    calendar: str
    """Empty: all calendars."""


class Totals(Figures, frozen=True):
    """The sums of a whole report."""

    filled_items: int | None
    """How many items the filled report has; None: filling was not requested."""


@dataclass(frozen=True)
class ReportQuery:
    """Which report: its days, how it is grouped, and its services and calendars (None: all)."""

    first: date | None = None
    end: date | None = None
    group_by: str = "day"
    by: frozenset[str] = frozenset()
    services: Sequence[int] | None = None
    calendars: Sequence[str] | None = None
    fill: bool = False

    @property
    def has_single_services(self) -> bool:
        """Whether each row is of one service, or of all."""
        return "service" in self.by or self.services is None or len(self.services) == 1

    def statement(
        self, position: int | None, after: tuple[date, int, str] | None, limit: int | None
    ) -> tuple[str, list[Any]]:
        """Return the statement for the items after a place, and its arguments."""
        return _REPORT.sql, self._arguments(_REPORT, position, after, limit, fill=self.fill)

    def chart_statement(self, position: int | None, **limits: int) -> tuple[str, list[Any]]:
        """Return the statement for a chart, and its arguments. No axis has gaps, so ``fill`` has no effect.

        Args:
            position: see ``as_of.sql``.
            limits: see ``chart.sql``.

        """
        return _CHART.sql, self._arguments(_CHART, position, None, None, fill=False, **limits)

    def _arguments(
        self,
        statement: Statement,
        position: int | None,
        after: tuple[date, int, str] | None,
        limit: int | None,
        **more: object,
    ) -> list[Any]:
        after_period, after_service, after_calendar = after or (None, None, None)
        by_service = "service" in self.by
        services = self.services
        if services is None and not by_service:
            services = [0]
        return statement.arguments(
            position=position,
            first=self.first,
            end=self.end,
            group_by=self.group_by,
            by_service=by_service,
            by_calendar="calendar" in self.by,
            services=services,
            calendars=self.calendars,
            after_period=after_period,
            after_service=after_service,
            after_calendar=after_calendar,
            limit=limit,
            max_filled_items=MAX_FILLED_ITEMS,
            **more,
        )

    def check_size(self, totals: Totals) -> None:
        """Check that a report filled with zeros is not too large.

        Raises:
            ReportTooLargeError: it has too many items.

        """
        if totals.filled_items is not None and totals.filled_items > MAX_FILLED_ITEMS:
            raise ReportTooLargeError(totals.filled_items, MAX_FILLED_ITEMS)


def end_of_period(first: date, group_by: str) -> date:
    """Return the first day of the next period."""
    if group_by in ("day", "week"):
        return first + timedelta(days=1 if group_by == "day" else 7)
    months = first.month - 1 + {"month": 1, "quarter": 3, "year": 12}[group_by]
    return date(first.year + months // 12, months % 12 + 1, 1)


def average(totalfee: Decimal, orders: int) -> Decimal:
    """Divide a sum by its orders, rounded half to even to the cent. Nothing else is rounded."""
    cents, rest = divmod(int(totalfee * 100), orders)
    if 2 * rest > orders or (2 * rest == orders and cents % 2):
        cents += 1
    return Decimal(cents).scaleb(-2)


def _figures(sums: Figures, *, is_single: bool) -> dict[str, Any]:
    """Return figures as answers show them; without orders there is no average, minimum or maximum.

    Of several services together (not ``is_single``) only the sum is known: an order that has two of them
    would be counted twice.
    """
    orders, totalfee = sums.orders or 0, sums.totalfee or Decimal("0.00")
    return {
        "orders": orders if is_single else None,
        "totalfee": totalfee,
        "averagefee": average(totalfee, orders) if orders and is_single else None,
        "minfee": sums.minfee if is_single else None,
        "maxfee": sums.maxfee if is_single else None,
    }


def item_figures(query: ReportQuery, row: ReportRow) -> dict[str, Any]:
    """Return the figures of one row."""
    return _figures(row, is_single=query.has_single_services)


def total_figures(query: ReportQuery, totals: Totals) -> dict[str, Any]:
    """Return the figures of the whole report, the same on every page of it."""
    return _figures(totals, is_single=query.services is None or len(query.services) == 1)
