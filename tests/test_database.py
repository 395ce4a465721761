"""The connection pool of a process that serves requests: waits and their limits."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from shared.database.engine import DB, DatabaseUnavailableError, OverloadedError
from shared.database.sessions import Session
from shared.database.statements import fetch_all, fetch_value
from shared.database.transaction import transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator


@dataclass(frozen=True)
class Pair:
    """A row of two columns."""

    first: int
    second: int


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
    serve: Callable[[Coroutine[Any, Any, Any]], Any], setting: Callable[..., None]
) -> None:
    """Later callers are served again."""

    async def come_when_all_are_taken() -> float:
        async with AsyncExitStack() as taken:
            setting(pool_wait=5)  # to open connections may take a while
            for _ in range(4):
                taken.push_async_callback(DB.release, await DB.acquire())
            setting(pool_wait=0.2)
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


def test_a_writer_that_cannot_start_in_time_is_refused_at_once(
    serve: Callable[[Coroutine[Any, Any, Any]], Any], setting: Callable[..., None]
) -> None:
    """Those who fit into the line are served, and so are all who come after it has ended."""
    setting(pool_wait=2)

    async def write() -> float:
        async with transaction():
            await asyncio.sleep(0.1)
        return 0

    async def seconds_until_refused() -> float:
        before = time.monotonic()
        with pytest.raises(OverloadedError):
            await write()
        return time.monotonic() - before

    async def overload() -> None:
        first = [asyncio.create_task(write()) for _ in range(30)]  # two at a time: 1.5 s
        await asyncio.sleep(1.1)
        rest = [asyncio.create_task(write()) for _ in range(200)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(seconds_until_refused(), 1) < 0.1
        assert await fetch_value(int, "SELECT 1") == 1
        results = await asyncio.gather(*first, *rest, return_exceptions=True)
        assert not any(map(is_refused, results[:30]))
        assert 150 < sum(map(is_refused, results)) < 200
        assert not any(map(is_refused, await asyncio.gather(*[write() for _ in range(20)])))

    serve(overload())


def test_a_writer_is_refused_soon_while_many_wait_for_a_lock(
    serve: Callable[[Coroutine[Any, Any, Any]], Any], setting: Callable[..., None], postgres_url: str
) -> None:
    """Its turn would come in time, and the lock not."""
    setting(pool_wait=5, lock_wait=0.1, statement_timeout=4)

    async def write() -> float:
        began = time.monotonic()
        with suppress(DatabaseUnavailableError):
            await DB.retry_while_locked(lock)
        return time.monotonic() - began

    async def lock() -> None:
        async with transaction():
            await DB.execute("LOCK TABLE service IN SHARE MODE")

    async def crowd() -> list[float]:
        await DB.stop()
        await DB.start(size=4, serving=True)  # with these settings
        locking = await asyncpg.connect(postgres_url)
        async with locking.transaction():
            await locking.execute("LOCK TABLE service IN EXCLUSIVE MODE")
            first = [asyncio.create_task(write()) for _ in range(100)]  # forty of them may wait
            await asyncio.sleep(2.5)
            later = await asyncio.gather(*[write() for _ in range(30)])
            await asyncio.gather(*first)
        await locking.close()
        return later

    assert max(serve(crowd())) < 1.5


def test_a_burst_of_writers_that_can_all_start_in_time_is_not_refused(
    serve: Callable[[Coroutine[Any, Any, Any]], Any], setting: Callable[..., None]
) -> None:
    """Though the first transactions are slow, and a pause of the machine comes in between."""
    setting(pool_wait=5)

    async def write(seconds: float) -> None:
        async with transaction():
            await asyncio.sleep(seconds)

    async def burst() -> None:
        writers = []
        for number in range(300):
            writers.append(asyncio.create_task(write(0.15 if number < 4 else 0.01)))
            await asyncio.sleep(0.001)
        await asyncio.sleep(1)
        time.sleep(0.4)  # noqa: ASYNC251 - the machine stands still
        await asyncio.sleep(0.05)
        writers += [asyncio.create_task(write(0.01)) for _ in range(100)]
        await asyncio.gather(*writers)

    serve(burst())


def test_a_reader_that_cannot_start_in_time_is_refused_at_once(
    serve: Callable[[Coroutine[Any, Any, Any]], Any], setting: Callable[..., None]
) -> None:
    """Also when no connection was returned for a second: nobody knows when the next one will be."""
    setting(pool_wait=3)

    async def come_when_all_are_stuck() -> None:
        async with AsyncExitStack() as taken:
            for _ in range(4):
                taken.push_async_callback(DB.release, await DB.acquire())
            waiting = [asyncio.create_task(fetch_value(int, "SELECT 1")) for _ in range(20)]
            await asyncio.sleep(1.2)
            before = time.monotonic()
            with pytest.raises(OverloadedError):
                await fetch_value(int, "SELECT 1")
            assert time.monotonic() - before < 0.1
        assert await asyncio.gather(*waiting) == [1] * 20

    serve(come_when_all_are_stuck())


def is_refused(result: object) -> bool:
    """Whether a request was refused for overload, and not for another reason."""
    if isinstance(result, BaseException) and not isinstance(result, OverloadedError):
        raise result
    return isinstance(result, OverloadedError)


def test_a_connection_to_a_server_that_is_gone_is_closed_by_the_kernel(postgres_url: str) -> None:
    """Over TCP; nothing else would ever end a statement that waits for a host without power."""
    folder = parse_qs(urlsplit(postgres_url).query)["host"][0]

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")
        await asyncio.gather(forward(reader, to_server), forward(from_server, writer))

    async def options() -> list[int]:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            session = await asyncpg.connect(
                postgres_url, host="127.0.0.1", port=port, connection_class=Session
            )
            connection = session._transport.get_extra_info("socket")  # type: ignore[attr-defined]
            values = [
                connection.getsockopt(level, option)
                for level, option in (
                    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
                    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
                    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
                )
            ]
            await session.close()
            return values

    with asyncio.Runner() as runner:
        assert runner.run(options()) == [1, 2, 1, 3, 5_000]


def test_a_row_is_read_by_the_names_of_its_columns(serve: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    """In whatever order they are; a missing or an unexpected column fails."""
    assert serve(fetch_all(Pair, "SELECT 1 AS first, 2 AS second")) == [Pair(1, 2)]
    assert serve(fetch_all(Pair, "SELECT 2 AS second, 1 AS first")) == [Pair(1, 2)]
    assert serve(fetch_all(Pair, "SELECT 2 AS second, 1 AS first WHERE false")) == []
    for columns in ("1 AS first", "1 AS first, 2 AS second, 3 AS third", "1 AS first, 2 AS third", "1, 2"):
        with pytest.raises(TypeError):
            serve(fetch_all(Pair, f"SELECT {columns}"))
