"""The API, put together: routes, error handling, limits, and what starts and stops with the process."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from litestar import Litestar
from litestar.config.app import AppConfig

from api import calendars, contract, health, metrics, order_change_stream, order_changes, services
from api.access import check_access
from api.fee_summaries import routes as fee_summaries
from api.methods import options_routes
from api.negotiation import check_acceptable
from api.order_change_tail import TAIL
from api.orders import routes as orders
from api.problems import answer
from api.request_log import request_log
from api.requests import check_host, check_path
from api.shutdown import noticing_shutdown
from api.unread_bodies import read_unread_bodies
from api.webhooks import routes as webhooks
from shared.database.engine import DB
from shared.logs import configure_logs
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from litestar.handlers import BaseRouteHandler
    from litestar.types import ASGIApp

    from api.requests import AnyConnection

LARGEST_BODY_BYTES = 65_536


ROUTES = [
    *orders.ROUTES,
    *services.ROUTES,
    *calendars.ROUTES,
    *fee_summaries.ROUTES,
    *webhooks.ROUTES,
    *order_changes.ROUTES,
    *order_change_stream.ROUTES,
    *health.ROUTES,
    *metrics.ROUTES,
    *contract.ROUTES,
]


@asynccontextmanager
async def _database_pool(_app: Litestar) -> AsyncIterator[None]:
    await DB.start(settings().pool_size, serving=True)
    try:
        yield
    finally:
        await DB.stop()


@asynccontextmanager
async def _streams(_app: Litestar) -> AsyncIterator[None]:
    TAIL.begin()
    with noticing_shutdown(TAIL.end):
        yield
    TAIL.end()


async def check_request(connection: AnyConnection, handler: BaseRouteHandler) -> None:
    """Refuse what no route should see: the one guard of them all.

    A coroutine, as Litestar hands each guard that is none to a thread, for every request.
    """
    check_host(connection)
    check_path(connection)
    check_access(connection)
    check_acceptable(connection, handler)


def create_app() -> ASGIApp:
    """Assemble the application. granian calls this in each of its processes."""
    configure_logs()
    application = Litestar.from_config(
        AppConfig(
            # Those of OPTIONS first: Litestar adds its own to a path that has none yet.
            route_handlers=[*options_routes(ROUTES), *ROUTES],
            guards=[check_request],
            exception_handlers={Exception: answer},
            lifespan=[_database_pool, _streams],
            request_max_body_size=LARGEST_BODY_BYTES,
            # The contract is written by hand and this is tested against it; a generated one would differ.
            openapi_config=None,
        )
    )
    return request_log(read_unread_bodies(application))
