"""PUT /orders/{id}: the whole order is replaced; nothing is created and nothing else is touched."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import later, order_body, tags
from tests.drivers import faulty_places

if TYPE_CHECKING:
    from tests.drivers import Api, Database


def test_a_put_replaces_every_member_that_callers_may_set(api: Api) -> None:
    """Id and creation time stay, the version counts up, and a GET answers the same bytes."""
    order = api.placed_order(id=5, services=(123, 456))
    body = order_body(at=later(days=1), fee=7.5, services=(789,), calendar="crew-1")
    answer = api.client.put("/orders/5", json=body)
    assert answer.status_code == 200
    assert answer.headers["etag"] == tags('"2"')
    assert "location" not in answer.headers
    replaced = answer.json()
    assert replaced == order | {
        "datetime": "2030-06-02T12:00:00.000Z",
        "totalfee": 7.5,
        "services": [{"id": "789", "name": "Testing"}],
        "calendar": "crew-1",
        "version": 2,
        "updated_at": replaced["updated_at"],
    }
    assert datetime.fromisoformat(replaced["updated_at"]) > datetime.fromisoformat(order["updated_at"])
    assert api.client.get("/orders/5").content == answer.content


def test_a_put_leaves_other_orders_unchanged(api: Api, database: Database) -> None:
    """One row and one change are written."""
    others = [api.placed_order(at=later(days=day)) for day in (1, 2)]
    api.placed_order(id=5)
    changes = database.counts()["order_change"]
    api.client.put("/orders/5", json=order_body(fee=1))
    assert database.counts()["order_change"] == changes + 1
    assert api.every_order()[1:] == others


def test_a_put_without_a_calendar_uses_the_default_calendar(api: Api) -> None:
    """A PUT states the whole order."""
    api.placed_order(id=5, calendar="crew-1")
    assert api.client.put("/orders/5", json=order_body()).json()["calendar"] == "default"


@pytest.mark.parametrize("order_id", ["5", 5])
def test_the_id_in_the_body_of_a_put_may_repeat_the_id_in_the_path(api: Api, order_id: object) -> None:
    """So that an order can be sent back as it was read."""
    api.placed_order(id=5)
    assert api.client.put("/orders/5", json=order_body(id=order_id)).status_code == 200


@pytest.mark.parametrize("order_id", ["6", 6, "05", 0, "abc"], ids=repr)
def test_a_put_with_another_id_in_the_body_is_refused(api: Api, order_id: object) -> None:
    """An order keeps its id."""
    order = api.placed_order(id=5)
    assert faulty_places(api.client.put("/orders/5", json=order_body(id=order_id))) == ["#/id"]
    assert api.every_order() == [order]


def test_a_put_may_repeat_an_id_that_the_server_assigned(api: Api) -> None:
    """Callers may choose ids below a limit only, but may repeat any."""
    order = api.placed_order()
    answer = api.client.put(f"/orders/{order['id']}", json=order_body(id=order["id"], fee=1))
    assert answer.status_code == 200


@pytest.mark.parametrize("body", [order_body(), order_body(id="5"), order_body(calendar="new")], ids=str)
def test_a_put_to_an_unknown_order_creates_nothing(
    api: Api, database: Database, body: dict[str, Any]
) -> None:
    """404, and no row is written."""
    before = database.counts()
    answer = api.client.put("/orders/5", json=body)
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")
    assert database.counts() == before


@pytest.mark.parametrize("missing", ["datetime", "totalfee", "services"])
def test_a_put_without_a_required_field_is_refused(api: Api, missing: str) -> None:
    """The datetime too: an existing order is not silently moved to now."""
    api.placed_order(id=5)
    body = order_body()
    del body[missing]
    assert faulty_places(api.client.put("/orders/5", json=body)) == [f"#/{missing}"]


@pytest.mark.parametrize(
    ("field", "value", "pointer"),
    [
        ("datetime", None, "#/datetime"),
        ("datetime", "2030-02-30T12:00:00Z", "#/datetime"),
        ("totalfee", -1, "#/totalfee"),
        ("totalfee", 10.005, "#/totalfee"),
        ("totalfee", "100", "#/totalfee"),
        ("services", [], "#/services"),
        ("services", [{"id": 123}, {"id": "123"}], "#/services"),
        ("services", [{"id": 999}], "#/services/0/id"),
        ("calendar", "a b", "#/calendar"),
        ("version", 0, "#/version"),
        ("version", "1", "#/version"),
        ("version", 1.5, "#/version"),
        ("import_id", 1, "#/import_id"),
    ],
)
def test_a_put_with_an_invalid_field_is_refused(api: Api, field: str, value: object, pointer: str) -> None:
    """As on create; the order stays as it was."""
    order = api.placed_order(id=5)
    assert faulty_places(api.client.put("/orders/5", json=order_body() | {field: value})) == [pointer]
    assert api.client.get("/orders/5").json() == order


def test_a_put_with_a_malformed_body_is_refused(api: Api) -> None:
    """The same readers check it as on every other route."""
    api.placed_order(id=5)
    for content, content_type, status in (
        (b"{", "application/json", 400),
        (b'{"totalfee": 1, "totalfee": 2}', "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "application/merge-patch+json", 415),
        (b" " * 1_100_000, "application/json", 413),
    ):
        answer = api.client.put("/orders/5", content=content, headers={"Content-Type": content_type})
        assert answer.status_code == status


def test_an_order_keeps_the_names_of_its_services_until_the_next_write(api: Api) -> None:
    """What was agreed on stays readable; the next write uses the new name."""
    api.placed_order(id=5)
    api.client.put("/services/123", json={"name": "Survey"})
    assert api.client.get("/orders/5").json()["services"] == [{"id": "123", "name": "Inspection"}]
    replaced = api.client.put("/orders/5", json=order_body()).json()
    assert replaced["services"] == [{"id": "123", "name": "Survey"}]


def test_an_archived_service_can_stay_on_an_order_but_not_be_added_to_one(api: Api) -> None:
    """So an old order can still be corrected."""
    api.placed_order(id=5, services=(123,))
    api.placed_order(id=6, services=(456,), at=later(days=1))
    api.client.delete("/services/123")
    assert api.client.put("/orders/5", json=order_body(fee=1)).status_code == 200
    assert faulty_places(api.client.put("/orders/6", json=order_body(at=later(days=1)))) == [
        "#/services/0/id"
    ]


def test_each_put_is_recorded_as_a_change_with_old_and_new_state(api: Api, database: Database) -> None:
    """The change is stored in the same transaction as the order."""
    created = api.placed_order(id=5)
    replaced = api.client.put("/orders/5", json=order_body(at=later(days=1), calendar="crew-1"))
    change = database.rows("SELECT * FROM order_change WHERE order_version = 2")[0]
    assert change["type"] == "order.updated"
    assert change["order_state"] == replaced.text
    assert f'"datetime":"{created["datetime"]}"' in change["previous_state"]
    assert change["calendar_id"] != change["previous_calendar_id"]
