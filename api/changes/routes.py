"""The HTTP routes of order changes: the feed with long polling, an order's history, the latest position."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from urllib.parse import urlencode

from litestar import Response, route

from api.changes.queries import TYPES, ChangeFilters, FeedPage, feed_page, order_history
from api.changes.tail import TAIL
from api.http.access import check_access
from api.http.connections import until_disconnect
from api.http.fields import one_of, read_id, read_position
from api.http.json_text import encode_text
from api.http.media_types import JSON
from api.http.pages import Page, answer_page, limit_of, read_cursor
from api.http.parameters import PAGING, Query, parameters_of, path_id, query_of, read_limit, read_seconds
from api.http.read_after import READ_AFTER, require_position
from api.http.request import READ, AnyRequest
from api.http.responses import BytesResponse
from api.http.scopes import CHANGES_READ
from api.http.texts import visible_text
from api.orders.fields import read_calendar
from shared.change_log import log_bounds
from shared.changes import Change

LONGEST_WAIT_SECONDS = 30

read_actor = visible_text(100)
"""Read who made a change: the name of an API key, ``anyone``, ``import`` or ``operator``."""


@route(
    "/order-changes",
    http_method=READ,
    opt={
        "scope": CHANGES_READ,
        "standby": True,
        "query": Query(
            {
                "after": read_position,
                "limit": read_limit,
                "order": read_id,
                "type": one_of(*TYPES),
                "calendar": read_calendar,
                "actor": read_actor,
                "wait": read_seconds(LONGEST_WAIT_SECONDS),
            }
        ),
    },
)
async def list_order_changes(request: AnyRequest) -> Response[bytes]:
    """Return a page of the feed; with ``wait``, wait for changes if there are none."""
    query = query_of(request)
    filters = ChangeFilters(query.get("order"), query.get("type"), query.get("calendar"), query.get("actor"))
    limit, wait = limit_of(request), query.get("wait", 0)
    after = query.get("after", 0)
    await require_position(after)
    page = await feed_page(filters, after, limit)
    if wait and not page.changes:
        TAIL.check_capacity()
        with TAIL.follow():
            # A client that disconnects frees its place at once; its answer is then discarded.
            waiting = _wait_for_changes(filters, page, limit, wait)
            page = await until_disconnect(request.receive, waiting) or page
        if page.changes:
            await check_access(request, request.route_handler)  # the key may have been revoked meanwhile
    # There is always a next page: later changes will be on it.
    parameters = {**dict(parameters_of(request)), "after": str(page.through)}
    next_url = f"{request.scope['path']}?{urlencode(parameters)}"
    items = ",".join(change.notification() for change in page.changes)
    return BytesResponse(
        f'{{"items":[{items}],"next":{encode_text(next_url)},"next_cursor":{page.through}}}'.encode(),
        media_type=JSON,
        headers={"Link": f'<{next_url}>; rel="next"'},
    )


async def _wait_for_changes(filters: ChangeFilters, page: FeedPage, limit: int, seconds: int) -> FeedPage:
    deadline = time.monotonic() + seconds
    seen, departures = page.through, TAIL.departures
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await TAIL.wait_for_poll(departures)
    while (left := deadline - time.monotonic()) > 0 and not TAIL.is_over(departures):
        generation = TAIL.generation
        await TAIL.wait_beyond(seen, left, departures)
        # PostgreSQL is queried again only if a change matches: unrelated changes cause no queries.
        if TAIL.last is None or (
            TAIL.covers(seen) and TAIL.generation == generation and not TAIL.any_matches(filters, seen)
        ):
            seen = max(seen, TAIL.last or 0)
            continue
        # The tail may have read the primary, or another standby, which is further.
        await require_position(TAIL.last or 0)
        page = await feed_page(filters, page.through, limit)
        if page.changes:
            return page
        seen = page.through
    return FeedPage([], max(page.through, seen))


@route("/order-changes/latest", http_method=READ, opt={"scope": CHANGES_READ})
async def show_latest_position() -> Response[bytes]:
    """Return the position of the latest change: a place to start from.

    Read on the primary, so that it never goes back.
    """
    return BytesResponse(f'{{"position":{(await log_bounds()).last}}}'.encode(), media_type=JSON)


@route(
    "/orders/{order_id:str}/changes",
    http_method=READ,
    opt={
        "scope": CHANGES_READ,
        "standby": "parameters",
        "query": Query({**PAGING, **READ_AFTER}),
    },
)
async def list_changes_of_order(request: AnyRequest) -> Response[bytes]:
    """List an order's changes, also those of a deleted order."""
    order_id = path_id(request, "order_id")
    after, limit = read_cursor(request, read_position), limit_of(request)
    await require_position(after or 0)
    changes = await order_history(order_id, after, limit + 1)
    return answer_page(
        request, Page.of(changes, limit, Change.notification, lambda change: [change.position])
    )


ROUTES = [list_order_changes, show_latest_position, list_changes_of_order]
