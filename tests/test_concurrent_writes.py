"""Many concurrent writers: the rule holds in every interleaving, without a 5xx or a deadlock."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import NOON, later, order_body, text_of
from tests.consistency import seeded_random, stays_consistent
from tests.drivers import Database, at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from tests.drivers import Api

MANY = 50
CALENDARS = ("default", "crew-1", "crew-2")

PLACE_MANY = """
INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
SELECT timestamptz '2030-06-01 12:00Z' + n * interval '3 hours', n, '{123}', '{Inspection}', calendar.id
FROM calendar, generate_series(1, 2000) AS n
"""
RENDER_ANEW = "UPDATE orders SET format = order_format() WHERE id = ANY($1)"


@pytest.fixture
def rng() -> random.Random:
    """A random generator; its seed is printed when a test fails, and ``TEST_SEED`` sets it."""
    return seeded_random()


@pytest.fixture(autouse=True)
def _check_consistency(database: Database) -> Iterator[None]:
    with stays_consistent(database):
        yield


def statuses(answers: list[httpx.Response]) -> Counter[int]:
    """Count the answers by status."""
    return Counter(answer.status_code for answer in answers)


def spread(api: Api, count: int, calendar: str = "default") -> list[dict[str, Any]]:
    """Place orders a day apart, from tomorrow on."""
    return [api.placed_order(at=later(days=day), calendar=calendar) for day in range(1, count + 1)]


def replacing(api: Api, order: dict[str, Any], **fields: Any) -> Callable[[], httpx.Response]:
    """Prepare a PUT."""
    return lambda: api.client.put(f"/orders/{order['id']}", json=order_body(**fields))


def patching(api: Api, order: dict[str, Any], **fields: Any) -> Callable[[], httpx.Response]:
    """Prepare a PATCH."""
    return lambda: api.client.patch(f"/orders/{order['id']}", json=fields)


def deleting(api: Api, order: dict[str, Any]) -> Callable[[], httpx.Response]:
    """Prepare a DELETE."""
    return lambda: api.client.delete(f"/orders/{order['id']}")


def placing(api: Api, **fields: Any) -> Callable[[], httpx.Response]:
    """Prepare a POST."""
    return lambda: api.place_order(**fields)


def test_of_many_creates_at_one_datetime_exactly_one_is_stored(api: Api) -> None:
    """The 409 of the others names it."""
    api.placed_order(at=later(days=-1))
    answers = at_once([placing(api)] * MANY)
    assert statuses(answers) == {201: 1, 409: MANY - 1}
    (stored,) = (answer.json()["id"] for answer in answers if answer.status_code == 201)
    for answer in answers:
        if answer.status_code == 409:
            assert [c["id"] for c in answer.json()["conflicts"]] == [stored]


def test_of_many_creates_within_three_hours_exactly_one_is_stored(api: Api) -> None:
    """They are a minute apart, so each conflicts with all others."""
    api.placed_order(at=later(days=-1))
    answers = at_once(placing(api, at=later(minutes=minute)) for minute in range(MANY))
    assert statuses(answers) == {201: 1, 409: MANY - 1}


def test_many_concurrent_creates_on_a_new_calendar_create_the_calendar_once(
    api: Api, database: Database
) -> None:
    """One creates the calendar, and one, maybe another, gets the place."""
    answers = at_once([placing(api, calendar="new")] * MANY)
    assert statuses(answers) == {201: 1, 409: MANY - 1}
    assert database.value("SELECT count(*) FROM calendar") == 1


def test_concurrent_creates_that_do_not_conflict_are_all_stored_on_a_new_calendar(api: Api) -> None:
    """No create is refused for being concurrent with another."""
    answers = at_once(placing(api, calendar="new", at=later(hours=3 * n)) for n in range(MANY))
    assert statuses(answers) == {201: MANY}
    assert {answer.json()["calendar"] for answer in answers} == {"new"}


def test_of_many_creates_with_one_id_exactly_one_is_stored(api: Api, database: Database) -> None:
    """Even though all their datetimes are free."""
    answers = at_once(placing(api, id=77, at=later(days=n), calendar=f"crew-{n % 5}") for n in range(MANY))
    assert statuses(answers) == {201: 1, 409: MANY - 1}
    refused = {answer.json()["type"] for answer in answers if answer.status_code == 409}
    assert refused == {"/problems/order-id-taken"}
    assert database.value("SELECT count(*) FROM calendar") == 1


def test_of_many_concurrent_moves_to_one_datetime_exactly_one_succeeds(api: Api) -> None:
    """PUT against PUT; the others stay where they were."""
    orders = spread(api, MANY)
    answers = at_once(replacing(api, order) for order in orders)
    assert statuses(answers) == {200: 1, 409: MANY - 1}
    times = Counter(order["datetime"] for order in api.every_order())
    moved = next(o for o, answer in zip(orders, answers, strict=True) if answer.status_code == 200)
    assert set(times) == {o["datetime"] for o in orders if o != moved} | {"2030-06-01T12:00:00.000Z"}


def test_of_concurrent_creates_and_moves_to_one_datetime_exactly_one_succeeds(api: Api) -> None:
    """Creates by POST compete with moves by PUT and PATCH."""
    orders = spread(api, MANY // 2)
    calls = [replacing(api, order, at=later(minutes=n)) for n, order in enumerate(orders)]
    calls += [placing(api, at=later(minutes=-n)) for n in range(MANY // 2)]
    answers = at_once(calls)
    counts = statuses(answers)
    assert counts[409] == MANY - 1
    assert counts[200] + counts[201] == 1


def test_orders_that_swap_calendars_do_not_deadlock(api: Api) -> None:
    """Moves in both directions cross, at equal datetimes and at different ones."""
    here, there = spread(api, 12, "crew-1"), spread(api, 12, "crew-2")
    for _ in range(3):
        answers = at_once(
            replacing(api, order, at=order["datetime"], calendar=calendar)
            for pair in zip(here, there, strict=True)
            for order, calendar in zip(pair, ("crew-2", "crew-1"), strict=True)
        )
        assert set(statuses(answers)) <= {200, 409}
    free = at_once(
        replacing(api, order, at=later(days=100 + n, hours=12 * place), calendar=calendar)
        for n, pair in enumerate(zip(here, there, strict=True))
        for place, (order, calendar) in enumerate(zip(pair, ("crew-2", "crew-1"), strict=True))
    )
    assert statuses(free) == {200: 24}


def test_one_order_moved_by_many_at_once_goes_where_each_of_them_says(api: Api, rng: random.Random) -> None:
    """One after the other; nobody waits for a lock that waits for them."""
    order = api.placed_order()
    for calendar in CALENDARS:
        api.placed_order(at=later(days=900), calendar=calendar)
    for _ in range(8):
        bodies = [
            order_body(at=later(days=rng.randrange(800)), calendar=rng.choice(CALENDARS)) for _ in range(12)
        ]
        path = f"/orders/{order['id']}"
        answers = at_once(partial(api.client.put, path, json=body) for body in bodies)
        assert {answer.status_code for answer in answers} == {200}
        assert all(
            answer.json()["calendar"] == b["calendar"] for answer, b in zip(answers, bodies, strict=True)
        )


def test_a_datetime_freed_by_a_deletion_is_booked_by_at_most_one_of_many_creates(api: Api) -> None:
    """Creates before the deletion are refused; after it one gets the place."""
    for _ in range(5):
        order = api.placed_order()
        answers = at_once([*[placing(api)] * 10, deleting(api, order), *[placing(api)] * 10])
        counts = statuses(answers)
        assert counts[204] == 1
        assert counts[201] <= 1
        assert counts[201] + counts[409] == 20
        for left in api.every_order():
            assert api.client.delete(f"/orders/{left['id']}").status_code == 204


def test_one_order_replaced_patched_and_deleted_concurrently_stays_consistent(
    api: Api, database: Database
) -> None:
    """One deletion succeeds. Writes after it get 404; each one before it is a version of its own."""
    for _ in range(5):
        order = api.placed_order()
        calls: list[Callable[[], httpx.Response]] = []
        for fee in range(8):
            calls.append(replacing(api, order, fee=fee))
            # No two of them are the same: one that changed nothing would not be a version.
            calls.append(patching(api, order, totalfee=fee + 0.5))
            calls.append(replacing(api, order, at=later(hours=fee + 1)))
        calls[12:12] = [deleting(api, order)] * 3
        answers = at_once(calls)
        counts = statuses(answers)
        assert counts[204] == 1
        assert set(counts) <= {200, 204, 404}
        versions = [answer.json()["version"] for answer in answers if answer.status_code == 200]
        assert sorted(versions) == list(range(2, counts[200] + 2))
        recorded = database.value("SELECT count(*) FROM order_change WHERE order_id = $1", int(order["id"]))
        assert recorded == counts[200] + 2


def test_a_move_near_an_order_that_is_being_written_is_refused_at_once(api: Api, database: Database) -> None:
    """If it waited with its new place taken, and the other order then waited for that place: a deadlock."""
    in_the_way, moving = spread(api, 2)
    with Database(database.url) as other:
        other.run_script("BEGIN; UPDATE orders SET version = version + 1 WHERE id = " + in_the_way["id"])
        began = time.monotonic()
        answer = patching(api, moving, datetime=in_the_way["datetime"])()
        assert answer.status_code == 409
        assert time.monotonic() - began < 1
        other.run_script("ROLLBACK")


def test_orders_are_moved_while_a_migration_renders_all_of_them_anew(
    api: Api, database: Database, rng: random.Random
) -> None:
    """A move near an order that is being rendered waits, and what renders them may wait for the moved one."""
    api.placed_order()
    database.rows(PLACE_MANY)
    ids = [row["id"] for row in database.rows("SELECT id FROM orders ORDER BY id")]
    moves = [
        patching(
            api, {"id": rng.choice(ids[500:])}, datetime=text_of(NOON + n * timedelta(hours=3, minutes=1))
        )
        for n in range(200)
    ]
    with ThreadPoolExecutor(16) as threads:
        moving = [threads.submit(move) for move in moves]
        while not all(move.done() for move in moving):
            database.rows(RENDER_ANEW, ids)
        answers = [move.result() for move in moving]
    assert set(statuses(answers)) <= {200, 409}, statuses(answers)


def test_keys_used_by_many_at_once_store_each_create_once(
    api: Api, database: Database, rng: random.Random
) -> None:
    """Whatever happens to its order: one answer per key, and other content is refused, until it expires."""
    created = 0
    for _ in range(6):
        answers: defaultdict[tuple[str, str], list[httpx.Response]] = defaultdict(list)

        def caller(seed: int, answers: Any = answers) -> None:
            own = random.Random(seed)
            for _ in range(12):
                path, key, body = (
                    own.choice(("/orders", "/orders/batch")),
                    f"key-{own.randrange(3)}",
                    _new(own),
                )
                content = {"orders": [body, _new(own)]} if "batch" in path else body
                answer = api.client.post(path, json=content, headers={"Idempotency-Key": key})
                answers[path, key].append(answer)
                if answer.status_code == 201 and "batch" not in path and own.random() < 0.5:
                    assert deleting(api, answer.json())().status_code in {204, 404}

        with ThreadPoolExecutor(12) as threads:
            list(threads.map(caller, [rng.randrange(10**9) for _ in range(12)]))
        for of_one_key in answers.values():
            assert set(statuses(of_one_key)) <= {201, 409, 422}, statuses(of_one_key)
            stored = [answer for answer in of_one_key if answer.status_code == 201]
            assert len({answer.content for answer in stored}) <= 1
            first = [answer for answer in stored if "idempotency-replayed" not in answer.headers]
            assert len(first) == bool(stored)
            own_ids = {answer.json().get("id") for answer in first}  # none is in the way of its own repeat
            refused = [answer.json() for answer in of_one_key if answer.status_code == 409]
            conflicts = [conflict for problem in refused for conflict in problem.get("conflicts", ())]
            assert own_ids.isdisjoint(conflict["id"] for conflict in conflicts)
            created += sum(len(answer.json().get("orders", [0])) for answer in first)
        assert created == database.value("SELECT count(*) FROM order_change WHERE type = 'order.created'")
        database.rows("UPDATE idempotency_key SET created_at = created_at - interval '1 day'")


def _new(own: random.Random) -> dict[str, Any]:
    more: dict[str, Any] = {"id": own.randint(1, 30)} if own.random() < 0.2 else {}
    calendar = own.choice(CALENDARS) if own.random() < 0.8 else f"new-{own.randrange(1_000)}"
    return order_body(at=later(hours=3 * own.randrange(6)), calendar=calendar, fee=own.randrange(2), **more)


def test_the_3_hour_rule_holds_under_random_concurrent_writes(api: Api, rng: random.Random) -> None:
    """Every kind of write, few free datetimes, three calendars, and new calendars now and then."""
    seeds = [rng.randrange(10**9) for _ in range(16)]
    known = [order["id"] for calendar in CALENDARS for order in spread(api, 4, calendar)]

    def caller(seed: int) -> Counter[int]:
        own = random.Random(seed)
        counts: Counter[int] = Counter()
        for _ in range(30):
            answer = _write(api, own, known)
            counts[answer.status_code] += 1
            if answer.status_code == 201:
                known.append(answer.json()["id"])
        return counts

    with ThreadPoolExecutor(len(seeds)) as threads:
        counts = sum(threads.map(caller, seeds), Counter[int]())
    assert set(counts) <= {200, 201, 204, 404, 409}, counts
    for status in (200, 201, 204, 404, 409):
        assert counts[status] > 10, counts


def _write(api: Api, own: random.Random, known: list[str]) -> httpx.Response:
    at = later(days=own.randint(0, 2), minutes=own.choice((0, 1, 90, 179, 180, 181, 360)))
    at += timedelta(milliseconds=own.choice((0, 0, -1, 1)))
    calendar = own.choice(CALENDARS) if own.random() > 0.02 else f"new-{own.randint(0, 9)}"
    path = f"/orders/{own.choice(known[-40:])}"
    kind = own.random()
    if kind < 0.35:
        more = {"id": own.randint(1, 500)} if own.random() < 0.3 else {}
        return api.place_order(at=at, calendar=calendar, **more)
    if kind < 0.6:
        return api.client.put(path, json=order_body(at=at, calendar=calendar, fee=own.randint(0, 99)))
    if kind < 0.7:
        return api.client.patch(path, json={"totalfee": own.randint(0, 99)})
    if kind < 0.8:
        return api.client.patch(path, json={"calendar": calendar})
    return api.client.delete(path)
