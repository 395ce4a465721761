"""The change log: committed with each order, with dense and final positions; no reader misses a change."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from bisect import bisect_left, insort
from collections import defaultdict
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from api.orders.bodies import OrderPatch
from api.orders.errors import ContentionError, OrderNotFoundError, OrdersTooCloseError
from api.orders.updates import delete_order, update_order
from shared.change_log import assign_positions, changes_after, last_position
from shared.database.statements import execute, fetch_value
from shared.database.transaction import transaction
from tests.builders import NOON, later
from tests.drivers import Database, at_once
from tests.random_rounds import seeds
from tests.steps import ANYONE, assign_all, place, whole_log

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from shared.changes import Change
    from tests.drivers import Api

    Run = Callable[[Coroutine[Any, Any, Any]], Any]

THREE_HOURS = timedelta(hours=3)

PLAIN_INSERT = """
INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
VALUES ($1::timestamptz, 10, '{123}', '{Inspection}', $2) RETURNING id
"""


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


def positions(changes: Iterable[Change]) -> list[int]:
    """Return the changes' positions."""
    return [change.position for change in changes]


def test_positions_of_changes_are_dense_and_final(run: Run) -> None:
    """1, 2, 3, … however few are assigned at a time; an assigned position never changes."""

    async def scenario() -> None:
        for day in range(5):
            await place(later(days=day))
        assert [await assign_positions(2) for _ in range(4)] == [2, 2, 1, 0]
        assert await last_position() == 5
        before = await whole_log()
        assert positions(before) == [1, 2, 3, 4, 5]

        for day in range(5, 8):
            await place(later(days=day))
        assert await assign_positions() == 3
        assert (await whole_log())[:5] == before
        assert positions(await whole_log()) == list(range(1, 9))

    run(scenario())


def test_no_new_change_appears_at_or_below_a_position_that_was_read(run: Run, postgres_url: str) -> None:
    """The writer that commits last gets the last position, although its row id was drawn first."""

    async def scenario() -> None:
        await place(later(days=-1))
        calendar = await fetch_value(int, "SELECT id FROM calendar")
        slow = await asyncpg.connect(postgres_url)
        try:
            writing = slow.transaction()
            await writing.start()
            held_open = await slow.fetchval(PLAIN_INSERT, NOON, calendar)
            first_to_commit = [await place(later(days=day)) for day in (1, 2, 3)]
            await assign_all()
            seen = await whole_log()
            assert [change.order_id for change in seen][1:] == first_to_commit

            await writing.commit()
            last_to_commit = await place(later(days=4))
            await assign_all()
            assert [change.order_id for change in await changes_after(4, 100)] == [held_open, last_to_commit]
            assert (await whole_log())[:4] == seen
        finally:
            await slow.close()

    run(scenario())


def test_positions_are_assigned_quickly_when_planner_statistics_show_an_empty_log(
    run: Run, database: Database, postgres_url: str
) -> None:
    """PostgreSQL may gather its statistics during a large import, whose rows it cannot see yet."""
    run(place())
    with Database(postgres_url) as importing:
        importing.rows("BEGIN")
        importing.rows(
            """
            INSERT INTO order_change (type, order_id, order_version, calendar_id, recorded_at, order_state)
            SELECT type, order_id + n, 1, calendar_id, recorded_at, order_state
            FROM order_change, generate_series(1, 8000) AS n
            """
        )
        database.rows("ANALYZE order_change")
        importing.rows("COMMIT")
    assert run(assign_all()) == 8001


def test_positions_of_changes_may_exceed_32_bits(run: Run, database: Database) -> None:
    """The columns and parameters that hold positions are bigint."""
    database.rows("UPDATE change_log SET last_position = 2 ^ 31")
    run(place())
    assert run(assign_all()) == 2**31 + 1


def test_concurrent_assignments_of_positions_leave_no_gap(run: Run) -> None:
    """Three assigners beside three writers: each change gets one position, once."""

    async def assigner() -> int:
        count = idle = 0
        while idle < 20:
            assigned = await assign_positions(7)
            count += assigned
            idle = 0 if assigned else idle + 1
            await asyncio.sleep(0)
        return count

    async def writer(calendar: str) -> None:
        for day in range(40):
            await place(later(days=day), calendar=calendar)

    async def scenario() -> None:
        async with asyncio.TaskGroup() as at_work:
            assigning = [at_work.create_task(assigner()) for _ in range(3)]
            for calendar in ("a", "b", "c"):
                at_work.create_task(writer(calendar))
        count = sum(task.result() for task in assigning)
        log = await whole_log()
        assert count == len(log)
        assert await assign_all() == 120
        log = await whole_log()
        assert positions(log) == list(range(1, 121))
        assert len({change.event_id for change in log}) == 120

    run(scenario())


def test_an_order_and_its_change_commit_together_or_not_at_all(run: Run, database: Database) -> None:
    """Also when the table is written with plain SQL and rolled back."""

    class FailedError(Exception):
        pass

    async def fail_after(statement: str) -> None:
        async with transaction():
            assert await execute(statement) > 0
            assert await fetch_value(int, "SELECT count(*) FROM order_change") == 2
            raise FailedError

    run(place(NOON))
    before = database.counts()
    calendar = database.value("SELECT id FROM calendar")
    insert = PLAIN_INSERT.replace("$1", f"'{later(days=1).isoformat()}'").replace("$2", str(calendar))
    update = "UPDATE orders SET totalfee = 1, version = version + 1 RETURNING id"
    for statement in (insert, update, "DELETE FROM orders RETURNING id"):
        with pytest.raises(FailedError):
            run(fail_after(statement))
        assert database.counts() == before
    with pytest.raises(asyncpg.CheckViolationError):
        database.rows("UPDATE orders SET version = version + 1, totalfee = -1")
    assert database.value("SELECT count(*) FROM order_change") == 1


