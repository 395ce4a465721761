"""The sample data: imported orders, and later changes to them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.import_steps import (
    SAMPLE_ORDERS,
    SAMPLE_SERVICES,
    import_files,
    import_rows,
    import_sample,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers import Api, Database

SAMPLE_TIME = "2022-11-01T11:11:11.111Z"


@pytest.fixture
def sample(api: Api) -> None:  # noqa: ARG001 (clean)
    """Load it into a clean database."""
    assert import_sample().returncode == 0


def test_the_sample_data_loads_exactly_as_given(database: Database, api: Api) -> None:
    """Three orders at one datetime, and the catalogue; nothing bypasses the rule."""
    database.clean()
    done = import_sample()
    assert (done.returncode, done.stderr) == (0, "")
    assert "imported 3 orders" in done.stdout
    names = {service["id"]: service["name"] for service in json.loads(SAMPLE_SERVICES.read_text())}
    orders = api.every_order()
    assert [
        {"id": o["id"], "datetime": o["datetime"], "totalfee": o["totalfee"], "services": o["services"]}
        for o in orders
    ] == [
        {**o, "services": [{**s, "name": names[int(s["id"])]} for s in o["services"]]}
        for o in json.loads(SAMPLE_ORDERS.read_text())
    ]
    assert {(o["calendar"], o["version"]) for o in orders} == {("default", 1)}
    services = api.every_item("/services")
    assert {int(service["id"]): service["name"] for service in services} == names


@pytest.mark.usefixtures("sample")
def test_every_imported_order_is_recorded_as_a_change(api: Api, database: Database) -> None:
    """Subscribers receive it like any other."""
    changes = database.rows("SELECT type, order_id, order_state FROM order_change ORDER BY id")
    assert [(c["type"], c["order_id"]) for c in changes] == [
        ("order.created", 223),
        ("order.created", 224),
        ("order.created", 225),
    ]
    assert changes[0]["order_state"] == api.client.get("/orders/223").text


@pytest.mark.usefixtures("sample")
def test_importing_the_same_file_again_changes_nothing(api: Api, database: Database, tmp_path: Path) -> None:
    """Whatever it is called and whatever happened to its orders; the command says so."""
    api.client.delete("/orders/224")
    before = database.counts()
    copy = tmp_path / "other-name.json"
    copy.write_bytes(SAMPLE_ORDERS.read_bytes())
    for path in (SAMPLE_ORDERS, copy):
        done = import_files(path)
        assert done.returncode == 0
        assert "was imported before" in done.stdout
    assert database.counts() == before


@pytest.mark.usefixtures("sample")
def test_another_file_with_the_same_orders_is_refused(api: Api, tmp_path: Path) -> None:
    """Its ids are taken, and its datetimes too."""
    done = import_rows(tmp_path, json.loads(SAMPLE_ORDERS.read_text()))
    assert done.returncode == 1
    for index, order_id in enumerate((223, 224, 225)):
        assert f"orders[{index}].id: {order_id} is, or was, the id of another order" in done.stderr
        assert f"orders[{index}].datetime: less than three hours from order" in done.stderr
    assert len(api.every_order()) == 3


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.usefixtures("sample")
def test_the_fee_of_a_sample_order_can_be_changed_without_moving_it(api: Api, method: str) -> None:
    """Although two others have the same datetime."""
    fields = {"datetime": SAMPLE_TIME, "totalfee": 150, "services": [{"id": "123"}]}
    body = fields if method == "PUT" else {"totalfee": 150}
    for version in (2, 3):
        answer = api.client.request(method, "/orders/223", json=body)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["totalfee"], answer.json()["version"]) == (150, version)
        assert answer.json()["datetime"] == SAMPLE_TIME


@pytest.mark.usefixtures("sample")
def test_a_sample_order_that_moved_away_cannot_come_back_near_the_others(api: Api) -> None:
    """It no longer shares their import."""
    for at, status in (
        ("2022-11-01T12:11:11.111Z", 409),
        ("2022-11-01T14:11:11.111Z", 200),
        (SAMPLE_TIME, 409),
        ("2022-11-01T14:11:11.110Z", 409),
        ("2022-11-01T08:11:11.111Z", 200),
    ):
        answer = api.client.patch("/orders/223", json={"datetime": at})
        assert answer.status_code == status, answer.text
        if status == 409:
            assert [c["id"] for c in answer.json()["conflicts"]] == ["224", "225"]


@pytest.mark.usefixtures("sample")
def test_a_sample_order_that_changed_calendars_cannot_come_back_near_the_others(api: Api) -> None:
    """The same holds for the calendar."""
    assert api.client.patch("/orders/223", json={"calendar": "crew-1"}).status_code == 200
    assert api.client.patch("/orders/223", json={"calendar": None}).status_code == 409
    for sibling in ("224", "225"):
        assert api.client.patch(f"/orders/{sibling}", json={"totalfee": 1}).status_code == 200


@pytest.mark.usefixtures("sample")
def test_nothing_else_can_be_placed_near_the_sample_orders(api: Api) -> None:
    """Until the last of them is deleted."""
    for order_id in ("223", "224", "225"):
        assert api.place_order(at="2022-11-01T14:11:11.110Z").status_code == 409
        api.client.delete(f"/orders/{order_id}")
    api.placed_order(at="2022-11-01T14:11:11.110Z")


def test_the_sample_data_is_loaded_once_and_only_into_an_empty_database(database: Database) -> None:
    """As each start of `make run` asks for it."""
    database.clean()
    assert import_sample("--only-if-empty").stdout.startswith("imported 3 orders")
    before = database.counts()
    assert before["orders"] == 3
    done = import_sample("--only-if-empty")
    assert (done.returncode, done.stderr) == (0, "")
    assert "not imported" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert database.counts() == before


@pytest.mark.parametrize("held", ["a service", "an order", "a deleted order"])
def test_sample_data_is_not_loaded_into_a_database_that_has_or_had_data(
    api: Api, database: Database, held: str
) -> None:
    """Whether or not it would fit in; deleted orders have left their changes."""
    if held == "a service":
        database.clean()
        assert api.client.post("/services", json={"id": "1", "name": "Own"}).status_code == 201
    else:
        api.placed_order()
    if held == "a deleted order":
        (order,) = api.every_order()
        api.client.delete(f"/orders/{order['id']}")
        database.rows("DELETE FROM service")
    before = database.counts()
    done = import_sample("--only-if-empty")
    assert (done.returncode, done.stderr) == (0, "")
    assert "not imported" in done.stdout
    assert database.counts() == before
