"""PATCH /orders/batch, POST /orders/batch/cancel and /delete: many orders at once, all or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import later, order_body, text_of
from tests.drivers import Api, Database, faulty_places
from tests.import_steps import import_sample

if TYPE_CHECKING:
    import httpx

WAYS = ("cancel", "delete")


def patch(api: Api, *items: dict[str, Any], **more: Any) -> httpx.Response:
    """Change orders at once."""
    return api.client.patch("/orders/batch", json={"orders": list(items)}, **more)


def end(api: Api, how: str, *items: dict[str, Any], reason: str | None = None, **more: Any) -> httpx.Response:
    """Cancel or delete orders at once."""
    return api.client.post(f"/orders/batch/{how}", json={"orders": list(items), "reason": reason}, **more)


def placed(api: Api, *hours: float, **more: Any) -> list[dict[str, Any]]:
    """Place orders, numbered from 1, so many hours after noon."""
    return [api.placed_order(id=n, at=later(hours=at), **more) for n, at in enumerate(hours, 1)]


def problems(answer: httpx.Response) -> dict[int, str]:
    """Return the problem of each refused order, by its index."""
    assert answer.status_code == 409, answer.text
    assert answer.json()["type"] == "/problems/batch-refused"
    return {item["index"]: item["type"].rpartition("/")[2] for item in answer.json()["items"]}


# --- what is possible --------------------------------------------------------------------------------


def test_two_orders_swap_their_places(api: Api, database: Database) -> None:
    """Each gets a version and a change; the answer has them as they are now, in the order of the items."""
    first, second = placed(api, 0, 3)
    answer = patch(
        api,
        {"id": "2", "datetime": first["datetime"]},
        {"id": 1, "datetime": second["datetime"], "version": 1},
    )
    assert answer.status_code == 200
    assert "etag" not in answer.headers
    orders = answer.json()["orders"]
    assert [(o["id"], o["datetime"], o["version"]) for o in orders] == [
        ("2", first["datetime"], 2),
        ("1", second["datetime"], 2),
    ]
    for order in orders:
        assert api.client.get(f"/orders/{order['id']}").json() == order
    changes = database.rows("SELECT type, order_id, order_version FROM order_change WHERE order_version > 1")
    assert sorted(tuple(change.values()) for change in changes) == [
        ("order.updated", 1, 2),
        ("order.updated", 2, 2),
    ]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("minutes", [60, -60, 180, 1])
def test_a_full_day_is_shifted_whatever_the_order_of_the_items(
    api: Api, database: Database, minutes: int, *, reverse: bool
) -> None:
    """One by one, each would be in the way of the next."""
    orders = placed(api, *range(0, 24, 3))
    items = [
        {"id": order["id"], "datetime": text_of(later(hours=3 * n, minutes=minutes))}
        for n, order in enumerate(orders)
    ]
    assert patch(api, *(items[::-1] if reverse else items)).status_code == 200
    assert database.too_close_pairs() == []


def test_orders_move_between_calendars_old_and_new(api: Api) -> None:
    """Two swap calendars at one time, and a third moves to a calendar that does not exist yet."""
    for order_id, calendar in ((1, "a"), (2, "b"), (3, "a")):
        api.placed_order(id=order_id, calendar=calendar, at=later(days=order_id // 3))
    answer = patch(api, *({"id": n, "calendar": c} for n, c in ((1, "b"), (2, "a"), (3, "new"))))
    assert [order["calendar"] for order in answer.json()["orders"]] == ["b", "a", "new"]


def test_references_are_swapped_and_passed_on(api: Api, database: Database) -> None:
    """One gives its reference to another and gets none; what each was before is in its change."""
    for n, reference in ((1, "A"), (2, "B"), (3, "C"), (4, None)):
        api.placed_order(id=n, at=later(days=n), reference=reference)
    wanted = {1: "B", 2: "A", 3: None, 4: "C"}
    answer = patch(api, *({"id": n, "reference": reference} for n, reference in wanted.items()))
    assert [order["reference"] for order in answer.json()["orders"]] == [*wanted.values()]
    changes = database.rows(
        "SELECT previous_state ->> 'reference' AS before, order_state ->> 'reference' AS after "
        "FROM order_change WHERE order_version = 2 ORDER BY order_id"
    )
    assert [tuple(change.values()) for change in changes] == [
        ("A", "B"),
        ("B", "A"),
        ("C", None),
        (None, "C"),
    ]


def test_cancelled_orders_swap_references_too(api: Api, database: Database) -> None:
    """They have no places to leave, and get none."""
    for n, reference in ((1, "A"), (2, "B")):
        api.placed_order(id=n, at=later(days=n), reference=reference)
    end(api, "cancel", {"id": 1}, {"id": 2})
    assert patch(api, {"id": 1, "reference": "B"}, {"id": 2, "reference": "A"}).status_code == 200
    assert database.value("SELECT count(*) FROM orders WHERE clear_until > datetime") == 0


def test_imported_orders_return_together_to_where_their_import_placed_them(
    api: Api, database: Database
) -> None:
    """There they may be near each other, as before."""
    import_sample()
    before = database.rows("SELECT id, datetime, import_id FROM orders ORDER BY id")
    ids = (223, 224, 225)
    away = patch(api, *({"id": n, "datetime": text_of(later(days=n))} for n in ids))
    assert away.status_code == 200
    assert len({row["import_id"] for row in database.rows("SELECT import_id FROM orders")}) == 3
    back = patch(api, *({"id": n, "datetime": "2022-11-01T11:11:11.111Z"} for n in reversed(ids)))
    assert back.status_code == 200
    assert database.rows("SELECT id, datetime, import_id FROM orders ORDER BY id") == before


def test_items_that_change_nothing_are_no_changes(api: Api, database: Database) -> None:
    """They are answered as they are, with the others."""
    first, second = placed(api, 0, 3)
    answer = patch(api, {"id": 2, "totalfee": 7}, first)
    assert [order["version"] for order in answer.json()["orders"]] == [2, 1]
    counts = database.counts()
    assert patch(api, first, {"id": 2, "totalfee": 7}).status_code == 200
    assert database.counts() == counts
    assert second["version"] == 1


def test_a_hundred_orders_are_reversed(api: Api, database: Database) -> None:
    """The maximum size of a batch, each order on the place of another."""
    times = [later(hours=3 * n) for n in range(100)]
    batch = {"orders": [order_body(at=at, id=n) for n, at in enumerate(times, 1)]}
    assert api.client.post("/orders/batch", json=batch).status_code == 201
    items = [{"id": n, "datetime": text_of(at)} for n, at in enumerate(reversed(times), 1)]
    assert patch(api, *items).status_code == 200
    assert [row["id"] for row in database.rows("SELECT id FROM orders ORDER BY datetime")] == [
        *range(100, 0, -1)
    ]
    assert faulty_places(patch(api, *items, {"id": 101, "totalfee": 1})) == ["#/orders"]


@pytest.mark.parametrize("how", WAYS)
def test_orders_are_cancelled_or_deleted_together(api: Api, database: Database, how: str) -> None:
    """With the reason, and their places are free at once."""
    placed(api, 0, 3, 6)
    before = api.every_order()
    answer = end(api, how, {"id": 3, "version": 1}, {"id": "1"}, reason="The crew is ill.")
    assert answer.status_code == 200
    orders = answer.json()["orders"]
    assert [order["id"] for order in orders] == ["3", "1"]
    changes = database.rows("SELECT type, reason, actor FROM order_change WHERE order_version = 2")
    assert [tuple(change.values()) for change in changes] == [
        (f"order.{how}{'led' if how == 'cancel' else 'd'}", "The crew is ill.", "anyone")
    ] * 2
    if how == "delete":
        assert orders == [before[2], before[0]]
    else:
        assert [(order["status"], order["version"]) for order in orders] == [("cancelled", 2)] * 2
    assert api.place_order(at=later(hours=0)).status_code == 201


def test_a_batch_of_cancellations_leaves_those_that_are_cancelled_as_they_are(api: Api) -> None:
    """As one cancellation does."""
    placed(api, 0, 3)
    end(api, "cancel", {"id": 1})
    orders = end(api, "cancel", {"id": 1, "version": 2}, {"id": 2}).json()["orders"]
    assert [order["version"] for order in orders] == [2, 2]


def test_the_reason_of_a_batch_is_recorded_with_each_change(api: Api, database: Database) -> None:
    """From the header, as for every other write."""
    placed(api, 0, 3)
    patch(api, {"id": 1, "totalfee": 7}, {"id": 2, "totalfee": 7}, headers={"Change-Reason": "20%25%20off"})
    reasons = database.rows("SELECT reason FROM order_change WHERE order_version = 2")
    assert [row["reason"] for row in reasons] == ["20% off"] * 2


# --- what is refused ---------------------------------------------------------------------------------


def test_every_refused_order_of_a_batch_is_named_with_its_own_problem(api: Api, database: Database) -> None:
    """Validation faults and conflicts together, each as it would be alone; nothing is changed."""
    for n in range(1, 9):
        api.placed_order(id=n, at=later(days=n), reference=f"R{n}")
    api.client.delete("/orders/7")
    api.client.post("/orders/6/cancel")
    api.client.delete("/services/789")
    before = database.everything()
    answer = patch(
        api,
        {"id": 1, "totalfee": 7},
        {"id": 2, "services": [{"id": 123}, {"id": 999}, {"id": 789}]},
        {"id": 3, "version": 9, "totalfee": 7},
        {"id": 7, "totalfee": 7},
        {"id": 6, "totalfee": 7},
        {"id": 4, "reference": "R8"},
        {"id": 5, "datetime": text_of(later(days=8, hours=2))},
        {"id": 8, "calendar": "DEFAULT"},
    )
    assert problems(answer) == {
        1: "validation-failed",
        2: "version-mismatch",
        3: "not-found",
        4: "order-cancelled",
        5: "reference-taken",
        6: "orders-too-close",
        7: "validation-failed",
    }
    items = {item["index"]: item for item in answer.json()["items"]}
    assert [item["status"] for item in items.values()] == [422, 412, 404, 409, 409, 409, 422]
    assert [fault["pointer"] for fault in items[1]["errors"]] == [
        "#/orders/1/services/1/id",
        "#/orders/1/services/2/id",
    ]
    assert [fault["pointer"] for fault in items[7]["errors"]] == ["#/orders/7/calendar"]
    assert items[5]["order_id"] == "8"
    alone = api.client.patch("/orders/5", json={"datetime": text_of(later(days=8, hours=2))}).json()
    for member in ("type", "title", "status", "detail", "conflicts", "nearest"):
        assert items[6][member] == alone[member]
    assert "7 of the batch's orders can't be changed" in answer.json()["detail"]
    assert database.everything() == before


@pytest.mark.parametrize("how", WAYS)
def test_every_order_that_cannot_be_cancelled_or_deleted_is_named(
    api: Api, database: Database, how: str
) -> None:
    """The others are neither."""
    placed(api, 0, 3)
    before = database.everything()
    answer = end(api, how, {"id": 9}, {"id": 1}, {"id": 2, "version": 2})
    assert problems(answer) == {0: "not-found", 2: "version-mismatch"}
    assert database.everything() == before


@pytest.mark.parametrize("first", [0, 1])
def test_orders_of_a_batch_that_would_be_too_close_to_each_other_are_refused(
    api: Api, database: Database, first: int
) -> None:
    """By a millisecond: the later item is named, and the earlier one is its conflict, by index."""
    placed(api, 0, 30)
    before = database.everything()
    items = [
        {"id": 1, "datetime": text_of(later(days=9))},
        {"id": 2, "datetime": text_of(later(days=9, hours=3, milliseconds=-1))},
    ]
    answer = patch(api, items[first], items[1 - first])
    assert problems(answer) == {1: "orders-too-close"}
    (item,) = answer.json()["items"]
    assert [conflict["index"] for conflict in item["conflicts"]] == [0]
    assert "the batch's order 0" in item["detail"]
    assert database.everything() == before


def test_an_order_of_the_batch_that_stays_is_in_the_way_and_one_that_leaves_is_not(api: Api) -> None:
    """Order 1 stays and is named by its index; order 3 leaves, so its place is taken."""
    placed(api, 0, 12, 6)
    answer = patch(
        api,
        {"id": 1, "totalfee": 7},
        {"id": 2, "datetime": text_of(later(hours=1))},
        {"id": 3, "datetime": text_of(later(hours=12))},
    )
    assert problems(answer) == {1: "orders-too-close"}
    item = answer.json()["items"][0]
    assert [conflict.get("index") for conflict in item["conflicts"]] == [0]
    assert item["nearest"] == {"before": "2030-06-01T09:00:00.000Z", "after": "2030-06-01T15:00:00.000Z"}
    moved = patch(
        api, {"id": 2, "datetime": text_of(later(hours=7))}, {"id": 3, "datetime": text_of(later(hours=12))}
    )
    assert moved.status_code == 200


def test_the_nearest_free_datetimes_of_a_refused_order_are_free_beside_the_batch(api: Api) -> None:
    """Sent again with one of them, the batch is accepted."""
    placed(api, 0, 3, 6, 30)
    items = [
        {"id": 1, "datetime": text_of(later(hours=6))},
        {"id": 2, "datetime": text_of(later(hours=0))},
        {"id": 3, "datetime": text_of(later(hours=31))},
    ]
    for side in ("before", "after"):
        answer = patch(api, *items)
        assert problems(answer) == {2: "orders-too-close"}
        again = [*items[:2], {"id": 3, "datetime": answer.json()["items"][0]["nearest"][side]}]
        assert patch(api, *again, headers={}).status_code == 200
        assert patch(
            api, *({"id": n, "datetime": text_of(later(hours=3 * n - 3))} for n in (1, 2, 3))
        ).is_success


def test_a_refused_batch_makes_no_calendar(api: Api, database: Database) -> None:
    """As a refused create does not."""
    placed(api, 0)
    counts = database.counts()
    assert problems(patch(api, {"id": 1, "calendar": "new"}, {"id": 9, "totalfee": 1})) == {1: "not-found"}
    assert database.counts() == counts


@pytest.mark.parametrize(
    ("items", "places"),
    [
        ([], ["#/orders"]),
        ([{"totalfee": 1}], ["#/orders/0/id"]),
        ([{"id": 1}, {"id": "1"}], ["#/orders"]),
        ([{"id": 1, "reference": "A"}, {"id": 2, "reference": "A"}], ["#/orders"]),
        (
            [{"id": 1, "totalfee": -1, "more": 1}, {"id": 2, "calendar": None}],
            ["#/orders/0/totalfee", "#/orders/0/more", "#/orders/1/calendar"],
        ),
        ([{"id": 0}, 7], ["#/orders/0/id", "#/orders/1"]),
    ],
    ids=["none", "no id", "twice", "one reference", "invalid members", "no order"],
)
def test_a_batch_whose_body_is_at_fault_is_refused_with_every_fault(
    api: Api, items: list[Any], places: list[str]
) -> None:
    """422, before any order is read."""
    placed(api, 0)
    assert faulty_places(api.client.patch("/orders/batch", json={"orders": items})) == places


def test_a_status_in_a_batch_may_only_be_the_orders_own(api: Api) -> None:
    """As in every other body."""
    placed(api, 0)
    answer = patch(api, {"id": 1, "status": "cancelled"})
    assert problems(answer) == {0: "validation-failed"}
    assert answer.json()["items"][0]["errors"][0]["pointer"] == "#/orders/0/status"
    assert patch(api, {"id": 1, "status": "booked", "totalfee": 7}).status_code == 200


def test_an_order_that_left_its_place_cannot_be_stored_without_one(api: Api, database: Database) -> None:
    """The database itself refuses the commit, and so an order without the reference that it shows."""
    api.placed_order(id=1, reference="A")
    for leave in ("clear_until = datetime", "reference = NULL"):
        with pytest.raises(Exception, match="left its place or its reference"):
            database.rows(f"UPDATE orders SET {leave}")
    with pytest.raises(Exception, match="must add one to its version"):
        database.rows("UPDATE orders SET reference = 'B'")


# --- Idempotency-Key ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", WAYS)
def test_a_repeated_batch_with_its_key_gets_the_first_answer(api: Api, database: Database, how: str) -> None:
    """The orders are gone by then. Other content is refused; a refused batch leaves its key unused."""
    placed(api, 0, 3)
    key = {"Idempotency-Key": "k"}
    assert problems(end(api, how, {"id": 1}, {"id": 9}, headers=key)) == {1: "not-found"}
    first = end(api, how, {"id": 1}, headers=key)
    counts = database.counts()
    again = end(api, how, {"id": 1}, headers=key)
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert end(api, how, {"id": 2}, headers=key).json()["type"] == "/problems/idempotency-key-reused"
    assert database.counts() == counts
