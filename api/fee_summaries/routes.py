"""The HTTP routes of fee summaries: reports, the orders behind them, and their last proof."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from litestar import Response, route

from api.fee_summaries.chart import draw_report
from api.fee_summaries.counted_orders import CountedOrder, CountedOrdersQuery
from api.fee_summaries.csv_report import CSV_HEAD, CsvReport
from api.fee_summaries.figures_request import FiguresRequest
from api.fee_summaries.parameters import (
    COUNTED_ORDERS,
    EXPORT,
    LAST_END,
    REPORT,
    read_days,
    read_report_query,
)
from api.fee_summaries.proof import read_proof
from api.fee_summaries.queries import read_counted_orders, read_report
from api.fee_summaries.reports import (
    ReportQuery,
    ReportRow,
    end_of_period,
    item_figures,
    total_figures,
)
from api.http import fields
from api.http.json_text import encode, encode_text
from api.http.media_types import CSV, JSON, SVG
from api.http.pages import limit_of
from api.http.parameters import query_of
from api.http.pictures import OFFERED, VARY, answer_picture, wants_picture
from api.http.request import READ, AnyRequest
from api.http.responses import BytesResponse
from api.http.row_streams import RowStream, attachment, stream_rows
from api.http.scopes import SUMMARIES_READ
from api.http.times import EARLIEST, read_time
from api.orders.fields import read_calendar

if TYPE_CHECKING:
    from datetime import datetime

    from api.fee_summaries.positions import AsOf


def _counted_orders_url(query: ReportQuery, as_of: AsOf, row: ReportRow) -> str:
    """Return the URL of the orders behind a row: its days, services and calendars, at its position."""
    first = max(row.period, query.first) if query.first else row.period
    end = end_of_period(row.period, query.group_by)
    end = min(end, query.end) if query.end else end
    services = [row.service_id] if row.service_id else query.services or []
    calendars = [row.calendar] if row.calendar else query.calendars or []
    parameters = [
        # The first and the last period may extend beyond the days that can be requested, where no orders are.
        *([("from", first.isoformat())] if first >= EARLIEST.date() else []),
        *([("to", end.isoformat())] if end <= LAST_END else []),
        *(("service", str(service)) for service in services),
        *(("calendar", calendar) for calendar in calendars),
        ("position", str(as_of.position)),
    ]
    return f"/fee-summaries/orders?{urlencode(parameters)}"


def _item(query: ReportQuery, as_of: AsOf, row: ReportRow) -> str:
    return encode_text(
        {
            "period": row.period.isoformat(),
            "service": {"id": str(row.service_id), "name": row.service} if row.service_id else None,
            "calendar": row.calendar or None,
            **item_figures(query, row),
            "counted_orders": _counted_orders_url(query, as_of, row),
        }
    )


def _place_of(row: ReportRow) -> list[object]:
    return [row.period.isoformat(), row.service_id, row.calendar]


def _read_place(period: str, service_id: object, calendar: object) -> tuple[date, int, str]:
    return (
        date.fromisoformat(period),
        fields.read_id(service_id) if service_id != 0 else 0,
        read_calendar(calendar) if calendar != "" else "",
    )


@route(
    "/fee-summaries",
    http_method=READ,
    opt={
        "scope": SUMMARIES_READ,
        "standby": True,
        "produces": OFFERED,
        "query": REPORT,
        "elsewhere": f"GET /fee-summaries/export answers with {CSV}.",
    },
)
async def list_fee_summaries(request: AnyRequest) -> Response[bytes]:
    """Sum orders and fees: a page of the report, or a chart of the whole report."""
    query = read_report_query(query_of(request))
    is_picture = wants_picture(request)
    figures = await FiguresRequest.accept(request, _read_place, *([SVG] if is_picture else []))
    not_modified = figures.not_modified()
    if not_modified:
        not_modified.headers.update(VARY)
        return not_modified
    if is_picture:
        chart = answer_picture(await draw_report(query, figures))
        chart.headers.update(figures.headers())
        return chart
    page = await read_report(query, figures.position, figures.after, limit_of(request) + 1)
    figures.check(page.as_of)
    query.check_size(page.totals)
    answer = figures.answer(
        page.rows,
        lambda row: _item(query, figures.as_of, row),
        _place_of,
        {"totals": total_figures(query, page.totals)},
    )
    answer.headers.update(VARY)
    return answer


@route(
    "/fee-summaries/export",
    http_method=READ,
    opt={"scope": SUMMARIES_READ, "standby": True, "produces": (CSV,), "query": EXPORT},
)
async def export_fee_summaries(request: AnyRequest) -> Response[Any]:
    """Sum orders and fees: the whole report as CSV."""
    parameters = query_of(request)
    query = read_report_query(parameters)
    figures = await FiguresRequest.accept(request, _read_place, CSV)
    not_modified = figures.not_modified()
    if not_modified:
        return not_modified
    report = CsvReport(query, figures)
    statement, arguments = query.statement(figures.position, None, None)
    head = parameters.get("bom", b"") + CSV_HEAD
    chunks = await stream_rows(statement, arguments, report.lines, head, report.total_line)
    return RowStream(chunks, CSV, {**figures.headers(), **attachment("fee-summaries.csv")})


def _read_orders_place(at: object, order_id: object) -> tuple[datetime, int]:
    return read_time(at), fields.read_id(order_id)


@route(
    "/fee-summaries/orders",
    http_method=READ,
    opt={"scope": SUMMARIES_READ, "standby": True, "query": COUNTED_ORDERS},
)
async def list_counted_orders(request: AnyRequest) -> Response[bytes]:
    """List the orders behind fee summaries, as they were at the position of the figures."""
    parameters = query_of(request)
    query = CountedOrdersQuery(*read_days(parameters), parameters.get("service"), parameters.get("calendar"))
    figures = await FiguresRequest.accept(request, _read_orders_place)
    not_modified = figures.not_modified()
    if not_modified:
        return not_modified
    page = await read_counted_orders(query, figures.position, figures.after, limit_of(request) + 1)
    figures.check(page.as_of)
    return figures.answer(page.orders, query.item, CountedOrder.place)


@route("/fee-summaries/proof", http_method=READ, opt={"scope": SUMMARIES_READ})
async def show_proof() -> Response[bytes]:
    """Show the last proof: whether the summaries agreed with the orders."""
    return BytesResponse(encode(await read_proof()), media_type=JSON)


ROUTES = [list_fee_summaries, export_fee_summaries, list_counted_orders, show_proof]
