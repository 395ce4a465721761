"""The HTTP routes of fee summaries: reports, the orders behind them, and their last proof."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

from litestar import Response, route

from api.fee_summaries import positions
from api.fee_summaries.csv_report import CSV_HEAD, CsvReport
from api.fee_summaries.orders import CountedOrdersQuery, place_of
from api.fee_summaries.parameters import COUNTED_ORDERS, LAST_END, REPORT, read_days, read_report_query
from api.fee_summaries.positions import Standing
from api.fee_summaries.proof import read_proof
from api.fee_summaries.reports import (
    EARLIEST_DAY,
    END_OF_DAYS,
    ReportQuery,
    item_figures,
    total_figures,
)
from api.http import fields
from api.http.entity_tags import EntityTags, read_if_none_match
from api.http.json_text import encode, encode_text
from api.http.media_types import JSON, media_type_of
from api.http.pages import Page, answer_page, filters_of, limit_of, read_cursor
from api.http.parameters import query_of
from api.http.problems import Fault, malformed
from api.http.request import READ, AnyRequest
from api.http.row_streams import CSV, RowStream, stream_rows
from api.http.times import EARLIEST, read_datetime
from shared.database.engine import DB

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from shared.database.rows import Row

Place = TypeVar("Place")


async def _standing_of(
    request: AnyRequest, read_place: Callable[..., Place]
) -> tuple[Standing, Place | None]:
    """Find the position to give figures for, waiting for it if need be; and the place behind which to go on.

    Cursors hold the first page's position and time zone, and then what ``read_place`` makes a place of.
    The standing's zone is that of the first page, if there is a place.

    Raises:
        ProblemError: 400, parameters that contradict each other, or a cursor that is none.
        ReportExpiredError, SummariesBehindError, OrderVersionNotFoundError: there are no such figures.

    """
    query = query_of(request)
    least = query.get("min_position", 0)
    pinned = query.get("position")
    if pinned is not None and ("min_position" in query or "after_version" in query):
        raise malformed(Fault("is exact; leave out min_position and after_version", parameter="position"))
    continued = read_cursor(
        request,
        lambda position, zone, *place: (fields.read_position(position), str(zone), read_place(*place)),
    )
    if continued is not None:
        # The first page has waited, and says which position this one continues.
        position, zone, place = continued
        standing = await positions.standing_at(position)
        positions.refuse_expired(standing, zone)
        return standing, place
    if pinned is not None or "min_position" in query or "after_version" in query:
        await positions.wait_for(
            max(least, pinned or 0),
            query.get("after_version"),
            query.get("wait", positions.USUAL_WAIT_SECONDS),
        )
    standing = await positions.standing_at(pinned)
    positions.refuse_expired(standing)
    return standing, None


def _unchanged(
    request: AnyRequest, known: EntityTags | None, standing: Standing, *what: object
) -> Response[bytes] | None:
    """Answer 304 if the caller has the very figures already; they are not summed up for that."""
    tag = standing.etag(filters_of(request.query_params), *what)
    if known is not None and known.weakly_name(tag):
        return Response(b"", status_code=304, headers={"ETag": tag, "Vary": "Accept"})
    return None


def _head(standing: Standing, **more: object) -> str:
    members = {"as_of": standing.as_of, "time_zone": standing.time_zone, **more}
    return encode_text(members)[1:-1] + ","


def _following(period: date, group_by: str) -> date:
    """Give the first day of the next period."""
    if group_by in ("day", "week"):
        return period + timedelta(days=1 if group_by == "day" else 7)
    months = period.month - 1 + {"month": 1, "quarter": 3, "year": 12}[group_by]
    return date(period.year + months // 12, months % 12 + 1, 1)


def _counted_orders(query: ReportQuery, standing: Standing, found: Row) -> str:
    """Give the address of the orders behind a row: its days, services and calendars, at its position."""
    first = max(found["period"], query.first) if query.first else found["period"]
    end = _following(found["period"], query.group_by)
    end = min(end, query.end) if query.end else end
    services = [found["service_id"]] if found["service_id"] else query.services or []
    calendars = [found["calendar"]] if found["calendar"] else query.calendars or []
    behind = [
        # The outermost periods reach beyond the days that can be asked for, where nothing can be.
        *([("from", first.isoformat())] if first >= EARLIEST.date() else []),
        *([("to", end.isoformat())] if end <= LAST_END else []),
        *(("service", str(service)) for service in services),
        *(("calendar", calendar) for calendar in calendars),
        ("position", str(standing.position)),
    ]
    return f"/fee-summaries/orders?{urlencode(behind)}"


def _item(query: ReportQuery, standing: Standing, found: Row) -> str:
    service_id = found["service_id"]
    return encode_text(
        {
            "period": found["period"].isoformat(),
            "service": {"id": str(service_id), "name": found["service"]} if service_id else None,
            "calendar": found["calendar"] or None,
            **item_figures(query, found),
            "counted_orders": _counted_orders(query, standing, found),
        }
    )


def _report_place(period: str, service_id: object, calendar: object) -> tuple[date, int, str]:
    # 0 stands for all services, nothing for all calendars.
    return (
        date.fromisoformat(period),
        fields.read_id(service_id) if service_id != 0 else 0,
        fields.read_calendar(calendar) if calendar != "" else "",
    )


@route("/fee-summaries", http_method=READ, opt={"produces": (JSON, CSV), "query": REPORT})
async def list_fee_summaries(request: AnyRequest) -> Response[Any]:
    """Sum orders and fees up: a page of the report as JSON, or all of it as CSV."""
    given, media_type, limit = query_of(request), media_type_of(request), limit_of(request)
    query = read_report_query(given)
    known_tags = read_if_none_match(request)
    standing, after = await _standing_of(request, _report_place)
    unchanged = _unchanged(request, known_tags, standing, media_type, given.get("limit"), given.get("cursor"))
    if unchanged:
        return unchanged
    pinned = standing.position if after is not None or "position" in given else None
    if media_type == CSV:
        report = CsvReport(query)
        chunks = await stream_rows(
            *query.statement(pinned, None, None), report.lines, CSV_HEAD, report.total_line
        )
        return RowStream(chunks, CSV, _headers(request, report.standing, CSV, None, None))
    statement, arguments = query.statement(pinned, after, limit + 1)
    total, *items = await DB.fetch(statement, *arguments)
    begun_in = standing.time_zone if after is not None else None
    standing = Standing.of(total)
    positions.refuse_changed(standing, total["reversed"], begun_in)
    query.refuse_too_large(total)
    page = Page.of(
        items,
        limit,
        lambda item: _item(query, standing, item),
        lambda item: [
            standing.position,
            standing.time_zone,
            item["period"].isoformat(),
            item["service_id"],
            item["calendar"],
        ],
    )
    answer = answer_page(request, page, head=_head(standing, totals=total_figures(query, total)))
    answer.headers.update(_headers(request, standing, JSON, given.get("limit"), given.get("cursor")))
    return answer


def _headers(request: AnyRequest, standing: Standing, *what: object) -> dict[str, str]:
    return {"ETag": standing.etag(filters_of(request.query_params), *what), "Vary": "Accept"}


def _orders_place(at: object, order_id: object) -> tuple[datetime, int]:
    return read_datetime(at), fields.read_id(order_id)


@route("/fee-summaries/orders", http_method=READ, opt={"query": COUNTED_ORDERS})
async def list_counted_orders(request: AnyRequest) -> Response[bytes]:
    """List the orders behind fee summaries, as they were at the position of the figures."""
    given, limit = query_of(request), limit_of(request)
    first, end = read_days(given)
    query = CountedOrdersQuery(
        first or EARLIEST_DAY, end or END_OF_DAYS, given.get("service"), given.get("calendar")
    )
    known_tags = read_if_none_match(request)
    standing, after = await _standing_of(request, _orders_place)
    unchanged = _unchanged(request, known_tags, standing, given.get("limit"), given.get("cursor"))
    if unchanged:
        return unchanged
    pinned = standing.position if after is not None or "position" in given else None
    statement, arguments = query.statement(pinned, after, limit + 1)
    rows = await DB.fetch(statement, *arguments)
    begun_in = standing.time_zone if after is not None else None
    standing = Standing.of(rows[0])
    positions.refuse_changed(standing, rows[0]["reversed"], begun_in)
    page = Page.of(
        [row for row in rows if row["id"] is not None],
        limit,
        query.item,
        lambda order: [standing.position, standing.time_zone, *place_of(order)],
    )
    answer = answer_page(request, page, head=_head(standing))
    answer.headers.update(_headers(request, standing, given.get("limit"), given.get("cursor")))
    return answer


@route("/fee-summaries/proof", http_method=READ)
async def show_proof() -> Response[bytes]:
    """Show the last proof of the summaries against the orders."""
    return Response(encode(await read_proof()), media_type=JSON)


ROUTES = [list_fee_summaries, list_counted_orders, show_proof]
