"""GET /orders?sort=updated_at: who asks for what changed since misses nothing, however late it commits."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from api.orders.lists.horizon import HORIZON
from tests.builders import later, text_of
from tests.drivers import Database
from tests.random_rounds import seeds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.drivers import Api

CHANGE = "UPDATE orders SET totalfee = totalfee + 1, version = version + 1 WHERE id = ANY($1)"
ORDERS = 400
WRITERS = 8


def fill(database: Database, count: int) -> None:
    """Store orders a day apart."""
    database.rows("INSERT INTO calendar (name) VALUES ('default')")
    database.rows(
        """
        INSERT INTO orders (id, datetime, totalfee, service_ids, service_names, calendar_id)
        SELECT n, $1::timestamptz + n * interval '1 day', n, '{123}', '{Inspection}', 1
        FROM generate_series(1, $2::int) AS n
        """,
        later(),
        count,
    )


class Poller:
    """Reads what changed, and remembers the greatest ``updated_at`` that it saw."""

    def __init__(self) -> None:
        self.since = "1970-01-01T00:00:00Z"
        self.seen: set[tuple[int, int]] = set()

    def poll(self, api: Api, limit: int) -> None:
        """Follow the list to its end."""
        following = f"/orders?sort=updated_at&limit={limit}&updated_after={self.since}"
        for order in api.every_item(following):
            self.seen.add((int(order["id"]), order["version"]))
            self.since = order["updated_at"]

    def poll_naively(self, database: Database) -> None:
        """Read everything newer than the greatest ``updated_at`` that was seen, as it stands."""
        since = datetime.fromisoformat(self.since)
        for row in database.rows("SELECT id, version, updated_at FROM orders WHERE updated_at > $1", since):
            self.seen.add((row["id"], row["version"]))
            self.since = max(self.since, row["updated_at"].isoformat())


async def change_late(url: str, ids: list[int], rng: random.Random) -> None:
    """Change each order once, in transactions that wait before, between and after their changes."""

    async def pause() -> None:
        await asyncio.sleep(rng.choice((0, 0.001, 0.01, 0.06)))

    connection = await asyncpg.connect(url)
    try:
        while ids:
            some = [ids.pop() for _ in range(min(len(ids), rng.randrange(1, 4)))]
            is_kept = rng.random() < 0.8
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("SELECT")  # it has begun, and locks nothing yet
            await pause()
            for one in some:
                await connection.execute(CHANGE, [one])
                await pause()
            await (transaction.commit() if is_kept else transaction.rollback())
            if not is_kept:
                ids += some
    finally:
        await connection.close()


@pytest.mark.parametrize("seed", seeds(0, 2))
def test_who_asks_for_what_changed_since_misses_no_change_that_commits_late(
    api: Api, database: Database, seed: int
) -> None:
    """Eight writers, each change once; a poller that trusts times alone misses some of the same changes."""
    rng = random.Random(seed)
    fill(database, ORDERS)
    every = list(range(1, ORDERS + 1))
    rng.shuffle(every)
    poller, naive = Poller(), Poller()

    async def write() -> None:
        parts = (every[n::WRITERS] for n in range(WRITERS))
        await asyncio.gather(
            *(change_late(database.url, part, random.Random(rng.random())) for part in parts)
        )

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(asyncio.run, write())
        while not writing.done():
            poller.poll(api, rng.randrange(1, 40))
            naive.poll_naively(database)
        writing.result()
    poller.poll(api, 100)
    naive.poll_naively(database)
    changed = {(order_id, 2) for order_id in every}
    print(f"seed {seed}: who trusts times alone missed {len(changed - naive.seen)} of {len(changed)}")
    assert changed - poller.seen == set(), seed
    assert changed - naive.seen != set(), "no transaction was late enough to prove anything"


@contextmanager
def open_change(database: Database, order_id: int) -> Iterator[Database]:
    """Change an order in a transaction that is still open."""
    with Database(database.url) as other:
        other.rows("BEGIN")
        other.rows(CHANGE, [order_id])
        yield other
        other.rows("ROLLBACK")


def ids(api: Api, query: str) -> list[str]:
    """Return the ids of a list, page by page."""
    return [order["id"] for order in api.every_item(f"/orders?{query}")]


def test_a_list_by_update_ends_before_a_change_that_is_not_committed(api: Api, database: Database) -> None:
    """What comes after it in time follows once it has ended; other sorts show everything at once."""
    fill(database, 3)
    assert ids(api, "sort=updated_at") == ["1", "2", "3"]
    with open_change(database, 1) as other:
        api.client.patch("/orders/2", json={"totalfee": 5})
        assert ids(api, "sort=updated_at") == ["1", "3"]
        assert ids(api, "sort=updated_at&limit=1&count=exact") == ["1", "3"]
        assert len(api.client.get("/orders/export?sort=updated_at&format=ndjson").text.splitlines()) == 2
        assert ids(api, "sort=-updated_at") == ["2", "3", "1"]
        assert ids(api, "sort=id") == ["1", "2", "3"]
        other.rows("COMMIT")
        assert ids(api, "sort=updated_at") == ["3", "1", "2"]


def test_locks_that_only_read_do_not_hold_a_list_back(api: Api, database: Database) -> None:
    """Rows may be locked without a change."""
    fill(database, 2)
    with Database(database.url) as other:
        other.rows("BEGIN")
        other.rows("SELECT FROM orders WHERE id = 1 FOR UPDATE")
        api.client.patch("/orders/2", json={"totalfee": 5})
        assert ids(api, "sort=updated_at") == ["1", "2"]


def test_an_order_that_changes_while_one_pages_appears_again(api: Api, database: Database) -> None:
    """Whether it was shown already or not: never not at all."""
    fill(database, 6)
    page = api.client.get("/orders?sort=updated_at&limit=2").json()
    assert [order["id"] for order in page["items"]] == ["1", "2"]
    for order_id in (1, 4):
        api.client.patch(f"/orders/{order_id}", json={"totalfee": 5})
    rest = [(order["id"], order["version"]) for order in api.every_item(page["next"])]
    assert rest == [("3", 1), ("5", 1), ("6", 1), ("1", 2), ("4", 2)]


def test_filters_by_time_are_strict_to_the_microsecond(api: Api) -> None:
    """Later than the given time: not at it, and not a microsecond before it."""
    order = api.placed_order(at=later())
    for member in ("created", "updated"):
        at = datetime.fromisoformat(order[f"{member}_at"])
        before = text_of(at - timedelta(microseconds=1))
        assert ids(api, f"{member}_after={before}") == [order["id"]]
        assert ids(api, f"{member}_after={order[f'{member}_at']}") == []
    changed = api.client.patch(f"/orders/{order['id']}", json={"totalfee": 5}).json()
    assert ids(api, f"updated_after={order['updated_at']}") == [order["id"]]
    assert ids(api, f"created_after={order['updated_at']}") == []
    assert changed["created_at"] == order["created_at"]


def test_an_order_with_an_update_in_the_future_is_left_out_until_then(api: Api, database: Database) -> None:
    """Whoever remembered its time would see nothing any more. Imports may store such a time."""
    fill(database, 2)
    database.rows("UPDATE orders SET version = 2, updated_at = '2150-01-01T00:00:00Z' WHERE id = 1")
    assert ids(api, "sort=updated_at") == ["2"]
    assert ids(api, "sort=-updated_at") == ["1", "2"]


@pytest.fixture
def stranger(database: Database) -> Iterator[Database]:
    """A connection of a role that may not see what sessions of other roles do."""
    database.rows("CREATE ROLE stranger")
    try:
        with Database(database.url) as other:
            other.rows("SET ROLE stranger")
            yield other
    finally:
        database.rows("DROP ROLE stranger")


def test_a_writer_whose_start_can_not_be_seen_holds_everything_back(
    database: Database, stranger: Database
) -> None:
    """A role without pg_read_all_stats sees that somebody writes, and not since when."""
    fill(database, 1)
    began: datetime = stranger.value("SELECT clock_timestamp()")
    assert stranger.value(HORIZON) >= began
    with open_change(database, 1):
        assert stranger.value(HORIZON).year == 1970
        began_writing: Any = database.value(HORIZON)
        assert began <= began_writing < database.value("SELECT clock_timestamp()")
        database.rows("GRANT pg_read_all_stats TO stranger")
        assert stranger.value(HORIZON) == began_writing
        database.rows("REVOKE pg_read_all_stats FROM stranger")
    with Database(database.url) as secretive:
        secretive.rows("SET track_activities = off")
        secretive.rows("BEGIN")
        secretive.rows(CHANGE, [1])
        assert database.value(HORIZON).year == 1970
