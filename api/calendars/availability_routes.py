"""The HTTP routes of free times: of one calendar, and of several."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from litestar import Response, route

from api.calendars.availability import FreeTime, Window, find_free_time
from api.calendars.availability_pictures import draw_availability
from api.http.durations import duration_text
from api.http.fields import read_id
from api.http.json_text import encode
from api.http.media_types import JSON
from api.http.pages import encode_cursor, read_cursor
from api.http.parameters import Query, Readers, parameters_of, path_value, query_of, require
from api.http.pictures import OFFERED, TIMELINE, VARY, answer_picture, wants_timeline, zone_of
from api.http.problems import Fault, malformed
from api.http.request import READ, AnyRequest
from api.http.responses import BytesResponse
from api.http.scopes import ORDERS_READ
from api.http.times import LATEST, read_datetime, utc_text
from api.orders.fields import read_calendar
from api.orders.lists.timelines import LONGEST_WINDOW, check_length
from api.orders.spacing import spaced_datetimes

if TYPE_CHECKING:
    from datetime import datetime

MOST_INTERVALS = 257
"""Of each calendar, in one answer."""

MOST_DATETIMES = 100


def _read_number(value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 3 or not 1 <= int(value) <= MOST_DATETIMES:
        raise ValueError(f"must be a whole number from 1 to {MOST_DATETIMES}")
    return int(value)


_WINDOW: Readers = {
    "from": read_datetime,
    "to": read_datetime,
    "next": _read_number,
    "except_order": read_id,
    **TIMELINE,
}


@route(
    "/calendars/{calendar:str}/availability",
    http_method=READ,
    opt={
        "scope": ORDERS_READ,
        "standby": True,
        "produces": OFFERED,
        "query": Query({**_WINDOW, "cursor": str}),
    },
)
async def show_availability(request: AnyRequest) -> Response[bytes]:
    """Show the intervals in which an order's datetime may fall."""
    calendar = path_value(request, "calendar", read_calendar)
    if wants_timeline(request):
        return await _draw(request, [calendar])
    _check_window(query_of(request))
    begin = read_cursor(request, read_datetime)
    (shown,) = await _show(request, [calendar], begin)
    return BytesResponse(encode(shown), media_type=JSON, headers=VARY)


@route(
    "/availability",
    http_method=READ,
    opt={
        "scope": ORDERS_READ,
        "standby": True,
        "produces": OFFERED,
        "query": Query({"calendar": read_calendar, **_WINDOW}, repeatable=("calendar",)),
    },
)
async def list_availability(request: AnyRequest) -> Response[bytes]:
    """Show the intervals of several calendars."""
    query = query_of(request)
    require(query, "calendar")
    if wants_timeline(request):
        return await _draw(request, query["calendar"])
    _check_window(query)
    items = await _show(request, query["calendar"], None)
    content = encode({"items": items, "next": None, "next_cursor": None})
    return BytesResponse(content, media_type=JSON, headers=VARY)


async def _draw(request: AnyRequest, calendars: list[str]) -> Response[bytes]:
    query = query_of(request)
    _check_window(query)
    check_length(query["from"], query["to"])
    window = Window(query["from"], query["to"], query.get("except_order"))
    return answer_picture(await draw_availability(calendars, window, zone_of(request)))


def _check_window(query: dict[str, Any]) -> None:
    """Check the window; without an end and ``next``, it is as long as it may be."""
    require(query, "from")
    earliest = query["from"]
    if "next" not in query:
        query.setdefault("to", min(earliest + LONGEST_WINDOW, LATEST))
    latest = query.get("to", earliest)
    if earliest > latest:
        raise malformed(Fault("must not be later than to", parameter="from"))
    if latest - earliest > LONGEST_WINDOW:
        raise malformed(Fault(f"must be at most {LONGEST_WINDOW.days} days after from", parameter="to"))


async def _show(request: AnyRequest, calendars: list[str], begin: datetime | None) -> list[dict[str, Any]]:
    """Show calendars' availability: all of it, or from where a cursor says."""
    query = query_of(request)
    # Without an end, no more are needed than datetimes are asked for: each interval has one at least.
    most = MOST_INTERVALS + 1 if "to" in query else query["next"]
    window = Window(begin or query["from"], query.get("to", LATEST), query.get("except_order"))
    free = await find_free_time(calendars, window, most)
    return [_shown(request, one, begin) for one in free]


def _shown(request: AnyRequest, free: FreeTime, begin: datetime | None) -> dict[str, Any]:
    query, intervals = query_of(request), free.intervals
    latest = query.get("to", LATEST)
    head: dict[str, Any] = {"calendar": free.calendar, "spacing": duration_text(free.spacing)}
    if "next" in query and begin is None:
        datetimes = list(islice(spaced_datetimes(intervals, free.spacing), query["next"]))
        head["next_free"] = [utc_text(at) for at in datetimes]
        if "to" not in query and len(datetimes) == query["next"]:
            latest = datetimes[-1]
            intervals = [(first, min(last, latest)) for first, last in intervals if first <= latest]
    return {
        **head,
        "from": utc_text(query["from"]),
        "to": utc_text(latest),
        "items": [
            {"from": utc_text(first), "to": utc_text(last)} for first, last in intervals[:MOST_INTERVALS]
        ],
        **_following(request, free),
    }


def _following(request: AnyRequest, free: FreeTime) -> dict[str, str | None]:
    """Return where the rest of a calendar's intervals is: under the address of that calendar alone."""
    if len(free.intervals) <= MOST_INTERVALS:
        return {"next": None, "next_cursor": None}
    kept = [pair for pair in parameters_of(request) if pair[0] not in ("calendar", "cursor")]
    cursor = encode_cursor([utc_text(free.intervals[MOST_INTERVALS][0])], kept)
    address = f"/calendars/{free.calendar}/availability?{urlencode([*kept, ('cursor', cursor)])}"
    return {"next": address, "next_cursor": cursor}


ROUTES = [show_availability, list_availability]
