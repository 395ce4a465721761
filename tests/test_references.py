"""``reference``: the caller's own name for an order, unique among all orders that have one."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import later, order_body
from tests.drivers import at_once, faulty_places
from tests.import_steps import import_rows, imported

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from tests.drivers import Api, Database


def refused_for(answer: httpx.Response, order_id: str) -> None:
    """Check that another order's reference was refused, and that order named."""
    assert answer.status_code == 409, answer.text
    assert answer.json()["type"] == "/problems/reference-taken"
    assert answer.json()["order_id"] == order_id


@pytest.mark.parametrize("reference", ["PO-2026/4711", "Ä", "Bestellung Nr. 7", "7" * 64, "日本"])
def test_an_order_keeps_the_reference_that_it_came_with(api: Api, reference: str) -> None:
    """Any characters that can be seen, with spaces between them."""
    order = api.placed_order(reference=reference)
    assert order["reference"] == reference
    assert api.client.get(f"/orders/{order['id']}").json() == order


@pytest.mark.parametrize("reference", ["", " ", "7" * 65, " PO", "PO ", "P\u200bO", "P\nO", 7, ["PO"]])
def test_a_reference_that_cannot_be_read_twice_the_same_way_is_refused(api: Api, reference: Any) -> None:
    """Empty, too long, with outer space or with characters that can't be seen."""
    assert faulty_places(api.place_order(reference=reference)) == ["#/reference"]


def test_a_reference_belongs_to_one_order_on_whatever_calendar(api: Api, database: Database) -> None:
    """409 names the order that has it, and nothing is stored."""
    first = api.placed_order(reference="PO 1")
    counts = database.counts()
    for more in ({}, {"calendar": "crew-7"}, {"id": 7}, {"calendar": "new", "id": 8}):
        refused_for(api.place_order(at=later(days=1), reference="PO 1", **more), first["id"])
    assert database.counts() == counts
    assert api.placed_order(at=later(days=1), reference="po 1")["reference"] == "po 1"


def test_a_repeated_create_names_the_order_of_the_first_try(api: Api) -> None:
    """Before the order that is too close, which is the same one: so a caller without a key can find it."""
    first = api.placed_order(reference="PO 1")
    refused_for(api.place_order(reference="PO 1"), first["id"])


def test_a_reference_can_be_set_changed_and_removed(api: Api) -> None:
    """Null removes it, as JSON Merge Patch says; a PUT without it does too."""
    path = f"/orders/{api.placed_order()['id']}"
    for reference in ("PO 1", "PO 2", None):
        assert api.client.patch(path, json={"reference": reference}).json()["reference"] == reference
    assert api.client.put(path, json=order_body(reference="PO 3")).json()["reference"] == "PO 3"
    assert api.client.put(path, json=order_body()).json()["reference"] is None


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_an_update_to_anothers_reference_is_refused(api: Api, database: Database, method: str) -> None:
    """The order keeps its own."""
    first = api.placed_order(reference="PO 1")
    second = api.placed_order(at=later(days=1), reference="PO 2")
    counts = database.counts()
    body = order_body(at=later(days=1), reference="PO 1") if method == "PUT" else {"reference": "PO 1"}
    refused_for(api.client.request(method, f"/orders/{second['id']}", json=body), first["id"])
    assert api.client.get(f"/orders/{second['id']}").json() == second
    assert database.counts() == counts


def test_the_reference_of_a_deleted_order_is_free_again(api: Api) -> None:
    """Unlike its id."""
    first = api.placed_order(reference="PO 1")
    assert api.client.delete(f"/orders/{first['id']}").status_code == 204
    assert api.place_order(reference="PO 1").status_code == 201


def test_a_batch_names_each_order_whose_reference_is_taken(api: Api, database: Database) -> None:
    """With the order that has it, beside those that are too close."""
    first = api.placed_order(reference="PO 1")
    counts = database.counts()
    orders = [order_body(at=later(days=day), reference=f"PO {day}") for day in (1, 2)]
    answer = api.client.post("/orders/batch", json={"orders": [*orders, order_body()]})
    assert answer.status_code == 409
    items = [(item["index"], item["type"], item.get("order_id")) for item in answer.json()["items"]]
    assert items == [(0, "/problems/reference-taken", first["id"]), (2, "/problems/orders-too-close", None)]
    assert database.counts() == counts


def test_a_batch_with_one_reference_for_two_orders_is_refused(api: Api) -> None:
    """422: it contradicts itself."""
    orders = [order_body(at=later(days=day), reference="PO 1") for day in (1, 2)]
    assert faulty_places(api.client.post("/orders/batch", json={"orders": orders})) == ["#/orders"]


def test_an_import_names_each_order_whose_reference_is_taken(api: Api, tmp_path: Path) -> None:
    """By another order, or by an earlier one of the file."""
    first = api.placed_order(reference="PO 1")
    rows = [
        imported(order_id, at=later(days=order_id), reference=reference)
        for order_id, reference in ((1, "PO 1"), (2, "PO 2"), (3, "PO 2"))
    ]
    done = import_rows(tmp_path, rows)
    assert done.returncode == 1
    assert f"orders[0].reference: order {first['id']} has this reference" in done.stderr
    assert "orders[2].reference: is the reference of orders[1] too" in done.stderr


@pytest.mark.parametrize("seed", range(3))
def test_concurrent_writes_give_a_reference_to_one_order_and_never_deadlock(
    api: Api, database: Database, seed: int
) -> None:
    """Creates, batches, and updates that swap references, all at once."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = database.value(deadlocks)
    names = [f"PO {n}" for n in range(6)]
    ids = [api.placed_order(at=later(days=-n - 1), reference=names[n])["id"] for n in range(4)]

    def write(n: int) -> httpx.Response:
        name, other = chance.sample(names, 2)
        match n % 3:
            case 0:
                path = f"/orders/{ids[n % 4]}"
                return api.client.patch(path, json={"reference": chance.choice([name, None])})
            case 1:
                body = order_body(at=later(days=n), reference=name)
                return api.client.post("/orders", json=body)
            case _:
                orders = [order_body(at=later(days=100 + n, hours=9 * h)) for h in (0, 1)]
                named = [{**order, "reference": r} for order, r in zip(orders, (name, other), strict=True)]
                return api.client.post("/orders/batch", json={"orders": named})

    answers = at_once([partial(write, n) for n in range(60)])
    assert {answer.status_code for answer in answers} <= {200, 201, 409}
    assert max(answer.elapsed.total_seconds() for answer in answers) < 5
    given = [order["reference"] for order in api.every_order() if order["reference"]]
    assert len(set(given)) == len(given)
    assert database.value(deadlocks) == before
