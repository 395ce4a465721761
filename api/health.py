"""Whether this process lives, and whether it can do its work."""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio
from litestar import HttpMethod, Response, route
from redis.exceptions import RedisError

from shared.database import DatabaseUnavailableError, row
from shared.migrate import pending_migrations
from shared.settings import settings

REDIS_PATIENCE_SECONDS = 0.5


@route("/health/live", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def live() -> dict[str, str]:
    """Answer at all."""
    return {"status": "live"}


@route("/health/ready", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def ready() -> Response[dict[str, Any]]:
    """Tell whether orders can be stored. Redis is reported, and its absence does not make this unready."""
    queue, checks = await asyncio.gather(_queue(), _database())
    is_ready = checks["database"] == "ok" and checks["migrations"] == "ok"
    return Response(
        {"status": "ready" if is_ready else "unready", "checks": {**checks, "queue": queue}},
        status_code=200 if is_ready else 503,
        headers={} if is_ready else {"Retry-After": "1"},
    )


async def _database() -> dict[str, str]:
    try:
        await row("SELECT 1")
        pending = await pending_migrations()
    except DatabaseUnavailableError:
        return {"database": "unavailable", "migrations": "unknown"}
    return {"database": "ok", "migrations": "ok" if pending == 0 else "pending"}


async def _queue() -> str:
    # The only thing in the API that speaks to Redis; no order waits for it.
    client = redis.asyncio.from_url(
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
