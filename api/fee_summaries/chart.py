"""A whole report as a picture, with the figures of the JSON answer and the position that it is exact for."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec

from api.fee_summaries.positions import ReadAsOf
from api.fee_summaries.reports import Totals, end_of_period, total_figures
from api.pictures.bar_chart import MOST_PARTS, MOST_PERIODS, MOST_SERIES, BarChart, Series, draw
from shared.database.engine import DB
from shared.database.statements import read_row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from api.fee_summaries.figures_request import FiguresRequest
    from api.fee_summaries.positions import AsOf
    from api.fee_summaries.reports import ReportQuery


class _Axis(msgspec.Struct, frozen=True):
    """The periods that are drawn, and what is left out before them; None without orders."""

    first: date | None
    last: date | None
    is_cut: bool
    left_out_first: date | None
    left_out_totalfee: Decimal | None
    all_series: int


class _Part(msgspec.Struct, frozen=True):
    """A part of a bar."""

    period: date
    series: int
    """From 0, the largest; ``MOST_SERIES``: all others together, without service and calendar."""
    service_id: int | None
    service: str | None
    calendar: str | None
    totalfee: Decimal


@dataclass(frozen=True)
class ReportChart:
    """What is drawn of a report."""

    query: ReportQuery
    as_of: AsOf
    totals: Totals
    axis: _Axis
    parts: Sequence[_Part]


async def draw_report(query: ReportQuery, figures: FiguresRequest[Any]) -> bytes:
    """Read a whole report and return its picture.

    Raises:
        ReportExpiredError: there are no figures for the position any more.

    """
    statement, arguments = query.chart_statement(
        figures.position, most_periods=MOST_PERIODS, most_parts=MOST_PARTS, most_series=MOST_SERIES
    )
    records = await DB.fetch(statement, *arguments)
    as_of = read_row(ReadAsOf, records[0])
    figures.check(as_of)
    report = ReportChart(
        query,
        as_of,
        _read_totals(records[0]),
        read_row(_Axis, records[0]),
        [read_row(_Part, record) for record in records if record["period"] is not None],
    )
    # It takes up to 0.1 s, in which other requests are answered.
    return await asyncio.to_thread(_draw, report)


def _read_totals(record: Mapping[str, Any]) -> Totals:
    return Totals(
        orders=record["all_orders"],
        totalfee=record["all_totalfee"],
        minfee=record["minfee"],
        maxfee=record["maxfee"],
        filled_items=None,
    )


def _draw(report: ReportChart) -> bytes:
    query, as_of = report.query, report.as_of
    at = as_of.moved_at.astimezone(ZoneInfo(as_of.time_zone))
    periods = _periods(report)
    chart = BarChart(
        heading=f"Fees per {query.group_by}, {_range_text(report)}",
        details=[_totals_text(report), *_filter_text(query)],
        periods=[_name(period, query.group_by) for period in periods],
        series=_series(report),
        notes=[
            *_left_out_text(report),
            f"Exact for position {as_of.position}, as of {at:%Y-%m-%d %H:%M:%S} ({as_of.time_zone})",
        ],
        empty="No orders in this range" if not report.totals.orders else "No fees in this range",
        data={"position": as_of.position, "time_zone": as_of.time_zone},
    )
    return draw(chart)


def _periods(report: ReportChart) -> list[date]:
    """Return all periods of the axis, also those without orders."""
    periods = []
    period, last = report.axis.first, report.axis.last
    while period is not None and last is not None and period <= last:
        periods.append(period)
        period = end_of_period(period, report.query.group_by)
    return periods


def _name(period: date, group_by: str) -> str:
    match group_by:
        case "month":
            return f"{period:%Y-%m}"
        case "quarter":
            return f"{period.year} Q{(period.month + 2) // 3}"
        case "year":
            return f"{period.year}"
        case _:
            return period.isoformat()


def _range_text(report: ReportChart) -> str:
    """Return the days of the report; what the request leaves open is where the axis begins and ends."""
    query, axis = report.query, report.axis
    first = query.first or axis.left_out_first or axis.first
    end = query.end or (end_of_period(axis.last, query.group_by) if axis.last else None)
    if first is None and end is None:
        return "all days"
    if end is None:
        return f"from {first} on"
    last = end - timedelta(days=1)
    if first == last:
        return str(first)
    return f"{first} to {last}" if first else f"until {last}"


def _totals_text(report: ReportChart) -> str:
    figures = total_figures(report.query, report.totals)
    words = [f"Total {figures['totalfee']:,.2f}"]
    if figures["orders"] is not None:
        words.append(f"{figures['orders']:,} order{'' if figures['orders'] == 1 else 's'}")
    for name, word in (("averagefee", "average"), ("minfee", "lowest"), ("maxfee", "highest")):
        if figures[name] is not None:
            words.append(f"{word} {figures[name]:,.2f}")
    return " · ".join(words)


def _filter_text(query: ReportQuery) -> list[str]:
    filters = []
    for word, values in (("service", query.services), ("calendar", query.calendars)):
        if values:
            filters.append(f"{word}{'' if len(values) == 1 else 's'} {', '.join(map(str, values))}")
    return [f"Only {' and '.join(filters)}"] if filters else []


def _left_out_text(report: ReportChart) -> list[str]:
    axis, query = report.axis, report.query
    if not axis.is_cut or axis.first is None or axis.last is None:
        return []
    shown = f"Shown: {_name(axis.first, query.group_by)} to {_name(axis.last, query.group_by)}"
    if axis.left_out_first is None:
        return [f"{shown}. The {query.group_by}s before and after have no orders."]
    left_out = f"from {_name(axis.left_out_first, query.group_by)} to the {query.group_by} before"
    return [f"{shown}. Left out: {left_out}, {axis.left_out_totalfee:,.2f} in all."]


def _series(report: ReportChart) -> list[Series]:
    by_number: dict[int, list[_Part]] = {}
    for part in report.parts:
        by_number.setdefault(part.series, []).append(part)
    services = Counter(
        name for name, _ in {(parts[0].service, parts[0].service_id) for parts in by_number.values()}
    )
    series = []
    for number, parts in sorted(by_number.items()):
        name = _series_name(parts[0], is_name_shared=services[parts[0].service] > 1)
        is_others = number == MOST_SERIES
        if is_others:
            name = f"others ({report.axis.all_series - MOST_SERIES})"
        amounts = {_name(part.period, report.query.group_by): part.totalfee for part in parts}
        series.append(Series(name, amounts, is_others))
    return series


def _series_name(part: _Part, *, is_name_shared: bool) -> str:
    service = part.service or ""
    if service and is_name_shared:
        service += f" ({part.service_id})"
    return " · ".join(filter(None, (service, part.calendar)))
