"""The sample data: imported orders, and later changes to them."""

from __future__ import annotations

import json
import random
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.drivers import at_once
from tests.import_steps import (
    SAMPLE_ORDERS,
    SAMPLE_SERVICES,
    import_files,
    import_rows,
    import_sample,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx

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
def test_a_sample_order_that_moved_away_can_only_come_back_to_where_it_was(
    api: Api, database: Database
) -> None:
    """There it rejoins its import; anywhere else near the others it is refused like any order."""
    for at, status in (
        ("2022-11-01T12:11:11.111Z", 409),
        ("2022-11-01T14:11:11.111Z", 200),
        ("2022-11-01T14:11:11.110Z", 409),
        ("2022-11-01T08:11:11.111Z", 200),
        ("2022-11-01T11:11:11.112Z", 409),
        (SAMPLE_TIME, 200),
        (SAMPLE_TIME, 200),
        ("2022-11-01T11:11:11.112Z", 409),
        ("2022-11-01T14:11:11.111Z", 200),
        ("2022-11-01T12:11:11.111+01:00", 200),
    ):
        answer = api.client.patch("/orders/223", json={"datetime": at})
        assert answer.status_code == status, answer.text
        if status == 409:
            assert [c["id"] for c in answer.json()["conflicts"]] == ["224", "225"]
    assert database.too_close_pairs() == []
    assert len(database.rows("SELECT DISTINCT import_id FROM orders")) == 1


@pytest.mark.usefixtures("sample")
def test_a_sample_order_that_changed_calendars_can_come_back_to_its_own(api: Api) -> None:
    """To another calendar at the same datetime it moves like any order."""
    api.placed_order(at=SAMPLE_TIME, calendar="crew-2")
    for calendar, status in (("crew-1", 200), ("crew-2", 409), ("default", 200)):
        assert api.client.patch("/orders/223", json={"calendar": calendar}).status_code == status
    for sibling in ("224", "225"):
        assert api.client.patch(f"/orders/{sibling}", json={"totalfee": 1}).status_code == 200


@pytest.mark.usefixtures("sample")
def test_a_sample_order_cannot_come_back_to_a_place_that_is_taken_by_then(api: Api) -> None:
    """Its siblings do not keep the place for it once they have left too."""
    away = [f"2022-12-0{day}T00:00:00Z" for day in (1, 2, 3)]
    for order_id, at in zip(("223", "224", "225"), away, strict=True):
        assert api.client.patch(f"/orders/{order_id}", json={"datetime": at}).status_code == 200
    other = api.placed_order(at="2022-11-01T12:00:00Z")
    answer = api.client.patch("/orders/223", json={"datetime": SAMPLE_TIME})
    assert answer.status_code == 409
    assert [c["id"] for c in answer.json()["conflicts"]] == [other["id"]]
    api.client.delete(f"/orders/{other['id']}")
    for order_id in ("223", "225", "224"):
        assert api.client.patch(f"/orders/{order_id}", json={"datetime": SAMPLE_TIME}).status_code == 200


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


@pytest.mark.usefixtures("sample")
def test_a_deleted_sample_order_that_is_imported_again_rejoins_the_others(
    api: Api, database: Database, tmp_path: Path
) -> None:
    """Its versions continue, so that none means two things; and it can leave and return as before."""
    rows = [row for row in json.loads(SAMPLE_ORDERS.read_text()) if row["id"] == "223"]
    for version, columns in ((3, {}), (5, {"version": 1}), (9, {"version": 9})):
        assert api.client.delete("/orders/223").status_code == 204
        # Another file each time: the same file is imported once.
        done = import_rows(tmp_path, [rows[0] | columns | {"totalfee": version}])
        assert (done.returncode, done.stderr) == (0, "")
        order = api.client.get("/orders/223").json()
        assert (order["version"], order["datetime"], order["totalfee"]) == (version, SAMPLE_TIME, version)
        assert len(database.rows("SELECT DISTINCT import_id FROM orders")) == 1
    for at in ("2022-12-01T00:00:00Z", SAMPLE_TIME):
        assert api.client.patch("/orders/223", json={"datetime": at}).status_code == 200
    versions = database.rows("SELECT order_version FROM order_change WHERE order_id = 223 ORDER BY id")
    assert [row["order_version"] for row in versions] == [1, 2, 3, 4, 5, 6, 9, 10, 11]


@pytest.mark.usefixtures("sample")
def test_a_deleted_sample_order_that_is_imported_elsewhere_can_move_to_where_it_was(
    api: Api, tmp_path: Path
) -> None:
    """Both imports placed it, so both places are its own; beside the other's orders it has none."""
    assert api.client.delete("/orders/223").status_code == 204
    elsewhere = "2022-12-01T00:00:00.000Z"
    body = {"totalfee": 1, "services": [{"id": "123"}], "datetime": elsewhere}
    assert import_rows(tmp_path, [body | {"id": 223}, body | {"id": 300}]).returncode == 0
    for at in (SAMPLE_TIME, elsewhere, SAMPLE_TIME):
        assert api.client.patch("/orders/223", json={"datetime": at}).status_code == 200
    assert api.client.patch("/orders/300", json={"datetime": SAMPLE_TIME}).status_code == 409
    assert api.client.patch("/orders/224", json={"datetime": elsewhere}).status_code == 409


@pytest.mark.usefixtures("sample")
def test_a_file_may_not_place_new_orders_beside_one_that_returns_to_an_earlier_import(
    api: Api, tmp_path: Path
) -> None:
    """Each is named; alone, the order that returns is accepted."""
    for order_id in ("223", "224", "225"):
        assert api.client.delete(f"/orders/{order_id}").status_code == 204
    rows = [
        {"id": order_id, "datetime": at, "totalfee": 1, "services": [{"id": "123"}]}
        for order_id, at in (
            (300, SAMPLE_TIME),
            (223, SAMPLE_TIME),
            (225, SAMPLE_TIME),
            (224, "2022-11-01T14:00:00Z"),
        )
    ]
    done = import_rows(tmp_path, rows)
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == [
        *(f"orders[{row}].datetime" for row in (1, 2, 3)),
        "refused",
    ]
    assert import_rows(tmp_path, [rows[2], rows[1]]).returncode == 0
    assert api.client.patch("/orders/223", json={"totalfee": 2}).status_code == 200


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("sample")
def test_orders_are_near_each_other_only_where_their_import_placed_them_whatever_happens_at_once(
    api: Api, database: Database, seed: int
) -> None:
    """Orders of the import leave and return while others are placed there, moved there and deleted."""
    draw = random.Random(seed)
    places = [SAMPLE_TIME, "2022-11-01T12:11:11.111Z", "2022-11-01T09:00:00Z", "2022-11-01T15:00:00Z"]
    ids = ["223", "224", "225"]
    answered: Counter[int] = Counter()
    for round_number in range(12):
        calls: list[Callable[[], httpx.Response]] = []
        for order_id in ids:
            at = draw.choice([SAMPLE_TIME, *places])
            calls.append(partial(api.client.patch, f"/orders/{order_id}", json={"datetime": at}))
        calls += [partial(api.place_order, at=draw.choice(places), services=(123,)) for _ in range(3)]
        others = [order["id"] for order in api.every_order() if order["id"] not in ids]
        calls += [partial(api.client.delete, f"/orders/{other}") for other in others[: round_number % 3]]
        draw.shuffle(calls)
        answered.update(answer.status_code for answer in at_once(calls))
        assert database.rows(NEAR_BUT_NOT_PLACED_SO) == []
    assert set(answered) <= {200, 201, 204, 409}
    assert min(answered[200], answered[409]) > 0


NEAR_BUT_NOT_PLACED_SO = """
SELECT a.id, b.id AS other FROM orders AS a JOIN orders AS b
ON a.id <> b.id AND a.calendar_id = b.calendar_id AND abs(extract(epoch FROM a.datetime - b.datetime)) < 10800
WHERE NOT EXISTS (
    SELECT FROM imported_place AS p JOIN imported_place AS q USING (import_id)
    WHERE (p.order_id, p.calendar_id, p.datetime) = (a.id, a.calendar_id, a.datetime)
      AND (q.order_id, q.calendar_id, q.datetime) = (b.id, b.calendar_id, b.datetime)
)
"""
"""Orders that are less than three hours apart, and which no import placed where both are now."""
