"""The assembled API: routes, error handling, limits, and what starts and stops with the process."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from litestar import Litestar
from litestar.config.app import AppConfig

from api.calendars import routes as calendars
from api.changes import routes as changes
from api.changes import stream, ticket_routes
from api.changes.tail import TAIL
from api.fee_summaries import routes as fee_summaries
from api.http.access import check_access, check_authorization
from api.http.ambiguous_requests import check_path, check_transfer_coding
from api.http.cors import allow_origins
from api.http.draining import DRAIN
from api.http.early_refusals import refuse_early
from api.http.hosts import check_host, check_origin
from api.http.media_types import check_acceptable
from api.http.open_connections import closing_silent_connections, most_connections, track_requests
from api.http.options import options_routes
from api.http.parameters import check_query
from api.http.read_after import choose_read_place
from api.http.request_bodies import receive_bodies
from api.http.request_log import request_log
from api.http.request_sizes import check_sizes
from api.http.request_traces import trace_requests
from api.keys import caller_routes
from api.keys import routes as keys
from api.operations import contracts, documentation, health, metrics
from api.orders import routes as orders
from api.orders import update_routes as order_updates
from api.orders.imports import routes as order_imports
from api.problem_map import answer
from api.server import draining_on_signals, end_with_server
from api.services import routes as services
from api.webhooks import routes as webhooks
from console.app import create_pages, with_console
from shared.database.engine import DB
from shared.database.read_places import READ_PLACE
from shared.database.standbys import STANDBYS
from shared.logs import configure_logs
from shared.settings import settings
from shared.tracing.hidden import without_opentelemetry
from shared.tracing.spans import begin_tracing, end_tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from litestar.types import ASGIApp

    from api.http.request import AnyRequest

LARGEST_BODY_BYTES = 65_536

ROUTES = [
    *orders.ROUTES,
    *order_updates.ROUTES,
    *order_imports.ROUTES,
    *services.ROUTES,
    *calendars.ROUTES,
    *fee_summaries.ROUTES,
    *webhooks.ROUTES,
    *keys.ROUTES,
    *caller_routes.ROUTES,
    *changes.ROUTES,
    *stream.ROUTES,
    *ticket_routes.ROUTES,
    *health.ROUTES,
    *metrics.ROUTES,
    *contracts.ROUTES,
    *documentation.ROUTES,
]


@asynccontextmanager
async def _database_pool(_app: Litestar) -> AsyncIterator[None]:
    await DB.start(settings().pool_size, serving=True)
    STANDBYS.start(settings().pool_size)
    try:
        yield
    finally:
        await STANDBYS.stop()
        await DB.stop()


@asynccontextmanager
async def _traces(_app: Litestar) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await asyncio.to_thread(end_tracing)


@asynccontextmanager
async def _connections(_app: Litestar) -> AsyncIterator[None]:
    async with closing_silent_connections(settings().port):
        yield


def _drain() -> None:
    DRAIN.begin()
    TAIL.dismiss()


@asynccontextmanager
async def _streams(_app: Litestar) -> AsyncIterator[None]:
    end_with_server()
    TAIL.begin()
    with draining_on_signals(_drain, TAIL.end):
        yield
    TAIL.end()


@asynccontextmanager
async def _rare_garbage_collections(_app: Litestar) -> AsyncIterator[None]:
    """Never look for garbage among what was there at the start, and seldom among the rest.

    To look through all modules again and again took a fifth of the time of a read. Little waits to be freed:
    a request leaves no cycles of objects behind, unless the database was away.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 10, 10)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


async def check_request(request: AnyRequest) -> None:
    """Refuse a request before its route runs.

    It is a coroutine, because Litestar runs a synchronous hook in a thread for every request; and no guard,
    because for each guard Litestar copies the route's handler for every request.
    """
    handler = request.route_handler
    READ_PLACE.set(None)
    check_path(request)
    await check_access(request, handler)
    check_acceptable(request, handler)
    check_query(request, handler)
    await choose_read_place(request, handler)


def create_litestar() -> Litestar:
    """Assemble routes, checks and error handling; the command `litestar --app` takes this one."""
    with without_opentelemetry():
        return Litestar.from_config(
            AppConfig(
                # OPTIONS first: Litestar adds its own OPTIONS route to a path that has none yet.
                route_handlers=[*options_routes(ROUTES), *ROUTES],
                before_request=check_request,
                exception_handlers={Exception: answer},
                lifespan=[_traces, _database_pool, _connections, _streams, _rare_garbage_collections],
                request_max_body_size=LARGEST_BODY_BYTES,
                # The contract is written by hand, and the routes are tested against it.
                openapi_config=None,
            )
        )


def create_app() -> ASGIApp:
    """Assemble the application. granian calls this in each of its processes."""
    configure_logs()
    begin_tracing("api")
    api = _with_checks(create_litestar())
    with without_opentelemetry():
        pages = create_pages(api, answer)
    return track_requests(with_console(api, _with_checks(pages)))


def _with_checks(application: ASGIApp) -> ASGIApp:
    """Put everything in front of an application that its requests pass first."""
    checks = (check_sizes, check_transfer_coding, check_host, check_authorization, check_origin)
    checked = refuse_early(application, answer, *checks)
    limited = receive_bodies(checked, most_unfinished=most_connections() // 8)
    return trace_requests(request_log(allow_origins(limited)))
