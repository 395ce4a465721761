"""Reads that share a statement: each caller gets what it would have got alone."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import pytest

from api.orders import queries
from api.orders.errors import OrderNotFoundError
from shared.database.coalesced_reads import CoalescedReads
from shared.database.engine import DB, DatabaseUnavailableError
from shared.database.statements import execute, fetch_all
from shared.database.transaction import fetch_and_commit, transaction
from tests.drivers import Database, at_once
from tests.random_rounds import seeds

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    import httpx

    from tests.drivers import Api

    Serve = Callable[[Coroutine[Any, Any, Any]], Any]

NOTES = 20
SELECT = "SELECT id, version FROM note WHERE id = ANY($1)"
SELECT_SLOWLY = f"{SELECT} AND pg_sleep(0.5) IS NOT NULL"
UPDATE = "UPDATE note SET version = version + 1 WHERE id = $1 RETURNING id, version"


class Note(msgspec.Struct, frozen=True):
    """A row of the table that these tests read."""

    id: int
    version: int


class Notes:
    """Coalesced reads of notes, and the statements that they took."""

    def __init__(self, statement: str = SELECT) -> None:
        self.statement = statement
        self.sent: list[list[int]] = []
        self.running = self.most_running = 0
        self.read = CoalescedReads(self._fetch).read

    async def _fetch(self, ids: list[int]) -> dict[int, Note]:
        self.sent.append(ids)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            return {note.id: note for note in await fetch_all(Note, self.statement, ids)}
        finally:
            self.running -= 1


@pytest.fixture
def serve(
    monkeypatch: pytest.MonkeyPatch, own_database_url: str, setting: Callable[..., None]
) -> Iterator[Serve]:
    """Run a step in this process with a pool of four connections, on a table of twenty notes."""
    setting(lock_wait=0.1)
    monkeypatch.setitem(DB.config, "dsn", own_database_url)
    with Database(own_database_url) as database:
        database.run_script(
            "DROP TABLE IF EXISTS note, elsewhere; CREATE TABLE note (id bigint PRIMARY KEY, version int);"
            f"INSERT INTO note SELECT number, 1 FROM generate_series(1, {NOTES}) AS number"
        )
    with asyncio.Runner() as runner:
        runner.run(DB.start(size=4, serving=True))
        try:
            yield runner.run
        finally:
            runner.run(DB.stop())


def test_reads_at_the_same_moment_share_a_statement_and_each_gets_its_own_row(serve: Serve) -> None:
    """Or none, if there is none: unknown ids are among the known ones, and some are asked for twice."""
    notes = Notes()
    ids = [*range(1, NOTES + 1), 404, 405, 7, 404]

    async def read() -> list[Note | None]:
        return await asyncio.gather(*[notes.read(number) for number in ids])

    rows = serve(read())
    assert rows == [Note(number, 1) if number <= NOTES else None for number in ids]
    assert [sorted(sent) for sent in notes.sent] == [sorted(set(ids))]


def test_those_who_come_while_a_statement_runs_are_the_next_statement(serve: Serve) -> None:
    """One runs at a time, however many come and whenever."""
    notes = Notes(SELECT_SLOWLY)

    async def come() -> None:
        first = asyncio.create_task(notes.read(1))
        await asyncio.sleep(0.1)
        later = []
        for number in (2, 3, 4):
            later.append(asyncio.create_task(notes.read(number)))
            await asyncio.sleep(0.05)
        await asyncio.gather(first, *later)

    serve(come())
    assert [sorted(sent) for sent in notes.sent] == [[1], [2, 3, 4]]
    assert notes.most_running == 1


@pytest.mark.parametrize("seed", seeds(1, 3))
def test_a_read_sees_every_write_that_was_answered_before_it_began(serve: Serve, seed: int) -> None:
    """Writers and readers of few rows, all at the same time, some of them cancelled."""
    choice = random.Random(seed)
    notes = Notes()
    written: Counter[int] = Counter(dict.fromkeys(range(1, NOTES + 1), 1))

    async def write_and_read() -> None:
        for _ in range(20):
            number = choice.randint(1, 3)
            if choice.random() < 0.5:
                note = await fetch_and_commit(Note, UPDATE, number)
                assert note is not None
                written[number] = max(written[number], note.version)
            answered = written[number]
            read = await notes.read(number)
            assert read is not None
            assert answered <= read.version, f"seed {seed}"

    async def read_and_be_cancelled() -> None:
        for _ in range(20):
            reading = asyncio.create_task(notes.read(choice.randint(1, 3)))
            await asyncio.sleep(choice.random() * 0.003)
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading

    async def crowd() -> None:
        await asyncio.gather(
            *[write_and_read() for _ in range(30)], *[read_and_be_cancelled() for _ in range(5)]
        )

    serve(crowd())
    assert notes.most_running == 1
    print(f"seed {seed}: {len(notes.sent)} statements for {30 * 20} reads")


def test_a_caller_that_is_cancelled_harms_nobody_else(serve: Serve) -> None:
    """Neither the first one, before and after its statement was sent, nor one that waits for the next."""
    notes = Notes(SELECT_SLOWLY)

    async def come() -> list[Any]:
        reads = [asyncio.create_task(notes.read(number)) for number in range(1, 7)]
        reads[0].cancel()
        await asyncio.sleep(0.1)
        reads[1].cancel()
        later = [asyncio.create_task(notes.read(number)) for number in range(7, 10)]
        await asyncio.sleep(0.1)
        later[0].cancel()
        return await asyncio.gather(*reads, *later, return_exceptions=True)

    ends = serve(come())
    cancelled = {0, 1, 6}
    assert all(isinstance(ends[place], asyncio.CancelledError) for place in cancelled)
    assert [end for place, end in enumerate(ends) if place not in cancelled] == [
        Note(number, 1) for number in (3, 4, 5, 6, 8, 9)
    ]
    assert 7 not in notes.sent[1]


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT id, version FROM nowhere WHERE id = ANY($1)", DatabaseUnavailableError),  # not migrated yet
        ("SELECT id, version / 0 AS version FROM note WHERE id = ANY($1)", asyncpg.DivisionByZeroError),
        ("SELECT id FROM note WHERE id = ANY($1)", TypeError),
    ],
)
def test_an_error_of_the_statement_reaches_every_caller(
    serve: Serve, statement: str, error: type[Exception]
) -> None:
    """As if each had asked alone; later ones are served."""
    notes = Notes(statement)

    async def read() -> list[Any]:
        ends = await asyncio.gather(*[notes.read(number) for number in range(1, 6)], return_exceptions=True)
        notes.statement = SELECT
        return [*map(type, ends), await notes.read(1)]

    assert serve(read()) == [*[error] * 5, Note(1, 1)]


def test_callers_of_a_statement_whose_session_ends_are_refused_and_the_next_are_served(
    serve: Serve, own_database_url: str
) -> None:
    """Those who waited meanwhile too."""
    notes = Notes(SELECT_SLOWLY)

    async def come() -> list[Any]:
        first = [asyncio.create_task(notes.read(number)) for number in (1, 2)]
        await asyncio.sleep(0.2)
        second = [asyncio.create_task(notes.read(number)) for number in (3, 4)]
        observer = await asyncpg.connect(own_database_url)
        ended = await observer.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE query LIKE '%pg_sleep(0.5)%' AND pid <> pg_backend_pid() AND state = 'active'"
        )
        await observer.close()
        assert len(ended) == 1
        return await asyncio.gather(*first, *second, return_exceptions=True)

    ends = serve(come())
    assert list(map(type, ends[:2])) == [DatabaseUnavailableError] * 2
    assert ends[2:] == [Note(3, 1), Note(4, 1)]


def test_a_read_in_a_transaction_sees_what_it_has_written_and_nobody_else_does(serve: Serve) -> None:
    """Also while others wait for their statement."""
    notes = Notes(SELECT_SLOWLY)

    async def come() -> tuple[Note | None, ...]:
        others = [asyncio.create_task(notes.read(1))]
        await asyncio.sleep(0.1)
        others.append(asyncio.create_task(notes.read(1)))
        async with transaction():
            await execute(UPDATE, 1)
            own = await notes.read(1)
            before_commit = await asyncio.gather(*others)
        return own, *before_commit, await notes.read(1)

    assert serve(come()) == (Note(1, 2), Note(1, 1), Note(1, 1), Note(1, 2))


def test_the_wait_for_the_statement_before_has_a_limit(serve: Serve, setting: Callable[..., None]) -> None:
    """As the wait for a connection; whoever is part of a sent statement gets its answer."""
    setting(pool_wait=0.2)
    notes = Notes(SELECT_SLOWLY)

    async def come() -> tuple[list[Any], float]:
        first = asyncio.create_task(notes.read(1))
        await asyncio.sleep(0.05)
        before = time.monotonic()
        ends = await asyncio.gather(*[notes.read(number) for number in range(2, 9)], return_exceptions=True)
        seconds = time.monotonic() - before
        return [await first, *map(type, ends), await notes.read(9)], seconds

    ends, seconds = serve(come())
    assert ends == [Note(1, 1), *[DatabaseUnavailableError] * 7, Note(9, 1)]
    assert 0.15 < seconds < 0.4


def test_the_statement_for_orders_is_planned_once_for_any_number_of_ids(serve: Serve) -> None:
    """Planning it takes longer than it does."""

    async def read() -> list[Any]:
        for number in range(30):
            some = [queries.find_order(404 + other) for other in range(1 + number % 3)]
            ends = await asyncio.gather(*some, return_exceptions=True)
            assert {type(end) for end in ends} == {OrderNotFoundError}
        return await DB.fetch(
            "SELECT custom_plans, generic_plans FROM pg_prepared_statements "
            "WHERE statement LIKE '%SELECT id, version%' AND statement NOT LIKE '%custom_plans%'"
        )

    assert [tuple(row) for row in serve(read())] == [(5, 25)]


def test_orders_that_were_just_written_are_read_as_they_are(api: Api) -> None:
    """By many callers at the same time, between reads of orders that do not exist."""

    def write_and_read(number: int) -> httpx.Response:
        order = api.placed_order(calendar=f"calendar-{number}")
        address = f"/orders/{order['id']}"
        for fee in range(1, 6):
            changed = api.client.patch(address, json={"totalfee": fee})
            assert changed.status_code == 200, changed.text
            read = api.client.get(address)
            assert (read.text, read.headers["etag"]) == (changed.text, changed.headers["etag"])
            assert api.client.get(f"/orders/{900_000 + number}").status_code == 404
        assert api.client.delete(address).status_code == 204
        return api.client.get(address)

    answers = at_once([lambda number=number: write_and_read(number) for number in range(16)])  # type: ignore[misc]  # mypy infers no defaults
    assert [answer.status_code for answer in answers] == [404] * 16
