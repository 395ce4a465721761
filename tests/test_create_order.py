"""POST /orders: what is stored, what is refused and why, and what can't be read at all."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import NOON, later, order_body

if TYPE_CHECKING:
    import httpx

    from tests.drivers import Api, Database

SAMPLE = json.loads((Path(__file__).parent.parent / "sample-data" / "orders.json").read_text())
GREATEST_CALLERS_ID = 999_999_999_999

VALID = '{"datetime": "2030-06-01T12:00:00Z", "totalfee": 100, "services": [{"id": "123"}]%s}'
"""A valid body, with room for more."""


def pointers(answer: httpx.Response) -> list[str]:
    """Give the places of all faults of a body that was read and not accepted."""
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "/problems/validation-failed"
    assert all(fault["detail"] for fault in problem["errors"])
    return [fault["pointer"] for fault in problem["errors"]]


def placed_with_fee(api: Api, fee: str) -> httpx.Response:
    """Place an order whose fee is written exactly like this."""
    return api.post_text("/orders", f'{{"totalfee": {fee}, "services": [{{"id": "123"}}]}}')


# --- what is stored ----------------------------------------------------------------------------------


def test_an_order_is_created_and_answered_as_it_can_be_read(api: Api) -> None:
    """201, where it is, its version, and the very bytes that a GET gives."""
    answer = api.post_text(
        "/orders",
        '{"id": 223, "datetime": "2022-11-01T11:11:11.111Z", "totalfee": 100, "calendar": "crew-7",'
        ' "services": [{"id": 789}, {"id": "123"}]}',
    )
    assert answer.status_code == 201
    assert answer.headers["location"] == "/orders/223"
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["content-type"] == "application/json"
    written_at = answer.json()["created_at"]
    assert answer.text == (
        '{"id":"223","datetime":"2022-11-01T11:11:11.111Z","totalfee":100.00,'
        '"services":[{"id":"123","name":"Inspection"},{"id":"789","name":"Testing"}],'
        f'"calendar":"crew-7","version":1,"created_at":"{written_at}","updated_at":"{written_at}"}}'
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.(\d{3}){1,2}Z", written_at)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(written_at)) < timedelta(minutes=1)
    assert api.client.get(answer.headers["location"]).content == answer.content


def test_the_first_order_on_a_calendar_is_answered_like_every_later_one(api: Api) -> None:
    """A calendar is made on first use, and shown at once."""
    for day, calendar in enumerate(["default", "crew-1", "crew-1"]):
        order = api.placed_order(calendar=calendar, at=later(days=day))
        assert order["calendar"] == calendar
        assert api.client.get(f"/orders/{order['id']}").json() == order


def test_an_order_without_a_datetime_is_for_now(api: Api) -> None:
    """By the clock of the server."""
    before = datetime.now(UTC)
    order = api.placed_order(at=None)
    assert before <= datetime.fromisoformat(order["datetime"]) <= datetime.now(UTC)


def test_an_order_without_a_calendar_is_on_the_default_one(api: Api) -> None:
    """So whoever says nothing about calendars has one."""
    assert api.placed_order()["calendar"] == "default"
    assert api.place_order(calendar="default").status_code == 409


@pytest.mark.parametrize("body", SAMPLE, ids=lambda body: body["id"])
def test_the_sample_orders_bodies_are_accepted_as_they_are(api: Api, body: dict[str, Any]) -> None:
    """Ids as strings, among them their services'."""
    answer = api.client.post("/orders", json=body)
    assert answer.status_code == 201
    order = answer.json()
    assert (order["id"], order["datetime"], order["totalfee"]) == (body["id"], body["datetime"], 100)
    assert [service["id"] for service in order["services"]] == [service["id"] for service in body["services"]]


def test_the_sample_orders_stand_together_on_calendars_of_their_own(api: Api) -> None:
    """All three have one datetime, which only an import may bring to one calendar."""
    for number, body in enumerate(SAMPLE):
        assert api.client.post("/orders", json={**body, "calendar": f"crew-{number}"}).status_code == 201
    assert (
        api.client.post("/orders", json={**SAMPLE[0], "id": "226", "calendar": "crew-1"}).status_code == 409
    )


@pytest.mark.parametrize("order_id", ["223", 223, "1", GREATEST_CALLERS_ID, str(GREATEST_CALLERS_ID)])
@pytest.mark.parametrize("service_id", ["123", 123])
def test_ids_may_be_strings_or_integers_and_are_answered_as_strings(
    api: Api, order_id: str | int, service_id: str | int
) -> None:
    """The samples have both."""
    order = api.placed_order(id=order_id, services=(service_id,))
    assert order["id"] == str(order_id)
    assert order["services"] == [{"id": "123", "name": "Inspection"}]


