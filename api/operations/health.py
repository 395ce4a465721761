"""Liveness and readiness."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from litestar import Response, route

from api.http.draining import DRAIN
from api.http.request import READ
from api.operations.queue import queue_lengths
from api.operations.readiness import check_storability


@dataclass
class NotReadyError(Exception):
    """Orders can't be stored."""

    checks: Mapping[str, str]
    reason: str
    """Why, as part of a sentence."""


@dataclass
class StoppingError(Exception):
    """This process drains: it serves on for a moment, and new requests should go elsewhere."""

    checks: Mapping[str, str]


@route("/health/live", http_method=READ)
async def live() -> dict[str, str]:
    """Report that the process is alive, by answering."""
    return {"status": "live"}


@route("/health/ready", http_method=READ)
async def ready() -> Response[dict[str, Any]]:
    """Report whether orders can be stored. Redis status is shown but never affects readiness.

    From SIGTERM on, the answer is 503.
    """
    queue, storability = await asyncio.gather(queue_lengths(), check_storability())
    checks = {
        "database": storability.database,
        "migrations": storability.migrations,
        "queue": "unavailable" if queue is None else "ok",
    }
    if DRAIN.has_begun:
        raise StoppingError(checks)
    if storability.reason:
        raise NotReadyError(checks, storability.reason)
    return Response({"status": "ready", "checks": checks})


ROUTES = [live, ready]
