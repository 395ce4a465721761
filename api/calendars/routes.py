"""The HTTP routes of calendars."""

from __future__ import annotations

from datetime import timedelta

from litestar import Response, route

from api.calendars import queries
from api.http.json_text import encode
from api.http.media_types import JSON
from api.http.pages import answer_page, limit_of, read_cursor
from api.http.parameters import PAGING, Query, path_value, query_of, require
from api.http.problems import Fault, malformed
from api.http.request import READ, AnyRequest
from api.http.responses import BytesResponse
from api.http.times import read_datetime, utc_text
from api.orders.fields import read_calendar
from api.orders.spacing import free_intervals

LONGEST_WINDOW = timedelta(days=32)


@route("/calendars", http_method=READ, opt={"query": Query(PAGING)})
async def list_calendars(request: AnyRequest) -> Response[bytes]:
    """List calendars by name."""
    after = read_cursor(request, read_calendar) or ""
    return answer_page(request, await queries.list_calendars(after, limit_of(request)))


@route(
    "/calendars/{calendar:str}/availability",
    http_method=READ,
    opt={"query": Query({"from": read_datetime, "to": read_datetime})},
)
async def show_availability(request: AnyRequest) -> Response[bytes]:
    """Show the intervals in which an order's datetime may fall."""
    calendar = path_value(request, "calendar", read_calendar)
    query = query_of(request)
    require(query, "from", "to")
    earliest, latest = query["from"], query["to"]
    if earliest > latest:
        raise malformed(Fault("must not be later than to", parameter="from"))
    if latest - earliest > LONGEST_WINDOW:
        raise malformed(Fault(f"must be at most {LONGEST_WINDOW.days} days after from", parameter="to"))
    taken = await queries.taken_datetimes(calendar, earliest, latest)
    body = {
        "calendar": calendar,
        "from": utc_text(earliest),
        "to": utc_text(latest),
        "items": [
            {"from": utc_text(begin), "to": utc_text(end)}
            for begin, end in free_intervals(taken, earliest, latest)
        ],
        "next": None,
        "next_cursor": None,
    }
    return BytesResponse(encode(body), media_type=JSON)


ROUTES = [list_calendars, show_availability]