def test_the_servers_own_ids_never_meet_the_callers(api: Api) -> None:
    """They begin where the callers' end."""
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
        ("2022-11-01T11:11:11.123456Z", "2022-11-01T11:11:11.123456Z"),
        ("2022-11-01T11:11:11.000001Z", "2022-11-01T11:11:11.000001Z"),
        ("2022-11-01T11:11:11.120000Z", "2022-11-01T11:11:11.120Z"),
        ("2022-11-01T16:41:11.111+05:30", "2022-11-01T11:11:11.111Z"),
        ("2022-10-31T20:11:11-15:00", "2022-11-01T11:11:11.000Z"),
        ("2022-11-01T11:11:11-00:00", "2022-11-01T11:11:11.000Z"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00.000Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"),
        ("1970-01-01T05:30:00+05:30", "1970-01-01T00:00:00.000Z"),
        ("2199-12-31T23:59:59.999999Z", "2199-12-31T23:59:59.999999Z"),
        ("2200-01-01T13:59:59.999999+14:00", "2199-12-31T23:59:59.999999Z"),
    ],
)
def test_datetimes_are_answered_in_utc_as_exactly_as_they_were_sent(
    api: Api, text: str, answered: str
) -> None:
    """With three digits of a second, or with six where they are needed."""
    assert api.placed_order(at=text)["datetime"] == answered


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
        ("12345678.90", "12345678.90"),
        ("9999999999.99", "9999999999.99"),
        ("0.00000000000000000000000000000000000000", "0.00"),
    ],
)
def test_fees_are_exact_decimals(api: Api, sent: str, answered: str) -> None:
    """Free of charge included."""
    answer = placed_with_fee(api, sent)
    assert answer.status_code == 201, answer.text
    assert f'"totalfee":{answered},' in answer.text


@pytest.mark.parametrize("name", ["a", "7", "default", "crew-7", "Rome.North_2", "x" * 64])
def test_calendars_are_made_on_first_use(api: Api, database: Database, name: str) -> None:
    """Whatever they are called, within reason."""
    assert api.placed_order(calendar=name)["calendar"] == name
    assert database.rows("SELECT name FROM calendar") == [{"name": name}]


def test_fifty_services_can_be_ordered_and_are_shown_by_id(api: Api, database: Database) -> None:
    """In whatever order they were sent."""
    database.rows("INSERT INTO service (id, name) SELECT n, 'Service ' || n FROM generate_series(1, 50) AS n")
    order = api.placed_order(services=tuple(range(50, 0, -1)))
    assert [int(service["id"]) for service in order["services"]] == list(range(1, 51))


# --- ids that are taken ------------------------------------------------------------------------------


def test_an_id_that_is_taken_is_refused(api: Api) -> None:
    """Even where its place would be free, and whatever form it is sent in."""
    order = api.placed_order(id="223")
    answer = api.place_order(id=223, at=later(days=1), calendar="crew-1")
    assert answer.status_code == 409
    assert answer.json()["type"] == "/problems/order-id-taken"
    assert "223" in answer.json()["detail"]
    assert api.every_order() == [order]


def test_the_id_of_a_deleted_order_stays_taken(api: Api) -> None:
    """An id names one order for ever."""
    api.placed_order(id=223)
    api.client.delete("/orders/223")
    answer = api.place_order(id=223)
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/order-id-taken")
    assert api.client.get("/orders/223").status_code == 404


def test_an_id_whose_create_was_refused_is_not_taken(api: Api) -> None:
    """It names nothing yet."""
    api.placed_order()
    assert api.place_order(id=5).json()["type"] == "/problems/orders-too-close"
    api.placed_order(id=5, at=later(hours=3))


# --- fields that can be read and are not acceptable --------------------------------------------------


@pytest.mark.parametrize(
    "fee",
    [
        *("-1", "-0.01", "10000000000", "9999999999.991", "9999999999.995", "1e10", "1e309", "-1e309"),
        *("10.005", "0.001", "1e-3", "1e-400", "0.0000000000000000000000000001", "1e999999999"),
        *("100000000000000000000000000000000000000000", '"100"', '"abc"', '""', "true", "false", "null"),
        *("[100]", '{"amount": 100}'),
    ],
)
def test_a_fee_that_is_none_is_refused_and_never_rounded(api: Api, fee: str) -> None:
    """From 0 to 9,999,999,999.99, with at most two decimals by value."""
    assert pointers(placed_with_fee(api, fee)) == ["#/totalfee"]


