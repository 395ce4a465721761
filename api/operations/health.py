"""Liveness and readiness."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from litestar import Response, route
from redis.exceptions import RedisError

from api.http.request import READ
from shared.database.engine import DatabaseUnavailableError
from shared.database.migrate import pending_migrations
from shared.database.statements import execute
from shared.redis_clients import async_client, close_client

REDIS_TIMEOUT_SECONDS = 0.5


@dataclass
class NotReadyError(Exception):
    """Orders can't be stored: the database can't be reached, or migrations are pending."""

    checks: Mapping[str, str]


@route("/health/live", http_method=READ)
async def live() -> dict[str, str]:
    """Report that the process is alive, by answering."""
    return {"status": "live"}


@route("/health/ready", http_method=READ)
async def ready() -> Response[dict[str, Any]]:
    """Report whether orders can be stored. Redis status is shown but never affects readiness."""
    queue, database = await asyncio.gather(_queue(), _database())
    checks = {**database, "queue": queue}
    if checks["migrations"] != "ok":
        raise NotReadyError(checks)
    return Response({"status": "ready", "checks": checks})


async def _database() -> dict[str, str]:
    try:
        await execute("SELECT 1")
        pending = await pending_migrations()
    except DatabaseUnavailableError:
        return {"database": "unavailable", "migrations": "unknown"}
    return {"database": "ok", "migrations": "ok" if pending == 0 else "pending"}


async def _queue() -> str:
    # The only code in the API that connects to Redis; no order waits for it.
    client = async_client(
        socket_timeout=REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        retry=None,
    )
    try:
        async with asyncio.timeout(REDIS_TIMEOUT_SECONDS):
            await client.ping()
    except (RedisError, OSError):
        return "unavailable"
    finally:
        await close_client(client)
    return "ok"


ROUTES = [live, ready]
