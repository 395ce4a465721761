"""Fee summaries in plain Python: the report that a set of orders must have. Slow and obvious."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from tests.model import fee_shares

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CENT = Decimal("0.01")


@dataclass(frozen=True)
class CountedOrder:
    """The parts of an order that summaries depend on."""

    id: int
    at: datetime
    fee: Decimal
    services: tuple[int, ...]
    calendar: str


@dataclass(frozen=True)
class Query:
    """The parameters of a report."""

    group_by: str = "day"
    by: tuple[str, ...] = ()
    services: tuple[int, ...] = ()
    calendars: tuple[str, ...] = ()
    first: date | None = None
    end: date | None = None
    fill: bool = False

    def parameters(self) -> list[tuple[str, str]]:
        """Return it as query parameters."""
        return [
            ("group_by", self.group_by),
            *(("by", by) for by in self.by),
            *(("service", str(service)) for service in self.services),
            *(("calendar", calendar) for calendar in self.calendars),
            *([("from", self.first.isoformat())] if self.first else []),
            *([("to", self.end.isoformat())] if self.end else []),
            *([("fill", "zero")] if self.fill else []),
        ]


Row = tuple[str, str | None, str | None]
Figures = tuple[int | None, Decimal, Decimal | None, Decimal | None, Decimal | None]


def period_of(day: date, group_by: str) -> date:
    """Return the first day of the period that contains a day."""
    match group_by:
        case "week":
            return date.fromisocalendar(*day.isocalendar()[:2], 1)
        case "month":
            return day.replace(day=1)
        case "quarter":
            return date(day.year, (day.month - 1) // 3 * 3 + 1, 1)
        case "year":
            return date(day.year, 1, 1)
        case _:
            return day


def _average(total: Decimal, orders: int) -> Decimal:
    cents = round(Fraction(total) * 100 / orders)  # half to even
    exact = Decimal(cents) / 100
    assert exact == (total / orders).quantize(CENT, ROUND_HALF_EVEN)
    return exact


def _figures(fees: Iterable[Decimal], *, apart: bool) -> Figures:
    every_fee = list(fees)
    total = sum(every_fee, Decimal("0.00"))
    if not apart:
        return (None, total, None, None, None)
    if not every_fee:
        return (0, total, None, None, None)
    return (len(every_fee), total, _average(total, len(every_fee)), min(every_fee), max(every_fee))


def _counted(
    orders: Iterable[CountedOrder], query: Query, zone: str
) -> Iterator[tuple[CountedOrder, date, dict[int, Decimal]]]:
    for order in orders:
        day = order.at.astimezone(ZoneInfo(zone)).date()
        shares = fee_shares(order.fee, order.services)
        chosen = {s: share for s, share in shares.items() if not query.services or s in query.services}
        if (
            chosen
            and (not query.calendars or order.calendar in query.calendars)
            and (query.first is None or query.first <= day)
            and (query.end is None or day < query.end)
        ):
            yield order, day, chosen


Parts = dict[tuple[date, int, str], list[Decimal]]


def _fill(parts: Parts, query: Query) -> None:
    if not (query.fill and query.first and query.end):
        return
    series = {(service, calendar) for _, service, calendar in parts}
    named_services = query.services if "service" in query.by else (0,)
    named_calendars = query.calendars if "calendar" in query.by else ("",)
    series |= {(service, calendar) for service in named_services for calendar in named_calendars}
    days = (query.end - query.first).days
    for period in {period_of(query.first + timedelta(days=n), query.group_by) for n in range(days)}:
        for service, calendar in series:
            parts[period, service, calendar] += []


def report(
    orders: Iterable[CountedOrder], query: Query, zone: str = "UTC"
) -> tuple[dict[Row, Figures], Figures]:
    """Return a report's rows by period, service and calendar, and its totals."""
    parts: Parts = defaultdict(list)
    whole: list[Decimal] = []
    for order, day, chosen in _counted(orders, query, zone):
        period = period_of(day, query.group_by)
        calendar = order.calendar if "calendar" in query.by else ""
        for service, share in chosen.items():
            if "service" in query.by:
                parts[period, service, calendar].append(share)
            elif query.services:
                parts[period, 0, calendar].append(share)
            if query.services:
                whole.append(share)
        if not query.services:
            whole.append(order.fee)
            if "service" not in query.by:
                parts[period, 0, calendar].append(order.fee)
    _fill(parts, query)
    apart = "service" in query.by or len(query.services) < 2
    rows: dict[Row, Figures] = {}
    for period, service, calendar in sorted(parts):
        name = (period.isoformat(), str(service) if service else None, calendar or None)
        rows[name] = _figures(parts[period, service, calendar], apart=apart)
    return rows, _figures(whole, apart=len(query.services) < 2)


def counted_orders(
    orders: Iterable[CountedOrder], query: Query, zone: str = "UTC"
) -> list[tuple[str, Decimal]]:
    """Return the orders of a report and what each adds to it, in the order of the list."""
    counted = sorted(_counted(orders, query, zone), key=lambda one: (one[0].at, one[0].id))
    return [(str(order.id), sum(chosen.values(), Decimal(0))) for order, _, chosen in counted]


def shown_figures(item: dict[str, Any]) -> Figures:
    """Return the figures of a row of an answer that was read with exact numbers."""
    return (item["orders"], item["totalfee"], item["averagefee"], item["minfee"], item["maxfee"])


def shown_row(item: dict[str, Any]) -> Row:
    """Return the period, service and calendar of a row of an answer."""
    return (item["period"], item["service"] and item["service"]["id"], item["calendar"])