@pytest.mark.parametrize(
    "at",
    [
        *("2023-02-29T12:00:00Z", "2030-02-30T12:00:00Z", "2030-13-01T12:00:00Z", "2030-00-10T12:00:00Z"),
        *("2030-06-31T12:00:00Z", "2030-06-01T24:00:00Z", "2030-06-01T12:60:00Z", "2030-06-01T23:59:60Z"),
        *("2030-06-01T12:00:00", "2030-06-01", "2030-06-01T12:00Z", "2030-06-01 12:00:00Z"),
        *("2030-06-01t12:00:00Z", "2030-06-01T12:00:00z", "20300601T120000Z", "2030-W22-6T12:00:00Z"),
        *("2030-06-01T12:00:00.Z", "2030-06-01T12:00:00,5Z", "2030-06-01T12:00:00.1234567Z"),
        *("2030-06-01T12:00:00+24:00", "2030-06-01T12:00:00+05:60", "2030-06-01T12:00:00+23:60"),
        *("2030-06-01T12:00:00+5:30", "2030-06-01T12:00:00+0530", "2030-06-01T12:00:00+05:30:15"),
        *("2030-06-01T12:00:00+05", "2030-06-01T12:00:00 UTC", " 2030-06-01T12:00:00Z"),
        *("2030-06-01T12:00:00Z\n", "1969-12-31T23:59:59.999999Z", "1970-01-01T00:00:00+00:01"),
        *("2200-01-01T00:00:00Z", "2199-12-31T23:59:59-00:01", "0000-01-01T00:00:00Z"),
        *("9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "12030-06-01T12:00:00Z"),
        *("+2030-06-01T12:00:00Z", "-2030-06-01T12:00:00Z", "２０３０-06-01T12:00:00Z"),  # noqa: RUF001 (digits, but not ASCII's)
        *("now", "", "null", "Infinity"),
    ],
    ids=lambda text: text.encode("unicode_escape").decode() or "empty",
)
def test_a_datetime_that_is_none_is_refused(api: Api, at: str) -> None:
    """RFC 3339, of a day that exists, with a zone, to the microsecond, 1970 to 2199."""
    assert pointers(api.place_order(at=at)) == ["#/datetime"]


@pytest.mark.parametrize("at", [None, 0, 1667301071, 1667301071.111, True, [], {}], ids=repr)
def test_a_datetime_that_is_no_string_is_refused(api: Api, at: object) -> None:
    """Null is not the same as nothing, and numbers say neither unit nor zone."""
    assert pointers(api.client.post("/orders", json=order_body(at=None) | {"datetime": at})) == ["#/datetime"]


NO_IDS: list[Any] = [
    *("abc", "0", "-1", "00223", "+5", "1.0", "1e3", "0x10", "", " 5", "5 ", "5\n", "1 OR 1=1"),
    *("99999999999999999999", "９", "٣", "1_000"),  # noqa: RUF001 (as above)
    *(0, -1, 1.5, 99999999999999999999, 10**100, True, False, None, [], {}),
]


@pytest.mark.parametrize("order_id", [*NO_IDS, GREATEST_CALLERS_ID + 1, 10**12, str(10**12)], ids=repr)
def test_an_id_that_is_none_or_the_servers_to_give_is_refused(api: Api, order_id: object) -> None:
    """From 1 to 999,999,999,999, in plain digits."""
    assert pointers(api.place_order(id=order_id)) == ["#/id"]


@pytest.mark.parametrize("service_id", NO_IDS, ids=repr)
def test_a_services_id_that_is_none_is_refused(api: Api, service_id: Any) -> None:
    """The pointer names its place in the list."""
    assert pointers(api.place_order(services=(123, service_id))) == ["#/services/1/id"]


@pytest.mark.parametrize(
    ("services", "places"),
    [
        ([], ["#/services"]),
        ([{"id": "123"}, {"id": 123}], ["#/services"]),
        ([{"id": n} for n in range(1, 52)], ["#/services"]),
        ([{"id": "124"}], ["#/services/0/id"]),
        ([{"id": 123}, {"id": 124}, {"id": 10**18 - 1}], ["#/services/1/id", "#/services/2/id"]),
        ([{}], ["#/services/0/id"]),
        ([{"id": "123", "name": "Inspection"}], ["#/services/0/name"]),
        (["123"], ["#/services/0"]),
        ([None], ["#/services/0"]),
        ({"id": "123"}, ["#/services"]),
        ("123", ["#/services"]),
        (None, ["#/services"]),
    ],
    ids=str,
)
def test_services_that_cannot_be_ordered_are_refused(api: Api, services: object, places: list[str]) -> None:
    """One to fifty of the catalogue's, each once."""
    assert pointers(api.client.post("/orders", json=order_body() | {"services": services})) == places


def test_an_archived_service_is_refused(api: Api) -> None:
    """And named by its place."""
    api.client.delete("/services/456")
    answer = api.place_order(services=(123, 456))
    assert pointers(answer) == ["#/services/1/id"]
    assert "archived" in answer.text


@pytest.mark.parametrize(
    "name",
    ["", " ", "crew 7", "-crew", ".crew", "_crew", "x" * 65, "crew/7", "crëw", "crew\n", "a'b", None, 7, []],
    ids=repr,
)
def test_a_calendars_name_that_is_none_is_refused(api: Api, database: Database, name: object) -> None:
    """Letters, digits, dots, underscores and hyphens, 64 at most."""
    assert pointers(api.place_order(calendar=name)) == ["#/calendar"]
    assert database.value("SELECT count(*) FROM calendar") == 0


@pytest.mark.parametrize(
    "field",
    [
        "version",
        "created_at",
        "updated_at",
        "import_id",
        "clear_until",
        "calendar_id",
        "totalFee",
        "",
        "name",
    ],
)
def test_a_field_that_callers_do_not_set_is_refused(api: Api, field: str) -> None:
    """Nothing can be set along, and nothing misspelt is silently ignored."""
    assert pointers(api.place_order(**{field: 1})) == [f"#/{field}"]


def test_a_pointer_escapes_what_pointers_must(api: Api) -> None:
    """RFC 6901."""
    assert pointers(api.place_order(**{"a/b~c": 1})) == ["#/a~1b~0c"]


def test_all_faults_are_told_at_once(api: Api) -> None:
    """So that a caller mends them all before trying again."""
    answer = api.client.post(
        "/orders",
        json={"id": 0, "datetime": "tomorrow", "services": [{"id": "x"}, {}], "calendar": "", "more": 1},
    )
    assert sorted(pointers(answer)) == [
        "#/calendar",
        "#/datetime",
        "#/id",
        "#/more",
        "#/services/0/id",
        "#/services/1/id",
        "#/totalfee",
    ]
    assert "6 more" in answer.json()["detail"]


@pytest.mark.parametrize("body", ["[]", '"order"', "1", "null", "true"])
def test_a_body_that_is_no_object_is_refused(api: Api, body: str) -> None:
    """JSON, but no order."""
    assert pointers(api.post_text("/orders", body)) == ["#"]


@pytest.mark.parametrize("missing", ["totalfee", "services"])
def test_a_field_that_is_missing_is_named(api: Api, missing: str) -> None:
    """The two without a default."""
    body = order_body()
    del body[missing]
    assert pointers(api.client.post("/orders", json=body)) == [f"#/{missing}"]


# --- what can't be read ------------------------------------------------------------------------------

UNREADABLE = {
    "empty": b"",
    "only space": b"  \n",
    "no JSON": b"totalfee=100",
    "cut off": VALID[:-3].encode(),
    "trailing data": (VALID % "" + "{}").encode(),
    "two documents": (VALID % "" + "\n" + VALID % "").encode(),
    "a trailing comma": (VALID % ",").encode(),
    "a comment": (VALID % " /* now */").encode(),
    "single quotes": b"{'totalfee': 100}",
    "a byte order mark": b"\xef\xbb\xbf" + (VALID % "").encode(),
    "UTF-16": (VALID % "").encode("utf-16"),
    "UTF-32": (VALID % "").encode("utf-32-le"),
    "invalid UTF-8": (VALID % ', "calendar": "\\').encode().replace(b"\\", b'\xff"'),
    "UTF-8 of a surrogate": (VALID % ', "calendar": "#"').encode().replace(b"#", b"\xed\xa0\x80"),
    "overlong UTF-8": (VALID % ', "calendar": "#"').encode().replace(b"#", b"\xc0\xaf"),
    "duplicate keys": (VALID % ', "totalfee": 1').encode(),
    "equal duplicate keys": (VALID % ', "totalfee": 100').encode(),
    "duplicate keys inside": b'{"totalfee": 1, "services": [{"id": 123, "id": 456}]}',
    "duplicate keys, one escaped": (VALID % ', "total\\u0066ee": 1').encode(),
    "NaN": b'{"totalfee": NaN, "services": [{"id": 123}]}',
    "Infinity": b'{"totalfee": Infinity, "services": [{"id": 123}]}',
    "-Infinity": b'{"totalfee": -Infinity, "services": [{"id": 123}]}',
    "a leading zero": b'{"totalfee": 0100, "services": [{"id": 123}]}',
    "a plus sign": b'{"totalfee": +100, "services": [{"id": 123}]}',
    "a bare point": b'{"totalfee": 100., "services": [{"id": 123}]}',
    "an integer of 60,000 digits": b'{"totalfee": ' + b"9" * 60_000 + b', "services": [{"id": 123}]}',
    "an endless exponent": b'{"totalfee": 1e99999999999999999999, "services": [{"id": 123}]}',
    "nested arrays": b"[" * 60_000,
    "nested objects": b'{"a":' * 12_000,
    "nested and closed": b"[" * 30_000 + b"]" * 30_000,
    "an escaped NUL": (VALID % ', "calendar": "a\\u0000"').encode(),
    "an escaped NUL in a key": (VALID % ', "a\\u0000": 1').encode(),
    "a NUL": (VALID % ', "calendar": "a\0"').encode(),
    "half a surrogate pair": (VALID % ', "calendar": "\\ud83d"').encode(),
    "the other half": (VALID % ', "calendar": "\\ude00"').encode(),
    "half a pair in a key": (VALID % ', "\\ud83d": 1').encode(),
    "half a pair as a key twice": b'{"\\ud83d": 1, "\\ud83d": 1}',
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_body_that_cannot_be_read_is_refused_with_the_reason(
    api: Api, database: Database, what: str
) -> None:
    """400, never a 500 or a half-understood order; and the service goes on."""
    answer = api.post_text("/orders", UNREADABLE[what])
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "/problems/malformed-request"
    assert problem["errors"][0]["detail"]
    assert "Traceback" not in answer.text
    assert database.value("SELECT count(*) FROM orders") == 0
    assert api.client.get("/orders").status_code == 200


def test_text_outside_of_ascii_can_be_read(api: Api) -> None:
    """A whole surrogate pair is a character like any other; here it is in no acceptable name."""
    assert pointers(api.post_text("/orders", VALID % ', "calendar": "\\ud83d\\ude00"')) == ["#/calendar"]


@pytest.mark.parametrize(
    "content_type",
    [
        *("", "text/plain", "text/json", "application/jsonp", "application/merge-patch+json"),
        *("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml", "json"),
    ],
)
def test_another_content_type_is_refused(api: Api, content_type: str) -> None:
    """415, and the one to send is named."""
    answer = api.post_text("/orders", VALID % "", content_type)
    assert answer.status_code == 415
    assert answer.json()["type"] == "/problems/unsupported-media-type"
    assert answer.headers["accept"] == "application/json"


def test_a_body_without_a_content_type_is_refused(api: Api) -> None:
    """Nothing is guessed."""
    assert api.client.post("/orders", content=(VALID % "").encode()).status_code == 415


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_the_content_type_may_have_parameters_and_any_case(api: Api, content_type: str) -> None:
    """RFC 9110."""
    assert api.post_text("/orders", VALID % "", content_type).status_code == 201


def test_a_compressed_body_is_refused(api: Api) -> None:
    """A small one could become a huge one."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert api.client.post("/orders", content=b"\x1f\x8b", headers=headers).status_code == 415


@pytest.mark.parametrize("known_length", [True, False], ids=["with its length", "in chunks"])
def test_a_body_that_is_too_large_is_refused(api: Api, *, known_length: bool) -> None:
    """413 beyond 64 KiB, said beforehand or not."""
    body = b" " * 1_100_000
    chunks = (body[at : at + 100_000] for at in range(0, len(body), 100_000))
    headers = {"Content-Type": "application/json"}
    answer = api.client.post("/orders", content=body if known_length else chunks, headers=headers)
    assert answer.status_code == 413
    assert answer.json()["type"] == "/problems/body-too-large"
    api.placed_order(at=NOON)


def test_a_query_on_a_create_is_refused(api: Api) -> None:
    """Nothing that a caller says is silently ignored."""
    answer = api.client.post("/orders?calender=crew-1", json=order_body())
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["parameter"] == "calender"
