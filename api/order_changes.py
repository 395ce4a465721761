"""The feed of order changes, with long polling; an order's history; where the feed ends at present."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from litestar import HttpMethod, Response, route

from api import fields
from api.connections import unless_gone
from api.negotiation import JSON
from api.order_change_queries import TYPES, ChangeFilters, FeedPage, feed_page, log_bounds, order_history
from api.order_change_tail import TAIL
from api.pages import DEFAULT_LIMIT, Page, answer_page, read_cursor
from api.problem_types import UNAVAILABLE
from api.problems import ProblemError
from api.requests import AnyRequest, path_id, read_limit, read_query

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LONGEST_WAIT_SECONDS = 30

MOST_FOLLOWERS = 1_500
"""Streams and waiting requests of one process: below the connections that it takes, so that orders can
still be placed while everybody follows."""

_READ = [HttpMethod.GET, HttpMethod.HEAD]


def _read_wait(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 2 and int(value) <= LONGEST_WAIT_SECONDS):
        message = f"must be a whole number of seconds from 0 to {LONGEST_WAIT_SECONDS}"
        raise ValueError(message)
    return int(value)


_FEED_PARAMETERS: Mapping[str, Callable[[str], Any]] = {
    "after": fields.read_position,
    "limit": read_limit,
    "order": fields.read_id,
    "type": fields.one_of(*TYPES),
    "calendar": fields.read_calendar,
    "wait": _read_wait,
}


def refuse_if_too_many_follow() -> None:
    """See that there is room for one more who keeps a connection.

    Raises:
        ProblemError: 503, there is none.

    """
    if TAIL.followers >= MOST_FOLLOWERS:
        raise ProblemError(
            UNAVAILABLE,
            f"{MOST_FOLLOWERS} streams and waiting requests are open on this process.",
            headers={"Retry-After": "5"},
        )


@route("/order-changes", http_method=_READ)
async def list_order_changes(request: AnyRequest) -> Response[bytes]:
    """Give a page of the feed; with ``wait``, wait for something to be in it."""
    query = read_query(request, _FEED_PARAMETERS)
    filters = ChangeFilters(query.get("order"), query.get("type"), query.get("calendar"))
    limit, wait = query.get("limit", DEFAULT_LIMIT), query.get("wait", 0)
    page = await feed_page(filters, query.get("after", 0), limit)
    if wait and not page.changes:
        refuse_if_too_many_follow()
        with TAIL.follow():
            # Who has left keeps no place until the wait is over; the answer then goes nowhere.
            waiting = _wait_for_changes(filters, page, limit, wait)
            page = await unless_gone(request.receive, waiting) or page
    # There is always a next: the feed has no end, only a place where it ends at present.
    given = {name: request.query_params[name] for name in request.query_params}
    following = f"{request.url.path}?{urlencode({**given, 'after': str(page.through)})}"
    items = ",".join(change.notification() for change in page.changes)
    return Response(
        f'{{"items":[{items}],"next":{json.dumps(following)}}}'.encode(),
        media_type=JSON,
        headers={"Link": f'<{following}>; rel="next"'},
    )


async def _wait_for_changes(filters: ChangeFilters, page: FeedPage, limit: int, seconds: int) -> FeedPage:
    give_up = time.monotonic() + seconds
    seen = page.through
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await TAIL.wait_for_a_look()
    while (left := give_up - time.monotonic()) > 0 and not TAIL.ended:
        generation = TAIL.generation
        await TAIL.wait_beyond(seen, left)
        # PostgreSQL is asked again only if there is something: filtered requests don't wake it in vain.
        if TAIL.last is None or (
            TAIL.reaches(seen) and TAIL.generation == generation and not TAIL.any_fits(filters, seen)
        ):
            seen = max(seen, TAIL.last or 0)
            continue
        page = await feed_page(filters, page.through, limit)
        if page.changes:
            return page
        seen = page.through
    return FeedPage([], max(page.through, seen))


@route("/order-changes/latest", http_method=_READ)
async def show_latest_position(request: AnyRequest) -> Response[bytes]:
    """Give the position of the latest change: a place to start from."""
    read_query(request, {})
    return Response(f'{{"position":{(await log_bounds()).last}}}'.encode(), media_type=JSON)


@route("/orders/{order_id:str}/changes", http_method=_READ)
async def list_changes_of_order(request: AnyRequest) -> Response[bytes]:
    """List an order's changes, also of an order that was deleted."""
    order_id = path_id(request, "order_id")
    query = read_query(request, {"limit": read_limit, "cursor": str})
    limit = query.get("limit", DEFAULT_LIMIT)
    after = read_cursor(request, query, fields.read_position)
    found = await order_history(order_id, after, limit + 1)
    shown = found[:limit]
    return answer_page(
        request,
        Page(
            [change.notification() for change in shown],
            [shown[-1].position] if len(found) > limit else None,
        ),
    )


ROUTES = [list_order_changes, show_latest_position, list_changes_of_order]
