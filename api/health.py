"""Whether this process lives, and whether it can do its work."""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio as redis_client
from litestar import HttpMethod, Response, route
from redis.exceptions import RedisError

from api.problem_types import UNAVAILABLE
from api.problems import RETRY_AFTER_SECONDS, ProblemError
from api.requests import AnyRequest, read_query
from shared.database.engine import DatabaseUnavailableError
from shared.database.migrate import pending_migrations
from shared.database.rows import row
from shared.settings import settings

REDIS_PATIENCE_SECONDS = 0.5


@route("/health/live", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def live(request: AnyRequest) -> dict[str, str]:
    """Answer at all."""
    read_query(request, {})
    return {"status": "live"}


@route("/health/ready", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def ready(request: AnyRequest) -> Response[dict[str, Any]]:
    """Tell whether orders can be stored. Redis is reported, and its absence does not make this unready."""
    read_query(request, {})
    queue, database = await asyncio.gather(_queue(), _database())
    checks = {**database, "queue": queue}
    if checks["migrations"] != "ok":
        raise ProblemError(
            UNAVAILABLE,
            "Orders can't be stored: the database can't be reached, or its schema is behind.",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            members={"checks": checks},
        )
    return Response({"status": "ready", "checks": checks})


async def _database() -> dict[str, str]:
    try:
        await row("SELECT 1")
        pending = await pending_migrations()
    except DatabaseUnavailableError:
        return {"database": "unavailable", "migrations": "unknown"}
    return {"database": "ok", "migrations": "ok" if pending == 0 else "pending"}


async def _queue() -> str:
    # The only thing in the API that speaks to Redis; no order waits for it.
    client = redis_client.from_url(
        settings().redis_url,
        socket_timeout=REDIS_PATIENCE_SECONDS,
        socket_connect_timeout=REDIS_PATIENCE_SECONDS,
        retry=None,
    )
    try:
        async with asyncio.timeout(REDIS_PATIENCE_SECONDS):
            await client.ping()
    except (RedisError, OSError):
        return "unavailable"
    finally:
        await client.aclose()
    return "ok"


ROUTES = [live, ready]
