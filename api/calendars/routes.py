"""The HTTP routes of calendars."""

from __future__ import annotations

from litestar import Response, route

from api.calendars import availability_routes, queries
from api.http.pages import answer_page, limit_of, read_cursor
from api.http.parameters import PAGING, Query
from api.http.request import READ, AnyRequest
from api.orders.fields import read_calendar


@route("/calendars", http_method=READ, opt={"query": Query(PAGING)})
async def list_calendars(request: AnyRequest) -> Response[bytes]:
    """List calendars by name."""
    after = read_cursor(request, read_calendar) or ""
    return answer_page(request, await queries.list_calendars(after, limit_of(request)))


ROUTES = [list_calendars, *availability_routes.ROUTES]
