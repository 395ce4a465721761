"""Calendars: which there are, and when they are free."""

from __future__ import annotations

from datetime import timedelta

import msgspec
from litestar import HttpMethod, Response, route

from api import fields
from api.orders.spacing import CLEARANCE, free_intervals
from api.pages import DEFAULT_LIMIT, Page, answer_page, read_cursor
from api.problems import Fault, malformed
from api.requests import AnyRequest, path_value, read_limit, read_query, require
from api.times import read_datetime, utc_text
from shared.database.rows import rows
from shared.database.tables import Calendar

_encode = msgspec.json.Encoder().encode

LONGEST_WINDOW = timedelta(days=32)


@route("/calendars", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def list_calendars(request: AnyRequest) -> Response[bytes]:
    """List calendars by name."""
    query = read_query(request, {"limit": read_limit, "cursor": str})
    limit = query.get("limit", DEFAULT_LIMIT)
    behind = read_cursor(request, query, fields.read_calendar) or ""
    found = (
        await Calendar.select(Calendar.name, Calendar.created_at)
        .where(Calendar.name > behind)
        .order_by(Calendar.name)
        .limit(limit + 1)
    )
    shown = found[:limit]
    items = [
        _encode({"name": one["name"], "created_at": utc_text(one["created_at"])}).decode() for one in shown
    ]
    return answer_page(request, Page(items, [shown[-1]["name"]] if len(found) > limit else None))


@route("/calendars/{calendar:str}/availability", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def show_availability(request: AnyRequest) -> Response[bytes]:
    """Show the intervals in which an order's datetime may fall."""
    calendar = path_value(request, "calendar", fields.read_calendar)
    query = read_query(request, {"from": read_datetime, "to": read_datetime})
    require(query, "from", "to")
    earliest, latest = query["from"], query["to"]
    if earliest > latest:
        raise malformed(Fault("must not be later than to", parameter="from"))
    if latest - earliest > LONGEST_WINDOW:
        raise malformed(Fault(f"must be at most {LONGEST_WINDOW.days} days after from", parameter="to"))
    taken = await rows(
        """
        SELECT datetime FROM orders
        WHERE calendar_id = (SELECT id FROM calendar WHERE name = $1) AND datetime > $2 AND datetime < $3
        ORDER BY datetime
        """,
        calendar,
        earliest - CLEARANCE,
        latest + CLEARANCE,
    )
    free = free_intervals((order["datetime"] for order in taken), earliest, latest)
    body = {
        "calendar": calendar,
        "from": utc_text(earliest),
        "to": utc_text(latest),
        "items": [{"from": utc_text(begin), "to": utc_text(end)} for begin, end in free],
        "next": None,
    }
    return Response(_encode(body), media_type="application/json")


ROUTES = [list_calendars, show_availability]
