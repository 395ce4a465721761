"""The path of every request, in this process: no part of it waits for a thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx

from api.app import create_app
from tests.builders import order_body

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.drivers import Database


class NoThreads(ThreadPoolExecutor):
    """Replaces the executor of the event loop, to which nothing may be submitted."""

    def submit(self, function: Any, /, *_: Any, **__: Any) -> Any:
        """Fail the test that submits anything."""
        raise AssertionError(f"{function} was submitted to a thread")


def test_no_request_is_handed_to_a_thread(
    run: Callable[[Coroutine[Any, Any, Any]], Any], database: Database
) -> None:
    """Litestar runs each guard that is not a coroutine in a thread: four doubled the time of a read."""
    database.add_services()

    async def requests() -> list[int]:
        asyncio.get_running_loop().set_default_executor(NoThreads())
        application: Any = create_app()  # Litestar's type of an application is not httpx'
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            placed = await client.post("/orders", json=order_body())
            path = placed.headers["location"]
            answers = [await client.get(path), await client.get("/orders"), await client.delete(path)]
            return [placed.status_code, *(answer.status_code for answer in answers)]

    assert run(requests()) == [201, 200, 200, 204]