def test_a_write_with_plain_sql_is_recorded_in_the_log(database: Database, run: Run) -> None:
    """Writing around the API does not bypass the log."""
    calendar = database.value("INSERT INTO calendar (name) VALUES ('default') RETURNING id")
    order_id = database.value(PLAIN_INSERT, NOON, calendar)
    database.rows("UPDATE orders SET totalfee = 11, version = version + 1")
    database.rows("DELETE FROM orders")
    run(assign_all())
    created, updated, deleted = run(whole_log())
    assert [c.type for c in (created, updated, deleted)] == [
        "order.created",
        "order.updated",
        "order.deleted",
    ]
    assert {c.order_id for c in (created, updated, deleted)} == {order_id}
    assert (created.previous, deleted.order) == (None, None)
    assert (updated.previous, deleted.previous) == (created.order, updated.order)


def test_an_order_whose_change_cannot_be_recorded_is_refused(database: Database, api: Api) -> None:
    """There is no order without its change."""
    database.rows("ALTER TABLE order_change ADD CONSTRAINT broken CHECK (order_version < 0) NOT VALID")
    try:
        assert api.place_order().status_code == 500
    finally:
        database.rows("ALTER TABLE order_change DROP CONSTRAINT broken")
    assert database.value("SELECT count(*) FROM orders") == 0
    api.placed_order()


def test_changes_of_one_order_have_positions_in_the_order_of_its_versions(api: Api, run: Run) -> None:
    """Eight concurrent callers on each of three orders, and positions assigned a few at a time."""
    orders = [api.placed_order(at=later(days=day))["id"] for day in range(3)]
    answers = at_once(
        partial(api.client.patch, f"/orders/{order}", json={"totalfee": fee})
        for fee in range(8)
        for order in orders
    )
    assert {answer.status_code for answer in answers} == {200}
    run(assign_all(5))
    versions = defaultdict(list)
    for change in run(whole_log()):
        versions[change.order_id].append(json.loads(change.order or "{}")["version"])
    assert set(map(tuple, versions.values())) == {tuple(range(1, 10))}


def fold(changes: Iterable[Change]) -> dict[int, str]:
    """Follow the log from its beginning, checking after each change that the state is a valid one.

    Returns the orders' states at its end, as JSON text.
    """
    states: dict[int, str] = {}
    calendars: dict[str, list[datetime]] = defaultdict(list)
    for change in changes:
        assert change.previous == states.pop(change.order_id, None), change
        if change.previous:
            was = json.loads(change.previous)
            calendars[was["calendar"]].remove(datetime.fromisoformat(was["datetime"]))
        if change.order:
            states[change.order_id] = change.order
            now = json.loads(change.order)
            at, taken = datetime.fromisoformat(now["datetime"]), calendars[now["calendar"]]
            place = bisect_left(taken, at)
            for neighbour in taken[max(0, place - 1) : place + 1]:
                assert abs(neighbour - at) >= THREE_HOURS, (change, neighbour)
            insort(taken, at)
    return states


@pytest.mark.parametrize("seed", seeds(1, 2))
def test_every_prefix_of_the_change_log_is_a_valid_state(  # noqa: C901 (writers, assigners and a judge)
    run: Run, database: Database, seed: int
) -> None:
    """A follower never sees two orders too close: a place is freed before it is taken."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    done: dict[str, int] = defaultdict(int)
    orders: list[int] = []

    def random_datetime() -> datetime:
        # A day and a half on a half-hour grid: writers compete for nearly every place.
        return later(minutes=30 * rng.randrange(72), milliseconds=rng.choice((-1, 0, 0, 0, 1)))

    # Each is another one: a write that changes nothing adds no change.
    fees = itertools.count(1_000)

    async def write() -> None:
        calendar = rng.choice(("a", "b"))
        what = rng.choice(("place", "place", "move", "fee", "delete"))
        try:
            if what == "place" or not orders:
                orders.append(await place(random_datetime(), calendar=calendar))
            elif what == "delete":
                await delete_order(orders.pop(rng.randrange(len(orders))), ANYONE)
            elif what == "move":
                moved = {"datetime": random_datetime().isoformat(), "calendar": calendar}
                await update_order(
                    rng.choice(orders), OrderPatch.model_validate(moved | {"totalfee": next(fees)}), ANYONE
                )
            else:
                await update_order(
                    rng.choice(orders), OrderPatch.model_validate({"totalfee": next(fees)}), ANYONE
                )
            done[what] += 1
        except (OrdersTooCloseError, OrderNotFoundError, ContentionError) as error:
            done[type(error).__name__] += 1

    async def writer() -> None:
        for _ in range(60):
            await write()

    async def assigner(stop: asyncio.Event) -> None:
        while not stop.is_set():
            await assign_positions(rng.randrange(1, 20))
            await asyncio.sleep(0.005)

    async def scenario() -> list[Change]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as assigning:
            for _ in range(2):
                assigning.create_task(assigner(stop))
            async with asyncio.TaskGroup() as writing:
                for _ in range(6):
                    writing.create_task(writer())
            stop.set()
        await assign_all()
        log = await whole_log()
        print(dict(done))
        assert positions(log) == list(range(1, len(log) + 1))
        assert len(log) == done["place"] + done["move"] + done["fee"] + done["delete"]
        assert min(done["place"], done["move"], done["delete"]) > 10
        return log

    log = run(scenario())
    stored = database.rows("SELECT id, rendered AS json FROM orders")
    assert fold(log) == {order["id"]: order["json"] for order in stored}
    assert database.too_close_pairs() == []
