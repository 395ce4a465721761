"""The HTTP routes of calendars."""

from __future__ import annotations

from litestar import Response, delete, patch, put, route

from api.calendars import availability_routes, commands, queries
from api.calendars.bodies import CalendarPatch, CalendarReplacement
from api.http.bodies import MERGE_PATCH, read_body
from api.http.media_types import JSON
from api.http.pages import answer_page, limit_of, read_cursor
from api.http.parameters import PAGING, Query, path_value
from api.http.problems import Fault, invalid
from api.http.request import READ, AnyRequest
from api.http.responses import BytesResponse
from api.http.scopes import ORDERS_READ, SERVICES_MANAGE
from api.orders.fields import read_calendar


@route("/calendars", http_method=READ, opt={"scope": ORDERS_READ, "query": Query(PAGING)})
async def list_calendars(request: AnyRequest) -> Response[bytes]:
    """List calendars by name."""
    after = read_cursor(request, read_calendar) or ""
    return answer_page(request, await queries.list_calendars(after, limit_of(request)))


def _answer(calendar: queries.StoredCalendar, status_code: int = 200) -> Response[bytes]:
    return BytesResponse(calendar.json().encode(), status_code=status_code, media_type=JSON)


def _check_own_name(sent: str | None, own: str) -> None:
    if sent not in (None, own):
        raise invalid(Fault(f"must be {own}, as in the path, or be left out", pointer="#/name"))


@route("/calendars/{calendar:str}", http_method=READ, opt={"scope": ORDERS_READ})
async def read_calendar_by_name(request: AnyRequest) -> Response[bytes]:
    """Show a calendar."""
    return _answer(await queries.find_calendar(path_value(request, "calendar", read_calendar)))


@put("/calendars/{calendar:str}", opt={"scope": SERVICES_MANAGE})
async def replace_calendar(request: AnyRequest) -> Response[bytes]:
    """Replace a calendar, or make it."""
    name = path_value(request, "calendar", read_calendar)
    replacement = await read_body(request, CalendarReplacement)
    _check_own_name(replacement.name, name)
    calendar, is_new = await commands.replace_calendar(name, replacement)
    return _answer(calendar, 201 if is_new else 200)


@patch("/calendars/{calendar:str}", opt={"scope": SERVICES_MANAGE})
async def patch_calendar(request: AnyRequest) -> Response[bytes]:
    """Change parts of a calendar (JSON Merge Patch)."""
    name = path_value(request, "calendar", read_calendar)
    change = await read_body(request, CalendarPatch, MERGE_PATCH)
    _check_own_name(change.name, name)
    return _answer(await commands.update_calendar(name, change))


@delete("/calendars/{calendar:str}", status_code=204, opt={"scope": SERVICES_MANAGE})
async def delete_calendar(request: AnyRequest) -> None:
    """Delete a calendar that has no orders."""
    await commands.delete_calendar(path_value(request, "calendar", read_calendar))


ROUTES = [
    list_calendars,
    read_calendar_by_name,
    replace_calendar,
    patch_calendar,
    delete_calendar,
    *availability_routes.ROUTES,
]
