"""The HTTP routes of fee summaries: reports, the orders behind them, and their last proof."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

import msgspec
from litestar import HttpMethod, Response, route

from api import fields
from api.exports import CSV, Export, stream_rows
from api.fee_summaries import positions
from api.fee_summaries.csv_report import CSV_HEAD, CsvReport
from api.fee_summaries.orders import CountedOrdersQuery, place_of
from api.fee_summaries.parameters import (
    DIVISION,
    LAST_END,
    PAGING,
    REPEATABLE,
    SCOPE,
    read_days,
    read_report_query,
)
from api.fee_summaries.positions import Standing
from api.fee_summaries.proof import read_proof
from api.fee_summaries.reports import (
    EARLIEST_DAY,
    END_OF_DAYS,
    ReportQuery,
    item_figures,
    total_figures,
)
from api.negotiation import JSON, accepted
from api.pages import DEFAULT_LIMIT, Page, answer_page, filters_of, read_cursor
from api.preconditions import EntityTags, read_if_none_match
from api.problems import Fault, malformed
from api.requests import AnyRequest, read_query
from api.times import EARLIEST, read_datetime
from shared.database.rows import rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from shared.database.rows import Row

_encode = msgspec.json.Encoder(decimal_format="number").encode
_READ = [HttpMethod.GET, HttpMethod.HEAD]


Place = TypeVar("Place")


async def _standing_of(
    request: AnyRequest, query: Mapping[str, Any], read_place: Callable[..., Place]
) -> tuple[Standing, Place | None]:
    """Find the position to give figures for, waiting for it if need be; and the place behind which to go on.

    Cursors hold the first page's position and time zone, and then what ``read_place`` makes a place of.
    The standing's zone is that of the first page, if there is a place.

    Raises:
        ProblemError: 400, parameters that contradict each other, or a cursor that is none.
        ReportExpiredError, SummariesBehindError, OrderVersionNotFoundError: there are no such figures.

    """
    least = query.get("min_position", 0)
    pinned = query.get("position")
    if pinned is not None and ("min_position" in query or "after_version" in query):
        raise malformed(Fault("is exact; leave out min_position and after_version", parameter="position"))
    continued = read_cursor(
        request,
        query,
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
    return _encode(members).decode()[1:-1] + ","


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
    return _encode(
        {
            "period": found["period"].isoformat(),
            "service": {"id": str(service_id), "name": found["service"]} if service_id else None,
            "calendar": found["calendar"] or None,
            **item_figures(query, found),
            "counted_orders": _counted_orders(query, standing, found),
        }
    ).decode()


def _report_place(period: str, service_id: object, calendar: object) -> tuple[date, int, str]:
    # 0 stands for all services, nothing for all calendars.
    return (
        date.fromisoformat(period),
        fields.read_id(service_id) if service_id != 0 else 0,
        fields.read_calendar(calendar) if calendar != "" else "",
    )


@route("/fee-summaries", http_method=_READ, opt={"produces": (JSON, CSV)})
async def list_fee_summaries(request: AnyRequest) -> Response[Any]:
    """Sum orders and fees up: a page of the report as JSON, or all of it as CSV."""
    media_type = accepted(request, (JSON, CSV))
    known = {**SCOPE, **DIVISION, **(PAGING if media_type == JSON else {})}
    given = read_query(request, known, REPEATABLE)
    query = read_report_query(given)
    known_tags = read_if_none_match(request)
    standing, after = await _standing_of(request, given, _report_place)
    unchanged = _unchanged(request, known_tags, standing, media_type, given.get("limit"), given.get("cursor"))
    if unchanged:
        return unchanged
    pinned = standing.position if after is not None or "position" in given else None
    if media_type == CSV:
        report = CsvReport(query)
        stream = await stream_rows(
            *query.statement(pinned, None, None), report.lines, CSV_HEAD, report.total_line
        )
        headers = _headers(request, report.standing, CSV, None, None)
        return Export(stream, CSV, headers)
    limit = given.get("limit", DEFAULT_LIMIT)
    statement, arguments = query.statement(pinned, after, limit + 1)
    total, *items = await rows(statement, *arguments)
    begun_in = standing.time_zone if after is not None else None
    standing = Standing.of(total)
    positions.refuse_changed(standing, total["reversed"], begun_in)
    query.refuse_too_large(total)
    shown = items[:limit]
    following: list[object] | None = None
    if len(items) > limit:
        last = shown[-1]
        following = [
            standing.position,
            standing.time_zone,
            last["period"].isoformat(),
            last["service_id"],
            last["calendar"],
        ]
    answer = answer_page(
        request,
        Page([_item(query, standing, one) for one in shown], following),
        head=_head(standing, totals=total_figures(query, total)),
    )
    answer.headers.update(_headers(request, standing, JSON, given.get("limit"), given.get("cursor")))
    return answer


def _headers(request: AnyRequest, standing: Standing, *what: object) -> dict[str, str]:
    return {"ETag": standing.etag(filters_of(request.query_params), *what), "Vary": "Accept"}


def _orders_place(at: object, order_id: object) -> tuple[datetime, int]:
    return read_datetime(at), fields.read_id(order_id)


@route("/fee-summaries/orders", http_method=_READ)
async def list_counted_orders(request: AnyRequest) -> Response[bytes]:
    """List the orders behind fee summaries, as they were at the position of the figures."""
    given = read_query(request, {**SCOPE, **PAGING}, REPEATABLE)
    first, end = read_days(given)
    query = CountedOrdersQuery(
        first or EARLIEST_DAY, end or END_OF_DAYS, given.get("service"), given.get("calendar")
    )
    known_tags = read_if_none_match(request)
    standing, after = await _standing_of(request, given, _orders_place)
    unchanged = _unchanged(request, known_tags, standing, given.get("limit"), given.get("cursor"))
    if unchanged:
        return unchanged
    pinned = standing.position if after is not None or "position" in given else None
    limit = given.get("limit", DEFAULT_LIMIT)
    statement, arguments = query.statement(pinned, after, limit + 1)
    found = await rows(statement, *arguments)
    begun_in = standing.time_zone if after is not None else None
    standing = Standing.of(found[0])
    positions.refuse_changed(standing, found[0]["reversed"], begun_in)
    orders = [one for one in found if one["id"] is not None]
    shown = orders[:limit]
    following = None
    if len(orders) > limit:
        following = [standing.position, standing.time_zone, *place_of(shown[-1])]
    answer = answer_page(request, Page([query.item(one) for one in shown], following), head=_head(standing))
    answer.headers.update(_headers(request, standing, given.get("limit"), given.get("cursor")))
    return answer


@route("/fee-summaries/proof", http_method=_READ)
async def show_proof(request: AnyRequest) -> Response[bytes]:
    """Show the last proof of the summaries against the orders."""
    read_query(request, {})
    return Response(_encode(await read_proof()), media_type=JSON)


ROUTES = [list_fee_summaries, list_counted_orders, show_proof]
