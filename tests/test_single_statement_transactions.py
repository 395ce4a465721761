"""A statement that writes as a transaction of its own: what its caller learns when something breaks."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import msgspec
import pytest
from piccolo.engine.exceptions import TransactionError

from shared.database.engine import (
    DB,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    OutcomeUnknownError,
)
from shared.database.transaction import fetch_and_commit, retry_on_lock_timeout, transaction
from stack.embedded_postgres import EmbeddedPostgres
from tests.drivers import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from pathlib import Path

    Run = Callable[[Coroutine[Any, Any, Any]], Any]

SIZE = 4

INSERT = "INSERT INTO note (text) VALUES ($1) RETURNING id, text"
INSERT_SLOWLY = "INSERT INTO note (text) SELECT $1 FROM pg_sleep(30) RETURNING id, text"


class Note(msgspec.Struct, frozen=True):
    """A row of the table that these tests write to."""

    id: int
    text: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server whose backends may be killed."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("single") / "postgres", durable=False) as postgres:
        yield postgres


@pytest.fixture
def notes(server: EmbeddedPostgres) -> Iterator[Database]:
    """Direct access to the table."""
    with Database(server.url_of("postgres")) as database:
        yield database


@pytest.fixture
def run(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, setting: Callable[..., None]
) -> Iterator[Run]:
    """Run a step in this process with a pool of four connections to that server, on an empty table."""
    setting(pool_wait=10, lock_wait=0.1, statement_timeout=4)
    monkeypatch.setitem(DB.config, "dsn", server.url_of("postgres"))
    with Database(server.url_of("postgres")) as database:
        database.run_script(
            "DROP TABLE IF EXISTS note; CREATE TABLE note ("
            "id bigserial PRIMARY KEY, text text UNIQUE DEFERRABLE INITIALLY DEFERRED CHECK (text <> ''))"
        )
    with asyncio.Runner() as runner:
        runner.run(DB.start(size=SIZE, serving=True))
        try:
            yield runner.run
        finally:
            runner.run(DB.stop())


def texts(notes: Database) -> list[str]:
    """Every text that is stored."""
    return [row["text"] for row in notes.rows("SELECT text FROM note ORDER BY id")]


async def started(pattern: str) -> int:
    """Wait until a statement runs and return the process id of its backend."""
    while True:
        rows = await DB.fetch(
            "SELECT pid FROM pg_stat_activity "
            "WHERE state = 'active' AND query LIKE $1 AND pid <> pg_backend_pid()",
            pattern,
        )
        if rows:
            return int(rows[0]["pid"])
        await asyncio.sleep(0.01)


async def every_connection_is_free() -> None:
    """Use all connections of the pool at the same time."""
    await asyncio.wait_for(asyncio.gather(*[DB.fetch("SELECT pg_sleep(0.05)") for _ in range(SIZE)]), 5)


def test_a_row_is_returned_and_stored_without_begin_and_commit(run: Run, notes: Database) -> None:
    """And a statement without rows returns None."""

    async def write() -> tuple[Note | None, Note | None]:
        first = await fetch_and_commit(Note, INSERT, "first")
        return first, await fetch_and_commit(Note, f"{INSERT.split(' RETURNING', maxsplit=1)[0]}", "second")

    first, second = run(write())
    assert first is not None
    assert (first.text, second) == ("first", None)
    assert texts(notes) == ["first", "second"]


@pytest.mark.parametrize(
    ("statement", "text", "error"),
    [
        (INSERT, "", asyncpg.CheckViolationError),
        (INSERT, "taken", asyncpg.UniqueViolationError),  # deferred: it is checked by the commit itself
        (INSERT, 5, asyncpg.DataError),
        (INSERT_SLOWLY, "too slow", DatabaseUnavailableError),
        ("INSERT INTO nowhere VALUES ($1)", "new", DatabaseUnavailableError),
    ],
)
def test_a_refused_statement_stores_nothing_and_its_outcome_is_known(
    run: Run, notes: Database, statement: str, text: object, error: type[Exception]
) -> None:
    """Errors of the statement itself are asyncpg's own."""

    async def write() -> BaseException:
        await fetch_and_commit(Note, INSERT, "taken")
        with pytest.raises(error) as raised:
            await fetch_and_commit(Note, statement, text)
        await every_connection_is_free()
        return raised.value

    assert not isinstance(run(write()), OutcomeUnknownError)
    assert texts(notes) == ["taken"]


def test_a_read_only_session_refuses_it(run: Run, notes: Database) -> None:
    """As it does a transaction."""
    notes.run_script("ALTER ROLE postgres SET default_transaction_read_only = on")
    try:
        with pytest.raises(DatabaseReadOnlyError):
            run(fetch_and_commit(Note, INSERT, "refused"))
    finally:
        notes.run_script(
            "SET default_transaction_read_only = off; ALTER ROLE postgres RESET default_transaction_read_only"
        )
    assert texts(notes) == []


