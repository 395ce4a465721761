"""Many orders changed at once, by many callers: every permutation is possible, and nobody deadlocks."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import later, order_body, text_of
from tests.consistency import seeded_random, stays_consistent
from tests.random_rounds import ROUNDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from tests.drivers import Api, Database

CALENDARS = ("crew-1", "crew-2", "crew-3")
CALLERS = 12

Order = dict[str, Any]


@pytest.fixture
def rng() -> random.Random:
    """A random generator; its seed is printed when a test fails, and ``TEST_SEED`` sets it."""
    return seeded_random()


@pytest.fixture(autouse=True)
def _check_consistency(database: Database) -> Iterator[None]:
    with stays_consistent(database):
        yield


def placed(api: Api, slots: int) -> list[Order]:
    """Place an order in each slot of each calendar, three hours apart."""
    return [
        api.placed_order(at=later(hours=3 * slot), calendar=calendar, reference=f"{calendar}/{slot}")
        for calendar in CALENDARS
        for slot in range(slots)
    ]


def permuted(orders: list[Order], own: random.Random) -> list[Order]:
    """Return items that let orders swap datetimes, calendars and references, in a random order."""
    places = own.sample(orders, len(orders))
    items = [
        {"id": order["id"], **{name: place[name] for name in ("datetime", "calendar", "reference")}}
        for order, place in zip(orders, places, strict=True)
    ]
    return own.sample(items, len(items))


def patch(api: Api, items: list[Order]) -> httpx.Response:
    """Change orders at once."""
    return api.client.patch("/orders/batch", json={"orders": items})


def by_many(caller: Callable[[random.Random], Counter[int]], rng: random.Random) -> Counter[int]:
    """Let callers act at the same time, each with a random generator of its own, and count their answers."""
    seeds = [rng.randrange(10**9) for _ in range(CALLERS)]
    with ThreadPoolExecutor(CALLERS) as threads:
        return sum(threads.map(lambda seed: caller(random.Random(seed)), seeds), Counter[int]())


def test_any_permutation_of_places_and_references_is_possible(api: Api, rng: random.Random) -> None:
    """Whatever the order of the items; on several calendars that are full: three hours between all orders."""
    orders = placed(api, 6)
    for _ in range(25 * ROUNDS):
        some = rng.sample(orders, rng.randint(2, len(orders)))
        answer = patch(api, permuted(some, rng))
        assert answer.status_code == 200, answer.text
        changed = {order["id"]: order for order in answer.json()["orders"]}
        orders = [changed.get(order["id"], order) for order in orders]
    assert sorted(o["reference"] for o in orders) == sorted(f"{c}/{n}" for c in CALENDARS for n in range(6))


def test_permutations_of_the_same_orders_by_many_callers_are_all_possible(
    api: Api, rng: random.Random
) -> None:
    """One after the other: each names all orders, so it doesn't matter where they are by then."""
    orders = placed(api, 4)

    def caller(own: random.Random) -> Counter[int]:
        return Counter(patch(api, permuted(orders, own)).status_code for _ in range(8 * ROUNDS))

    assert by_many(caller, rng) == {200: CALLERS * 8 * ROUNDS}


def test_batches_of_different_orders_beside_each_other_are_all_possible(api: Api, rng: random.Random) -> None:
    """Each caller has slots of its own, on calendars that all of them use."""
    orders = placed(api, CALLERS)
    own_orders = [orders[n::CALLERS] for n in range(CALLERS)]

    def caller(own: random.Random) -> Counter[int]:
        mine = own_orders.pop()
        return Counter(patch(api, permuted(mine, own)).status_code for _ in range(8 * ROUNDS))

    assert by_many(caller, rng) == {200: CALLERS * 8 * ROUNDS}


def test_the_rule_holds_under_batches_and_every_other_write(api: Api, rng: random.Random) -> None:
    """Batches of each kind, creates, moves, cancellations and reinstatements: no deadlock, no 5xx."""
    known = [order["id"] for order in placed(api, 5)]

    def caller(own: random.Random) -> Counter[int]:
        counts: Counter[int] = Counter()
        for _ in range(25 * ROUNDS):
            answer = _write(api, own, known)
            counts[answer.status_code] += 1
            if answer.status_code == 201:
                body = answer.json()
                known.extend(order["id"] for order in body.get("orders", [body]))
        return counts

    counts = by_many(caller, rng)
    assert set(counts) <= {200, 201, 204, 404, 409}, counts
    for status in (200, 201, 204, 409):
        assert counts[status] > 1, counts


def _write(api: Api, own: random.Random, known: list[str]) -> httpx.Response:
    ids = own.sample(known[-40:], min(len(known), own.randint(2, 8)))
    path = f"/orders/{ids[0]}"
    some = [{"id": order_id} for order_id in ids[:2]]
    new = order_body(at=later(hours=3 * own.randrange(9), minutes=own.choice((0, 0, 1))), **_new_place(own))
    writes: list[Callable[[], httpx.Response]] = [
        lambda: patch(api, [_item(own, order_id) for order_id in ids]),
        lambda: _swap(api, own, ids),
        lambda: api.client.post("/orders", json=new),
        lambda: api.client.post(
            "/orders/batch", json={"orders": [new, {**new, "calendar": "crew-1", "reference": None}]}
        ),
        lambda: api.client.patch(path, json=_item(own, ids[0])),
        lambda: api.client.patch(path, json={"totalfee": own.randint(0, 99)}),
        lambda: api.client.post(f"{path}/cancel"),
        lambda: api.client.post(f"{path}/reinstate"),
        lambda: api.client.delete(path),
        lambda: api.client.post("/orders/batch/cancel", json={"orders": some}),
        lambda: api.client.post("/orders/batch/delete", json={"orders": some}),
        lambda: api.client.patch(
            "/orders/batch?dry_run=true", json={"orders": [_item(own, order_id) for order_id in ids]}
        ),
    ]
    return own.choices(writes, weights=[4, 4, 6, 3, 3, 3, 2, 3, 1, 1, 0.5, 1])[0]()


def _new_place(own: random.Random) -> dict[str, Any]:
    more = {"reference": f"new-{own.randrange(30)}"} if own.random() < 0.3 else {}
    return {"calendar": own.choice((*CALENDARS, f"new-{own.randrange(20)}")), **more}


def _item(own: random.Random, order_id: str) -> Order:
    at = later(hours=own.choice((0, 1, 3, 6, 9, 12, 15)))
    some = {"datetime": text_of(at), "calendar": own.choice(CALENDARS), "totalfee": own.randint(0, 9)}
    names = own.sample(list(some), own.randint(1, 3))
    return {"id": order_id, **{name: some[name] for name in names}}


def _swap(api: Api, own: random.Random, ids: list[str]) -> httpx.Response:
    """Let orders swap places, as they are when they are read."""
    read = [api.client.get(f"/orders/{order_id}") for order_id in ids]
    # One may have got another's reference between two reads, and a batch may not give it twice.
    found = [answer.json() for answer in read if answer.status_code == 200]
    orders = [*{order["reference"] or order["id"]: order for order in found}.values()]
    return patch(api, permuted(orders, own)) if orders else read[0]
