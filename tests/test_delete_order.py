"""DELETE /orders/{id}: an order is deleted once and permanently."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.builders import order_body

if TYPE_CHECKING:
    from tests.drivers import Api, Database


def test_deleting_an_order_twice_is_404_the_second_time(api: Api) -> None:
    """204 without a body, then 404 as for any unknown order."""
    api.placed_order(id=5)
    answer = api.client.delete("/orders/5")
    assert (answer.status_code, answer.content) == (204, b"")
    again = api.client.delete("/orders/5")
    assert (again.status_code, again.json()["type"]) == (404, "/problems/not-found")


def test_a_deleted_order_is_gone_for_every_method_and_every_list(api: Api) -> None:
    """A PUT does not bring it back."""
    api.placed_order(id=5)
    api.client.delete("/orders/5")
    assert api.client.get("/orders/5").status_code == 404
    assert api.client.put("/orders/5", json=order_body()).status_code == 404
    assert api.client.patch("/orders/5", json={"totalfee": 1}).status_code == 404
    assert api.every_order() == []


def test_a_deletion_is_recorded_with_the_orders_last_state(api: Api, database: Database) -> None:
    """And with a version of its own."""
    api.placed_order(id=5)
    api.client.patch("/orders/5", json={"totalfee": 7})
    api.client.delete("/orders/5")
    last = database.rows("SELECT * FROM order_change ORDER BY id DESC LIMIT 1")[0]
    assert (last["type"], last["order_id"], last["order_version"]) == ("order.deleted", 5, 3)
    assert last["order_state"] is None
    assert '"totalfee":7.00' in last["previous_state"]


def test_deleting_an_order_leaves_all_others_unchanged(api: Api) -> None:
    """The others stay as they were."""
    other = api.placed_order(id=6, calendar="crew-1")
    api.placed_order(id=5)
    api.client.delete("/orders/5")
    assert api.every_order() == [other]


def test_a_deletion_of_an_unknown_order_records_nothing(api: Api, database: Database) -> None:
    """There is no change to record."""
    before = database.counts()
    assert api.client.delete("/orders/5").status_code == 404
    assert database.counts() == before
