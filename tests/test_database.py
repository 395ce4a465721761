"""The connection pool of a process that serves requests: waits and their limits."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from shared.database.engine import DB, DatabaseUnavailableError
from shared.database.statements import fetch_value
from shared.database.transaction import transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator


@pytest.fixture
def serve(setting: Callable[..., None]) -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Run a step in this process with a pool of four connections, as one that serves requests."""
    setting(pool_wait=0.2)
    with asyncio.Runner() as runner:
        runner.run(DB.start(size=4, serving=True))
        try:
            yield runner.run
        finally:
            runner.run(DB.stop())


def test_waiting_for_a_connection_ends_after_the_pool_wait(
    serve: Callable[[Coroutine[Any, Any, Any]], Any],
) -> None:
    """Later callers are served again."""

    async def come_when_all_are_taken() -> float:
        async with AsyncExitStack() as taken:
            for _ in range(4):
                await taken.enter_async_context(DB.connection())
            before = time.monotonic()
            with pytest.raises(DatabaseUnavailableError):
                await fetch_value(int, "SELECT 1")
            return time.monotonic() - before

    assert 0.1 < serve(come_when_all_are_taken()) < 2
    assert serve(fetch_value(int, "SELECT 1")) == 1


def test_writers_never_take_all_connections_of_the_pool(
    serve: Callable[[Coroutine[Any, Any, Any]], Any],
) -> None:
    """A reader is served however many transactions write and wait."""

    async def write(hold: asyncio.Event) -> None:
        async with transaction():
            await hold.wait()

    async def read_while_many_write() -> tuple[int, int]:
        hold = asyncio.Event()
        writers = [asyncio.create_task(write(hold)) for _ in range(6)]
        await asyncio.sleep(0.4)
        number = await fetch_value(int, "SELECT 1")
        async with transaction(readonly=True):
            pass
        hold.set()
        ends = await asyncio.gather(*writers, return_exceptions=True)
        return number, sum(isinstance(end, DatabaseUnavailableError) for end in ends)

    # Two of the six had a slot; the others waited for one as long as they may.
    assert serve(read_while_many_write()) == (1, 4)
