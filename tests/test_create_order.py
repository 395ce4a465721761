"""POST /orders: what is stored and how it is answered, and ids that are taken."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import later, tags

if TYPE_CHECKING:
    from tests.drivers import Api, Database

SAMPLE = json.loads((Path(__file__).parent.parent / "sample-data" / "orders.json").read_text())
GREATEST_CALLERS_ID = 999_999_999_999_999


# --- what is stored ----------------------------------------------------------------------------------


def test_a_created_order_is_answered_with_the_bytes_that_a_get_returns(api: Api) -> None:
    """201, with its location and its version."""
    answer = api.post_text(
        "/orders",
        '{"id": 223, "datetime": "2022-11-01T11:11:11.111Z", "totalfee": 100, "calendar": "crew-7",'
        ' "services": [{"id": 789}, {"id": "123"}]}',
    )
    assert answer.status_code == 201
    assert answer.headers["location"] == "/orders/223"
    assert answer.headers["etag"] == tags('"1"')
    assert answer.headers["content-type"] == "application/json"
    written_at = answer.json()["created_at"]
    assert answer.text == (
        '{"id":"223","datetime":"2022-11-01T11:11:11.111Z","totalfee":100.00,'
        '"services":[{"id":"123","name":"Inspection"},{"id":"789","name":"Testing"}],'
        f'"calendar":"crew-7","reference":null,"metadata":{{}},"status":"booked","version":1,'
        f'"created_at":"{written_at}","updated_at":"{written_at}"}}'
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.(\d{3}){1,2}Z", written_at)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(written_at)) < timedelta(minutes=1)
    assert api.client.get(answer.headers["location"]).content == answer.content


def test_the_first_order_on_a_calendar_is_answered_like_every_later_one(api: Api) -> None:
    """A calendar is created on first use, and appears in the answer at once."""
    for day, calendar in enumerate(["default", "crew-1", "crew-1"]):
        order = api.placed_order(calendar=calendar, at=later(days=day))
        assert order["calendar"] == calendar
        assert api.client.get(f"/orders/{order['id']}").json() == order


def test_an_order_without_a_datetime_is_placed_at_the_current_time(api: Api) -> None:
    """The current time is read from the server's clock."""
    before = datetime.now(UTC)
    order = api.placed_order(at=None)
    assert before <= datetime.fromisoformat(order["datetime"]) <= datetime.now(UTC)


def test_an_order_without_a_calendar_uses_the_default_calendar(api: Api) -> None:
    """Callers without calendars need not name one."""
    assert api.placed_order()["calendar"] == "default"
    assert api.place_order(calendar="default").status_code == 409


@pytest.mark.parametrize("body", SAMPLE, ids=lambda body: body["id"])
def test_the_bodies_of_the_sample_orders_are_accepted_unchanged(api: Api, body: dict[str, Any]) -> None:
    """Ids are strings, those of their services too."""
    answer = api.client.post("/orders", json=body)
    assert answer.status_code == 201
    order = answer.json()
    assert (order["id"], order["datetime"], order["totalfee"]) == (body["id"], body["datetime"], 100)
    assert [service["id"] for service in order["services"]] == [service["id"] for service in body["services"]]


def test_the_sample_orders_are_accepted_when_each_has_a_calendar_of_its_own(api: Api) -> None:
    """All three have the same datetime, which only an import may store on one calendar."""
    for number, body in enumerate(SAMPLE):
        assert api.client.post("/orders", json={**body, "calendar": f"crew-{number}"}).status_code == 201
    assert (
        api.client.post("/orders", json={**SAMPLE[0], "id": "226", "calendar": "crew-1"}).status_code == 409
    )


@pytest.mark.parametrize("order_id", ["223", 223, "1", GREATEST_CALLERS_ID, str(GREATEST_CALLERS_ID)])
@pytest.mark.parametrize("service_id", ["123", 123])
def test_ids_may_be_strings_or_integers_and_are_returned_as_strings(
    api: Api, order_id: str | int, service_id: str | int
) -> None:
    """The sample data has both."""
    order = api.placed_order(id=order_id, services=(service_id,))
    assert order["id"] == str(order_id)
    assert order["services"] == [{"id": "123", "name": "Inspection"}]


