"""The pool of sessions: none is lost and none is used by two, whatever callers and the server do."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import pytest

from shared.database import pool as sessions
from shared.database.engine import DB, DatabaseUnavailableError
from shared.database.statements import fetch_value
from shared.database.tables import Calendar
from shared.database.transaction import fetch_and_commit, transaction
from tests.random_rounds import seeds

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    Serve = Callable[[Coroutine[Any, Any, Any]], Any]

SIZE = 4
NAME = "the pool of this test"


class Number(msgspec.Struct, frozen=True):
    """A row."""

    number: int


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, own_database_url: str) -> Iterator[Serve]:
    """Run a step in this process with a pool of four connections, as one that serves requests."""
    monkeypatch.setitem(DB.config, "dsn", own_database_url)
    monkeypatch.setitem(
        DB.config, "server_settings", DB.config["server_settings"] | {"application_name": NAME}
    )
    with asyncio.Runner() as runner:
        runner.run(DB.start(size=SIZE, serving=True))
        try:
            yield runner.run
        finally:
            runner.run(DB.stop())


async def open_sessions(own_database_url: str) -> int:
    """Count the sessions of the pool that the server has."""
    observer = await asyncpg.connect(own_database_url)
    states = await observer.fetch("SELECT state FROM pg_stat_activity WHERE application_name = $1", NAME)
    await observer.close()
    assert "idle in transaction" not in [row["state"] for row in states]
    return len(states)


async def every_connection_is_free() -> None:
    """Use all connections of the pool at the same time, each by one caller."""
    pids = await asyncio.wait_for(
        asyncio.gather(
            *[fetch_value(int, "SELECT pg_backend_pid() FROM pg_sleep(0.1)") for _ in range(SIZE)]
        ),
        10,
    )
    assert len(set(pids)) == SIZE


async def use(choice: random.Random) -> None:
    """Use a connection in one of the ways that there are, for a moment."""
    number = choice.randrange(1_000_000)
    seconds = choice.choice([0.0, 0.0, 0.01])
    match choice.randrange(5):
        case 0:
            assert await fetch_value(int, "SELECT $1::int FROM pg_sleep($2)", number, seconds) == number
        case 1:
            async with transaction():
                assert await fetch_value(int, "SELECT $1::int FROM pg_sleep($2)", number, seconds) == number
                await DB.execute("LOCK TABLE calendar IN SHARE MODE")
                await asyncio.sleep(seconds)
        case 2:
            rows = await DB.fetch_with_custom_plan(
                "SELECT $1::int AS number FROM pg_sleep($2)", number, seconds
            )
            assert rows[0]["number"] == number
        case 3:
            await fetch_and_commit(Number, "SELECT 1 AS number FROM pg_sleep($1)", seconds)
        case _:
            await Calendar.count()


@pytest.mark.parametrize("seed", seeds(1, 3))
def test_callers_that_are_cancelled_at_any_moment_lose_no_connection(
    serve: Serve, own_database_url: str, seed: int
) -> None:
    """Nor leave a transaction or a cancelled statement behind for the next caller."""
    choice = random.Random(seed)

    async def crowd() -> int:
        for _ in range(20):
            users = [asyncio.create_task(use(choice)) for _ in range(30)]
            for user in choice.sample(users, 15):
                asyncio.get_running_loop().call_later(choice.random() * 0.03, user.cancel)
            for end in await asyncio.gather(*users, return_exceptions=True):
                if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
                    raise end
        await every_connection_is_free()
        return await open_sessions(own_database_url)

    assert serve(crowd()) == SIZE


@pytest.mark.parametrize("seed", seeds(1, 3))
def test_sessions_that_end_at_any_moment_lose_no_connection(
    serve: Serve, own_database_url: str, seed: int
) -> None:
    """Their callers are told that the database is unavailable; later ones are served."""
    choice = random.Random(seed)

    async def end_sessions() -> None:
        observer = await asyncpg.connect(own_database_url)
        while True:
            await observer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = $1 AND random() < 0.3",
                NAME,
            )
            await asyncio.sleep(0.02)

    async def use_or_be_refused() -> None:
        with suppress(DatabaseUnavailableError):
            await use(choice)

    async def crowd() -> int:
        ending = asyncio.create_task(end_sessions())
        for _ in range(10):
            await asyncio.gather(*[use_or_be_refused() for _ in range(30)])
        ending.cancel()
        with suppress(asyncio.CancelledError):
            await ending
        await asyncio.sleep(0.1)
        with suppress(DatabaseUnavailableError):  # the last ones that were ended
            await every_connection_is_free()
        await every_connection_is_free()
        return await open_sessions(own_database_url)

    assert serve(crowd()) == SIZE


def test_a_caller_that_is_cancelled_in_the_moment_it_is_served_passes_the_connection_on(serve: Serve) -> None:
    """To the next who waits, or back."""

    async def come() -> int:
        taken = [await DB.acquire() for _ in range(SIZE)]
        waiting = [asyncio.create_task(fetch_value(int, "SELECT 1")) for _ in range(2)]
        await asyncio.sleep(0.05)
        await DB.release(taken.pop())
        waiting[0].cancel()
        served = await asyncio.wait_for(waiting[1], 1)
        for connection in taken:
            await DB.release(connection)
        await every_connection_is_free()
        return served

    assert serve(come()) == 1


def test_a_caller_that_is_cancelled_again_while_it_rolls_back_leaves_no_transaction_behind(
    serve: Serve, own_database_url: str
) -> None:
    """The next caller does not find itself in it."""

    async def write() -> None:
        async with transaction():
            await DB.execute("LOCK TABLE calendar")
            await DB.execute("SELECT pg_sleep(5)")

    async def crowd() -> int:
        for _ in range(SIZE):
            writing = asyncio.create_task(write())
            await asyncio.sleep(0.1)
            for _ in range(2):
                writing.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await writing
            assert await Calendar.count() == 0
        await every_connection_is_free()
        return await open_sessions(own_database_url)

    assert serve(crowd()) == SIZE


def test_callers_are_served_in_the_order_in_which_they_came(serve: Serve) -> None:
    """Nobody who comes later takes a connection that others wait for."""

    async def crowd() -> list[int]:
        served: list[int] = []

        async def come(number: int) -> None:
            await fetch_value(int, "SELECT 1 FROM pg_sleep(0.01)")
            served.append(number)

        taken = [await DB.acquire() for _ in range(SIZE)]
        waiting = [asyncio.create_task(come(number)) for number in range(20)]
        await asyncio.sleep(0.05)
        await DB.release(taken[0])  # one connection serves them all
        await asyncio.gather(*waiting, come(20))
        for connection in taken[1:]:
            await DB.release(connection)
        return served

    assert serve(crowd()) == list(range(21))


def test_sessions_that_nobody_needs_are_closed(
    serve: Serve, own_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a burst; those that are in use stay."""
    monkeypatch.setattr(sessions, "IDLE_SECONDS", 0.4)

    async def rest() -> tuple[int, int]:
        await DB.stop()
        await DB.start(size=SIZE, serving=True)
        await every_connection_is_free()
        before = await open_sessions(own_database_url)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            await fetch_value(int, "SELECT 1")
            await asyncio.sleep(0.01)
        return before, await open_sessions(own_database_url)

    assert serve(rest()) == (SIZE, 1)


def test_stopping_waits_for_statements_that_run_and_ends_those_that_take_too_long(serve: Serve) -> None:
    """Those who wait for a connection are refused."""

    async def stop() -> list[Any]:
        short = [asyncio.create_task(fetch_value(int, "SELECT 1 FROM pg_sleep(0.2)")) for _ in range(2)]
        long = [asyncio.create_task(fetch_value(int, "SELECT 1 FROM pg_sleep(3)")) for _ in range(2)]
        waiting = [asyncio.create_task(fetch_value(int, "SELECT 1")) for _ in range(3)]
        await asyncio.sleep(0.1)
        await DB.stop(grace=0.5)
        ends = await asyncio.gather(*short, *long, *waiting, return_exceptions=True)
        return [end if isinstance(end, int) else type(end) for end in ends]

    ends = serve(stop())
    assert ends == [1, 1, *[DatabaseUnavailableError] * 5]
