"""What a request leaves behind in the API's memory: the garbage collector runs seldom there."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import TYPE_CHECKING, Any

import pytest

from api.app import create_litestar
from api.http.request_bodies import receive_bodies
from api.orders.bodies import LARGEST_ORDER_BYTES
from tests.builders import order_body
from tests.import_steps import import_rows

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers import Api

REQUESTS = 50


async def _answer(app: Any, method: str, path: str, body: bytes) -> int:
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    if body:
        headers.append((b"content-length", b"%d" % len(body)))
    scope: dict[str, object] = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "headers": headers,
    }
    scope |= {"http_version": "1.1", "query_string": b"", "client": ("127.0.0.1", 5000), "state": {}}
    statuses: list[int] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    return statuses[0]


@pytest.mark.parametrize(
    ("status", "method", "path", "body"),
    [
        (200, "GET", "/health/live", b""),
        (400, "POST", "/orders", b"[" * (LARGEST_ORDER_BYTES - 1)),
        (422, "POST", "/orders", json.dumps({**order_body(), "x": "x" * 60_000}).encode()),
        (413, "POST", "/orders", b"x" * (LARGEST_ORDER_BYTES + 1)),
        (404, "GET", "/nowhere", b""),
    ],
)
def test_an_answered_request_is_freed_without_the_garbage_collector(
    status: int, method: str, path: str, body: bytes
) -> None:
    """Also its body, whatever is wrong with it: what waited for the collector would add up."""

    async def count_left() -> int:
        app = receive_bodies(create_litestar(), most_unfinished=REQUESTS)
        assert await _answer(app, method, path, body) == status
        gc.collect()
        gc.disable()
        try:
            for _ in range(REQUESTS):
                await _answer(app, method, path, body)
            return gc.collect()
        finally:
            gc.enable()

    assert asyncio.run(count_left()) < REQUESTS


def test_an_import_leaves_the_garbage_collector_as_it_was(api: Api, tmp_path: Path) -> None:
    """Also one that is refused: what called the command may run for long."""
    del api
    assert gc.isenabled()
    assert import_rows(tmp_path, []).returncode == 0
    assert gc.isenabled()
    assert import_rows(tmp_path, "{").returncode == 2
    assert gc.isenabled()