def test_ids_assigned_by_the_server_never_collide_with_ids_chosen_by_callers(api: Api) -> None:
    """The server's begin where the callers' end."""
    api.placed_order(id=GREATEST_CALLERS_ID, at=later(days=-1))
    ids = [int(api.placed_order(at=later(days=day))["id"]) for day in range(3)]
    assert all(own > GREATEST_CALLERS_ID for own in ids)
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("text", "answered"),
    [
        ("2022-11-01T11:11:11.111Z", "2022-11-01T11:11:11.111Z"),
        ("2022-11-01T11:11:11Z", "2022-11-01T11:11:11.000Z"),
        ("2022-11-01T11:11:11.1Z", "2022-11-01T11:11:11.100Z"),
        ("2022-11-01T11:11:11.123000Z", "2022-11-01T11:11:11.123Z"),
        ("2022-11-01T11:11:11.123000000Z", "2022-11-01T11:11:11.123Z"),
        ("2022-11-01T11:11:11.0000000Z", "2022-11-01T11:11:11.000Z"),
        ("2022-11-01T11:11:11.120000Z", "2022-11-01T11:11:11.120Z"),
        ("2022-11-01T16:41:11.123000+05:30", "2022-11-01T11:11:11.123Z"),
        ("2022-11-01T16:41:11.111+05:30", "2022-11-01T11:11:11.111Z"),
        ("2022-10-31T20:11:11-15:00", "2022-11-01T11:11:11.000Z"),
        ("2022-11-01T11:11:11-00:00", "2022-11-01T11:11:11.000Z"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00.000Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"),
        ("1970-01-01T05:30:00+05:30", "1970-01-01T00:00:00.000Z"),
        ("2199-12-31T23:59:59.999Z", "2199-12-31T23:59:59.999Z"),
        ("2200-01-01T13:59:59.999+14:00", "2199-12-31T23:59:59.999Z"),
    ],
)
def test_datetimes_are_returned_in_utc_to_the_millisecond(api: Api, text: str, answered: str) -> None:
    """Further digits are accepted if they are zeros."""
    assert api.placed_order(at=text)["datetime"] == answered


def test_an_order_for_now_and_the_nearest_free_times_are_to_the_millisecond(api: Api) -> None:
    """So that a client that keeps milliseconds can send them back."""
    now = api.placed_order(at=None)["datetime"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", now)
    nearest = api.place_order(at=None).json()["nearest"]
    for at in nearest.values():
        assert api.placed_order(at=at)["datetime"] == at


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ("0", "0.00"),
        ("-0", "0.00"),
        ("-0.0", "0.00"),
        ("0.01", "0.01"),
        ("0.07", "0.07"),
        ("100", "100.00"),
        ("100.5", "100.50"),
        ("1e2", "100.00"),
        ("1.005e3", "1005.00"),
        ("100.500", "100.50"),
        ("1.0E+2", "100.00"),
        ("10050e-2", "100.50"),
        ("12345678.90", "12345678.90"),
        ("9999999999.99", "9999999999.99"),
        ("0.00000000000000000000000000000000000000", "0.00"),
    ],
)
def test_fees_are_exact_decimals(api: Api, sent: str, answered: str) -> None:
    """An order may be free of charge."""
    answer = api.place_order_with_fee(sent)
    assert answer.status_code == 201, answer.text
    assert f'"totalfee":{answered},' in answer.text


@pytest.mark.parametrize("name", ["a", "7", "default", "crew-7", "Rome.North_2", "x" * 64])
def test_calendars_are_created_on_first_use(api: Api, database: Database, name: str) -> None:
    """Any name that the contract allows."""
    assert api.placed_order(calendar=name)["calendar"] == name
    assert database.rows("SELECT name FROM calendar") == [{"name": name}]


def test_fifty_services_can_be_ordered_and_are_returned_sorted_by_id(api: Api, database: Database) -> None:
    """In whatever order they were sent."""
    database.rows("INSERT INTO service (id, name) SELECT n, 'Service ' || n FROM generate_series(1, 50) AS n")
    order = api.placed_order(services=tuple(range(50, 0, -1)))
    assert [int(service["id"]) for service in order["services"]] == list(range(1, 51))


# --- ids that are taken ------------------------------------------------------------------------------


def test_an_order_id_that_is_taken_is_refused(api: Api) -> None:
    """Even where its datetime would be free, as string or integer."""
    order = api.placed_order(id="223")
    answer = api.place_order(id=223, at=later(days=1), calendar="crew-1")
    assert answer.status_code == 409
    assert answer.json()["type"] == "/problems/order-id-taken"
    assert "223" in answer.json()["detail"]
    assert api.every_order() == [order]


def test_the_id_of_a_deleted_order_stays_taken(api: Api) -> None:
    """An id names one order permanently."""
    api.placed_order(id=223)
    api.client.delete("/orders/223")
    answer = api.place_order(id=223)
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/order-id-taken")
    assert api.client.get("/orders/223").status_code == 404


def test_the_id_of_a_refused_create_stays_free(api: Api) -> None:
    """A caller may correct the request and send it again with the same id."""
    api.placed_order()
    assert api.place_order(id=5).json()["type"] == "/problems/orders-too-close"
    api.placed_order(id=5, at=later(hours=3))
