"""An order: its state, and each of its changes as a diff; a deleted one too, while they are retained."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from litestar import Response, route
from litestar.enums import HttpMethod

from console.newest_changes import FEED_LIMIT, latest_position, position_of, read_position
from console.rendering import read_instant, render
from console.requests import PageRequest, ask
from console.visitors import Visitor, visitor_of

READ = [HttpMethod.GET, HttpMethod.HEAD]

SHOWN_VERSIONS = 50

MOST_READ = 5_000
"""How many changes of an order are read, from its first, to find the newest."""


@dataclass(frozen=True)
class History:
    """Changes of an order, newest first; ``older``: the position before which there are more."""

    changes: list[dict[str, Any]]
    older: int | None = None
    is_whole: bool = True


@route("/console/orders/{order_id:str}", http_method=READ)
async def show_order(request: PageRequest) -> Response[Any]:
    """Show an order and its history, newest first.

    Raises:
        ApiRefusalError: 404, there never was such an order, or nothing of it is left; 403, orders may not be
            read by the visitor.

    """
    visitor = await visitor_of(request)
    order_id = request.path_params["order_id"]
    path = f"/orders/{quote(order_id, safe='')}"
    reads_changes = visitor.may_read("changes:read")
    before = read_position(request, "before")
    # First the position, then the states: what happens in between is shown twice, never not at all.
    position = await latest_position(request) if reads_changes else None
    # Without a history to show, the API says in its own words why there is no order.
    answer = await ask(request, path, refusals=frozenset({404} if reads_changes else ()))
    history = await _history(request, path, before) if reads_changes else None
    order: dict[str, Any] | None = answer.data if answer.status == 200 else None
    shown = order or _last_state(history)
    return await render(
        request,
        "order.html",
        order=shown,
        order_id=order_id,
        is_deleted=order is None,
        tag=answer.headers.get("etag", ""),
        position=position,
        history=history,
        before=before,
        may_write=order is not None and visitor.may("orders:write"),
        schedule=_schedule(order, visitor) if order else None,
    )


def _last_state(history: History | None) -> dict[str, Any] | None:
    """Return what a deleted order was at last."""
    if not history or not history.changes:
        return None
    states = history.changes[0]["data"]
    state: dict[str, Any] | None = states["order"] or states["previous"]
    return state


async def _history(request: PageRequest, path: str, before: int | None) -> History:
    """Read an order's changes, which the API lists oldest first, and keep the newest of them."""
    changes: deque[dict[str, Any]] = deque(maxlen=SHOWN_VERSIONS + 1)
    read, cursor = 0, ""
    while read < MOST_READ:
        query = [("limit", str(FEED_LIMIT)), ("cursor", cursor)]
        answer = (await ask(request, f"{path}/changes", query)).data
        changes += [item for item in answer["items"] if not before or position_of(item) < before]
        read += len(answer["items"])
        cursor = answer["next_cursor"]
        if cursor is None:
            break
    shown = list(changes)[::-1]
    older = position_of(shown[SHOWN_VERSIONS - 1]) if len(shown) > SHOWN_VERSIONS else None
    return History(shown[:SHOWN_VERSIONS], older, cursor is None)


def _schedule(order: dict[str, Any], visitor: Visitor) -> str:
    """Return the address of the schedule on the order's day, which is the visitor's."""
    day = read_instant(order["datetime"]).astimezone(visitor.zone).date()
    query = {"view": "day", "date": day.isoformat(), "calendar": order["calendar"]}
    return f"/console/schedule?{urlencode(query)}"


ROUTES = [show_order]
