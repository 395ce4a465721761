"""Schedule: a day, a week or a month of several calendars, as a timeline and as a table."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from litestar import route
from litestar.enums import HttpMethod
from litestar.exceptions import ClientException
from litestar.response import Template
from markupsafe import Markup

from console.rendering import render
from console.requests import PageRequest, ask
from console.visitors import visitor_of

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

PATH = "/console/schedule"
VIEWS = ("day", "week", "month")

CALENDARS_SHOWN = 10
"""How many calendars a page has whose address names none."""
ROWS = 50
"""How many orders the table has; the others are on its next pages."""

_EARLIEST, _LATEST = date(1970, 1, 1), date(2199, 12, 31)
_DAY, _MILLISECOND = timedelta(days=1), timedelta(milliseconds=1)
_LAST = datetime(2200, 1, 1, tzinfo=UTC) - _MILLISECOND
"""The last datetime of an order."""


@dataclass(frozen=True)
class Period:
    """The time that a page shows: whole days of the visitor's zone."""

    view: str
    day: date

    @property
    def first(self) -> date:
        """Its first day."""
        if self.view == "week":
            return self.day - self.day.weekday() * _DAY
        return self.day.replace(day=1) if self.view == "month" else self.day

    @property
    def after(self) -> date:
        """The day after its last."""
        if self.view == "month":
            return (self.first + 31 * _DAY).replace(day=1)
        return self.first + (7 if self.view == "week" else 1) * _DAY

    @property
    def earlier(self) -> date | None:
        """A day of the period before it, if orders can be that early."""
        return self.first - _DAY if self.first > _EARLIEST else None

    @property
    def later(self) -> date | None:
        """A day of the period after it, if orders can be that late."""
        return self.after if self.after <= _LATEST else None

    def window(self, zone: ZoneInfo) -> tuple[datetime, datetime]:
        """Return its first and its last millisecond, as far as orders can have them."""
        begin, end = _midnight(self.first, zone), _midnight(self.after, zone) - _MILLISECOND
        return max(begin, _midnight(_EARLIEST, UTC)), min(end, _midnight(_LATEST, UTC) + _DAY - _MILLISECOND)


def _midnight(day: date, zone: Any) -> datetime:
    return datetime.combine(day, time_of_day(), zone).astimezone(UTC)


def _text(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@route(PATH, http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def show_schedule(request: PageRequest) -> Template:
    """Show the calendars that the address names, or the first ones."""
    visitor = await visitor_of(request)
    zone = visitor.zone
    today = datetime.now(zone).date()
    period = _read_period(request, today)
    chosen = [name for name in request.query_params.getall("calendar", []) if name]
    chosen = list(dict.fromkeys(chosen))
    known = (await ask(request, "/calendars", [("limit", "100")])).data
    calendars = chosen or [each["name"] for each in known["items"][:CALENDARS_SHOWN]]
    begin, end = period.window(zone)
    if calendars:
        shown = await _gather(request, calendars, begin, end, zone)
    else:
        shown = await _gather_nothing(request)
    return await render(
        request,
        "schedule.html",
        period=period,
        views=VIEWS,
        today=today,
        address=lambda **changed: _address(period, chosen, **changed),
        chosen=chosen,
        calendars=calendars,
        unlisted=[name for name in chosen if name not in {each["name"] for each in known["items"]}],
        known=known["items"],
        more_known=known["next_cursor"] or "",
        shows_all=not chosen and len(known["items"]) < CALENDARS_SHOWN,
        is_live=visitor.may_read("changes:read"),
        limit=ROWS,
        cursor=request.query_params.get("cursor", ""),
        **shown,
    )


async def _gather(
    request: PageRequest, calendars: list[str], begin: datetime, end: datetime, zone: ZoneInfo
) -> dict[str, Any]:
    """Ask for the picture and for the table's orders."""
    query = [("from", _text(begin)), *(("calendar", name) for name in calendars)]
    # The window of free times includes its end; that of orders does not.
    of_picture = [*query, ("to", _text(end)), ("time_zone", zone.key)]
    cursor = request.query_params.get("cursor", "")
    to = _text(end + _MILLISECOND) if end < _LAST else ""  # no order is later
    of_table = [*query, ("to", to), ("count", "exact"), ("limit", str(ROWS))]
    picture, orders = await asyncio.gather(
        # A refusal of both is shown in place of the page: here, there may be too many orders for a picture.
        ask(request, "/availability", of_picture, accept="image/svg+xml", refusals=frozenset({400})),
        ask(request, "/orders", [*of_table, ("cursor", cursor)]),
    )
    return {
        # Our own API's picture, in which every text of callers is escaped.
        "picture": Markup(picture.text) if picture.status < 400 else None,  # noqa: S704 (as said above)
        "refusal": picture.data["detail"] if picture.status >= 400 else "",
        # A picture has its own.
        "position": "" if picture.status < 400 else await _latest_position(request),
        "orders": orders.data["items"],
        "next_cursor": orders.data["next_cursor"],
        "count": int(orders.headers["x-total-count"]),
    }


async def _gather_nothing(request: PageRequest) -> dict[str, Any]:
    """Ask from where on to follow changes, and whether there is something to order."""
    # The position first, so that no change between both is missed.
    latest = await _latest_position(request)
    services = (await ask(request, "/services", [("limit", "1")])).data["items"]
    return {"position": latest, "services": services}


async def _latest_position(request: PageRequest) -> str:
    visitor = await visitor_of(request)
    if not visitor.may_read("changes:read"):
        return ""
    return str((await ask(request, "/order-changes/latest")).data["position"])


def _read_period(request: PageRequest, today: date) -> Period:
    """Read which time the address names."""
    view, day = request.query_params.get("view", "week"), request.query_params.get("date", "")
    if view not in VIEWS:
        raise ClientException(f"view is day, week or month, not {view}")
    try:
        period = Period(view, date.fromisoformat(day) if day else today)
    except ValueError as error:
        raise ClientException(f"date is written like 2030-06-01, not {day}") from error
    if not _EARLIEST <= period.day <= _LATEST:
        raise ClientException(f"date is from {_EARLIEST} to {_LATEST}")
    return period


def _address(period: Period, chosen: list[str], **changed: Any) -> str:
    """Return the address of another period, view or page with the same calendars."""
    query = {"view": period.view, "date": period.day.isoformat()}
    query |= {name: str(value) for name, value in changed.items()}
    return f"{PATH}?{urlencode([*query.items(), *(('calendar', name) for name in chosen)])}"


ROUTES = [show_schedule]