def test_a_server_that_cannot_be_reached_stores_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The outcome is known."""

    async def write() -> BaseException:
        await DB.stop()
        monkeypatch.setitem(DB.config, "dsn", f"postgresql:///postgres?host={tmp_path}")
        await DB.start(size=SIZE, serving=True)
        with pytest.raises(DatabaseUnavailableError) as raised:
            await fetch_and_commit(Note, INSERT, "nowhere")
        return raised.value

    assert not isinstance(run(write()), OutcomeUnknownError)


@pytest.mark.parametrize("how", ["terminated", "killed"])
def test_the_outcome_is_unknown_if_the_backend_ends_while_it_runs_the_statement(
    run: Run, server: EmbeddedPostgres, how: str
) -> None:
    """Later statements are served again, with a new session."""

    async def write() -> None:
        writing = asyncio.create_task(fetch_and_commit(Note, INSERT_SLOWLY, "lost"))
        pid = await started("INSERT%")
        if how == "killed":
            os.kill(pid, signal.SIGKILL)
        else:
            await DB.fetch("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(OutcomeUnknownError):
            await writing
        for _ in range(200):  # the server restarts if one of its processes was killed
            with suppress(DatabaseUnavailableError):
                await every_connection_is_free()
                break
            await asyncio.sleep(0.05)
        assert await fetch_and_commit(Note, INSERT, "later") is not None

    run(write())
    with Database(server.url_of("postgres")) as notes:
        assert texts(notes) == ["later"]


@asynccontextmanager
async def withholding_answers(url: str, folder: Path) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Stand between a pool and its server; once the event is set, answers are lost with their connection."""
    there = parse_qs(urlsplit(url).query)["host"][0]
    withheld = asyncio.Event()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await reader.read(65_536):
            if answers and withheld.is_set():
                break
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(f"{there}/.s.PGSQL.5432")
        try:
            await asyncio.wait(
                [
                    asyncio.create_task(forward(from_server, writer, answers=True)),
                    asyncio.create_task(forward(reader, to_server, answers=False)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            writer.close()
            to_server.close()

    async with await asyncio.start_unix_server(serve, folder / ".s.PGSQL.5432"):
        yield f"postgresql://postgres@/postgres?host={quote(str(folder), safe='/')}&port=5432", withheld


def test_the_outcome_is_unknown_if_the_answer_is_lost_although_the_row_is_stored(
    run: Run, notes: Database, server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only the caller's own look can tell."""

    async def write() -> None:
        await DB.stop()
        async with withholding_answers(server.url_of("postgres"), tmp_path) as (url, withheld):
            monkeypatch.setitem(DB.config, "dsn", url)
            await DB.start(size=SIZE, serving=True)
            await fetch_and_commit(Note, INSERT, "answered")
            withheld.set()
            with pytest.raises(OutcomeUnknownError):
                await fetch_and_commit(Note, INSERT, "unanswered")
            withheld.clear()
            await every_connection_is_free()
            await DB.stop()

    run(write())
    assert texts(notes) == ["answered", "unanswered"]


def test_a_caller_that_is_cancelled_returns_its_connection(run: Run, notes: Database) -> None:
    """And its write slot: more are cancelled than there are."""

    async def write() -> None:
        for _ in range(3 * SIZE):
            writing = asyncio.create_task(fetch_and_commit(Note, INSERT_SLOWLY, "cancelled"))
            await started("INSERT%")
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
        await every_connection_is_free()
        assert await fetch_and_commit(Note, INSERT, "later") is not None

    run(write())
    assert texts(notes) == ["later"]


def test_it_waits_for_a_write_slot_as_a_transaction_does(
    run: Run, notes: Database, setting: Callable[..., None]
) -> None:
    """Readers always find a connection."""
    setting(pool_wait=1)

    async def write() -> list[BaseException | Note | None]:
        writing = [
            asyncio.create_task(
                fetch_and_commit(Note, INSERT_SLOWLY.replace("30", "2"), f"at the same time {number}")
            )
            for number in range(SIZE)
        ]
        await started("INSERT%")
        await asyncio.wait_for(DB.fetch("SELECT 1"), 0.5)
        return await asyncio.gather(*writing, return_exceptions=True)

    ends = run(write())
    assert [type(end) for end in ends] == [Note, Note] + 2 * [type(ends[-1])]
    assert isinstance(ends[-1], DatabaseUnavailableError)
    assert len(texts(notes)) == 2


def test_a_held_lock_is_left_to_the_retry(run: Run, notes: Database) -> None:
    """Which succeeds once the lock is released."""
    write = retry_on_lock_timeout(fetch_and_commit)

    async def contend() -> None:
        async with transaction():
            await DB.execute("LOCK TABLE note")

            # In contexts of their own, as other requests are.
            waiting = asyncio.create_task(write(Note, INSERT, "waited"), context=Context())
            refused = asyncio.create_task(fetch_and_commit(Note, INSERT, "refused"), context=Context())
            with pytest.raises(asyncpg.LockNotAvailableError):
                await refused
            await asyncio.sleep(0.5)
            assert not waiting.done()
        assert await waiting is not None

    run(contend())
    assert texts(notes) == ["waited"]


def test_it_is_refused_inside_a_transaction(run: Run, notes: Database) -> None:
    """It would be committed even if the transaction were rolled back."""

    async def write() -> None:
        async with transaction():
            await fetch_and_commit(Note, INSERT, "nested")

    with pytest.raises(TransactionError):
        run(write())
    assert texts(notes) == []
