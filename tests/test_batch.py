"""POST /orders/batch: all orders or not one, and a problem for each that can't be stored."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import NOON, later, order_body, text_of
from tests.drivers import at_once

if TYPE_CHECKING:
    import httpx

    from tests.drivers import Api, Database


def posted(api: Api, *orders: dict[str, Any]) -> httpx.Response:
    """Post a batch."""
    return api.client.post("/orders/batch", json={"orders": list(orders)})


def test_all_orders_of_a_batch_are_stored_and_answered_in_the_order_sent(
    api: Api, database: Database
) -> None:
    """Each has a change of its own, as if it had been placed alone."""
    answer = posted(
        api,
        order_body(at=later(hours=6), fee=2),
        order_body(at=NOON, id=5, services=(456, 123)),
        order_body(at=NOON, calendar="crew-1"),
        order_body(at=later(hours=3), fee=0.5),
    )
    assert answer.status_code == 201
    orders = answer.json()["orders"]
    assert [order["datetime"] for order in orders] == [
        "2030-06-01T18:00:00.000Z",
        "2030-06-01T12:00:00.000Z",
        "2030-06-01T12:00:00.000Z",
        "2030-06-01T15:00:00.000Z",
    ]
    assert orders[1]["id"] == "5"
    for order in orders:
        assert api.client.get(f"/orders/{order['id']}").json() == order
    assert database.counts()["order_change"] == 4


def test_a_batch_of_a_hundred_orders_exactly_three_hours_apart_is_stored(api: Api) -> None:
    """The maximum size of a batch, in any order."""
    times = [later(hours=3 * n) for n in range(100)]
    random.Random(1).shuffle(times)
    answer = posted(api, *(order_body(at=at) for at in times))
    assert answer.status_code == 201
    assert len(api.every_order()) == 100


def test_a_batch_with_one_refused_order_stores_nothing(api: Api, database: Database) -> None:
    """No order, no change, no calendar, no claimed id."""
    api.placed_order(at=later(hours=1))
    counts = database.counts()
    answer = posted(api, order_body(at=later(days=1), id=7, calendar="new"), order_body(at=NOON))
    assert answer.status_code == 409
    assert database.counts() == counts
    assert posted(api, order_body(at=later(days=1), id=7, calendar="new")).status_code == 201


def test_each_refused_order_of_a_batch_is_explained_under_its_index(api: Api) -> None:
    """With the problem it would have had alone; orders of the batch have no id yet and are named by index."""
    near = api.placed_order(at=later(hours=1), id=5)
    answer = posted(
        api,
        order_body(at=NOON),
        order_body(at=later(days=1)),
        order_body(at=later(days=1, hours=2)),
        order_body(at=later(days=2), id=5),
        order_body(at=later(days=3)),
    )
    assert answer.status_code == 409
    problem = answer.json()
    assert problem["type"] == "/problems/batch-refused"
    assert [(item["index"], item["type"], item["status"]) for item in problem["items"]] == [
        (0, "/problems/orders-too-close", 409),
        (2, "/problems/orders-too-close", 409),
        (3, "/problems/order-id-taken", 409),
    ]
    too_close, within, _ = problem["items"]
    assert too_close["conflicts"] == [{"id": "5", "datetime": near["datetime"]}]
    assert too_close["nearest"] == {"before": "2030-06-01T10:00:00.000Z", "after": "2030-06-01T16:00:00.000Z"}
    assert within["conflicts"] == [{"index": 1, "datetime": "2030-06-02T12:00:00.000Z"}]
    assert "batch's order 1" in within["detail"]
    alone = api.place_order(at=NOON).json()
    for member in ("type", "title", "status", "detail", "conflicts", "nearest"):
        assert alone[member] == too_close[member]


@pytest.mark.parametrize("first", [0, 1])
def test_the_3_hour_rule_holds_between_the_orders_of_a_batch(
    api: Api, database: Database, first: int
) -> None:
    """One millisecond too close is refused, whichever of the two comes first."""
    close = [order_body(at=NOON), order_body(at=later(hours=3, milliseconds=-1))]
    answer = posted(api, close[first], close[1 - first])
    assert answer.status_code == 409
    assert [item["index"] for item in answer.json()["items"]] == [1]
    assert database.counts()["orders"] == 0


def test_unknown_services_of_a_batch_are_reported_with_their_pointers(api: Api, database: Database) -> None:
    """All of them in one answer, before anything is stored."""
    api.client.delete("/services/789")
    answer = posted(api, order_body(services=(999, 123)), order_body(at=later(days=1), services=(123, 789)))
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [
        "#/orders/0/services/0/id",
        "#/orders/1/services/1/id",
    ]
    assert database.counts()["orders"] == 0


def test_the_faults_of_all_orders_of_a_batch_are_reported_together(api: Api) -> None:
    """One response names every fault, as for a single order."""
    answer = posted(api, {"totalfee": 1}, order_body(fee=-1, more=1))
    assert answer.status_code == 422
    assert {fault["pointer"] for fault in answer.json()["errors"]} == {
        "#/orders/0/services",
        "#/orders/1/totalfee",
        "#/orders/1/more",
    }


def test_orders_of_a_batch_without_a_datetime_are_all_placed_at_the_current_time(api: Api) -> None:
    """So two of them on one calendar are too close."""
    assert posted(api, order_body(at=None), order_body(at=None, calendar="crew-1")).status_code == 201
    assert posted(api, *[order_body(at=None, calendar="crew-2")] * 2).status_code == 409


def test_each_of_many_concurrent_batches_is_stored_whole_or_not_at_all(api: Api, database: Database) -> None:
    """They overlap on several calendars, in different orders, beside creates: no deadlock, no 5xx."""
    rng = random.Random(7)

    def batch() -> list[dict[str, Any]]:
        places = rng.sample([(crew, slot) for crew in "abc" for slot in range(6)], 5)
        return [order_body(at=later(hours=3 * slot, minutes=slot), calendar=crew) for crew, slot in places]

    batches = [batch() for _ in range(24)]
    calls = [lambda orders=orders: posted(api, *orders) for orders in batches]
    calls += [lambda crew=crew: api.place_order(at=NOON, calendar=crew) for crew in "abcabc"]
    rng.shuffle(calls)
    answers = at_once(calls)
    assert {answer.status_code for answer in answers} == {201, 409}
    stored = sum(len(answer.json().get("orders", "1")) for answer in answers if answer.status_code == 201)
    assert database.counts()["orders"] == stored
    assert database.too_close_pairs() == []


def test_a_batch_may_be_larger_than_a_single_order_may_be(api: Api) -> None:
    """One megabyte; a single order may have half of that."""
    orders = [order_body(at=text_of(later(hours=3 * n)), id=str(n + 1)) for n in range(100)]
    import json

    body = json.dumps({"orders": orders}, indent=300)
    assert 524_288 < len(body) < 1_048_576
    assert api.post_text("/orders/batch", body).status_code == 201
