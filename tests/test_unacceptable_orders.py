"""POST /orders: well-formed bodies with invalid content, 422 with every fault named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import order_body
from tests.drivers import faulty_places

if TYPE_CHECKING:
    from tests.drivers import Api, Database

GREATEST_CALLERS_ID = 999_999_999_999_999


@pytest.mark.parametrize(
    "fee",
    [
        *("-1", "-0.01", "10000000000", "9999999999.991", "9999999999.995", "1e10", "1e309", "-1e309"),
        *("10.005", "0.001", "1e-3", "1e-400", "0.0000000000000000000000000001", "1e999999999"),
        *("100000000000000000000000000000000000000000", '"100"', '"abc"', '""', "true", "false", "null"),
        *("[100]", '{"amount": 100}'),
    ],
)
def test_an_invalid_fee_is_refused_and_never_rounded(api: Api, fee: str) -> None:
    """From 0 to 9,999,999,999.99, with at most two decimals by value."""
    assert faulty_places(api.place_order_with_fee(fee)) == ["#/totalfee"]


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
        *("now", "", "null", "Infinity", "2030-06-01T12:00:00.1234Z", "2030-06-01T12:00:00.000000001Z"),
        f"2030-06-01T12:00:00.{'0' * 60}Z",
    ],
    ids=lambda text: text.encode("unicode_escape").decode() or "empty",
)
def test_an_invalid_datetime_is_refused(api: Api, at: str) -> None:
    """RFC 3339, an existing day, with a zone, to the millisecond, 1970 to 2199."""
    assert faulty_places(api.place_order(at=at)) == ["#/datetime"]


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        ("2030-06-01T12:00:00", "must have a time zone: end it with Z or an offset such as +05:30"),
        ("2030-06-01T12:00:00+0530", "the offset needs a colon, as in +05:30"),
        ("2030-06-01T12:00:00 05:30", "a + in a URL means a space, so send it as %2B"),
        ("2030-06-01", "the time is missing"),
        ("2030-06-01T12:00Z", "the seconds are missing"),
        ("2030-06-01 12:00:00Z", "a T separates date and time"),
        ("2030-06-01T23:59:60Z", "must have seconds from 00 to 59; send a leap second as 59.999"),
        ("1667301071", "not a number of seconds"),
        (1667301071, "not a number of seconds"),
        (1667301071.5, "not a number of seconds"),
        ("2030-02-30T12:00:00Z", "must be a date, time and offset that exist"),
        (
            "2030-06-01T12:00:00.111156Z",
            "must be to the millisecond, as in 2030-06-01T12:00:00.111Z; further digits must be zeros",
        ),
        (
            "2030-06-01T12:00:00.000000001+05:30",
            "must be to the millisecond, as in 2030-06-01T12:00:00.000+05:30; further digits must be zeros",
        ),
        ("2199-12-31T23:59:59.999999Z", "as in 2199-12-31T23:59:59.999Z; further digits must be zeros"),
        ("12:00:00", "the date is missing"),
        ("2030-06-01T12Z", "the seconds are missing"),
        ("2030-06-01T12:00:00+05", "the offset needs minutes, as in +05:30"),
        ("2030-06-01T12:00:00\N{MINUS SIGN}05:30", "the offset needs a hyphen (U+002D) as its minus"),
        ("2030-06-01T12:00:00+01:00[Europe/Berlin]", "leave out the name of the zone in brackets"),
        ("2030-06-01T12:00:00 UTC", "write Z for UTC"),
        ("2030-06-01T12:00:00,5Z", "the fraction begins with a dot, not a comma"),
        ("2030-06-01t12:00:00z", "T and Z must be capital letters"),
        ("2030-06-01 12:00:00.111000+00:00", "a T separates date and time"),
        ("20300601T120000Z", "the hyphens and colons are missing"),
        (" 2030-06-01T12:00:00Z", "there is space before or after it"),
        ("2030-06-01T12:00:00Z\n", "there is space before or after it"),
        ("2030-06-01T24:00:00Z", "send 24:00 as 00:00 of the next day"),
        ("-1667301071.5", "not a number of seconds"),
    ],
)
def test_the_refusal_of_a_datetime_says_what_is_wrong_with_this_one(
    api: Api, at: str | float, reason: str
) -> None:
    """It names the mistake that clients make, and not only the format."""
    answer = api.client.post("/orders", json=order_body(at=None) | {"datetime": at})
    assert faulty_places(answer) == ["#/datetime"]
    (fault,) = answer.json()["errors"]
    assert fault["detail"].endswith(reason)


def test_a_query_whose_plus_sign_became_a_space_is_told_so(api: Api) -> None:
    """A + in a query is a space to every server."""
    answer = api.client.get("/orders?from=2030-06-01T12:00:00+05:30")
    assert answer.status_code == 400
    (fault,) = answer.json()["errors"]
    assert fault["parameter"] == "from"
    assert fault["detail"].endswith("a + in a URL means a space, so send it as %2B")


@pytest.mark.parametrize("at", [0, 1667301071, 1667301071.111, True, [], {}], ids=repr)
def test_a_datetime_that_is_not_a_string_is_refused(api: Api, at: object) -> None:
    """Numbers have neither unit nor zone."""
    assert faulty_places(api.client.post("/orders", json=order_body(at=None) | {"datetime": at})) == [
        "#/datetime"
    ]


INVALID_IDS: list[Any] = [
    *("abc", "0", "-1", "00223", "+5", "1.0", "1e3", "0x10", "", " 5", "5 ", "5\n", "1 OR 1=1"),
    *("99999999999999999999", "９", "٣", "1_000"),  # noqa: RUF001 (as above)
    *(0, -1, 1.5, 99999999999999999999, 10**100, True, False, [], {}),
]


@pytest.mark.parametrize("order_id", [*INVALID_IDS, GREATEST_CALLERS_ID + 1, 10**15, str(10**15)], ids=repr)
def test_an_id_that_is_invalid_or_reserved_for_the_server_is_refused(api: Api, order_id: object) -> None:
    """Valid ones are from 1 to 999,999,999,999, in plain digits."""
    assert faulty_places(api.place_order(id=order_id)) == ["#/id"]


@pytest.mark.parametrize("service_id", INVALID_IDS, ids=repr)
def test_an_invalid_service_id_is_refused(api: Api, service_id: Any) -> None:
    """The pointer names its place in the list."""
    assert faulty_places(api.place_order(services=(123, service_id))) == ["#/services/1/id"]


@pytest.mark.parametrize(
    ("services", "places"),
    [
        ([], ["#/services"]),
        ([{"id": "123"}, {"id": 123}], ["#/services"]),
        ([{"id": n} for n in range(1, 52)], ["#/services"]),
        ([{"id": "124"}], ["#/services/0/id"]),
        ([{"id": 123}, {"id": 124}, {"id": 10**18 - 1}], ["#/services/1/id", "#/services/2/id"]),
        ([{}], ["#/services/0/id"]),
        ([{"id": "123", "title": "Inspection"}], ["#/services/0/title"]),
        ([{"id": None}], ["#/services/0/id"]),
        (["123"], ["#/services/0"]),
        ([None], ["#/services/0"]),
        ({"id": "123"}, ["#/services"]),
        ("123", ["#/services"]),
        (None, ["#/services"]),
    ],
    ids=str,
)
def test_a_list_of_services_that_cannot_be_ordered_is_refused(
    api: Api, services: object, places: list[str]
) -> None:
    """One to fifty of the catalogue's, each once."""
    assert faulty_places(api.client.post("/orders", json=order_body() | {"services": services})) == places


def test_an_order_of_an_archived_service_is_refused(api: Api) -> None:
    """The pointer names the archived service's place in the body."""
    api.client.delete("/services/456")
    answer = api.place_order(services=(123, 456))
    assert faulty_places(answer) == ["#/services/1/id"]
    assert "archived" in answer.text


@pytest.mark.parametrize(
    "name",
    ["", " ", "crew 7", "-crew", ".crew", "_crew", "x" * 65, "crew/7", "crëw", "crew\n", "a'b", 7, []],
    ids=repr,
)
def test_an_invalid_calendar_name_is_refused(api: Api, database: Database, name: object) -> None:
    """Letters, digits, dots, underscores and hyphens, 64 at most."""
    assert faulty_places(api.place_order(calendar=name)) == ["#/calendar"]
    assert database.value("SELECT count(*) FROM calendar") == 0


@pytest.mark.parametrize(
    "field",
    [
        "import_id",
        "clear_until",
        "calendar_id",
        "totalFee",
        "",
        "name",
    ],
)
def test_an_order_with_a_field_that_callers_cannot_set_is_refused(api: Api, field: str) -> None:
    """No misspelt field is silently ignored."""
    assert faulty_places(api.place_order(**{field: 1})) == [f"#/{field}"]


def test_pointers_to_faults_are_escaped(api: Api) -> None:
    """RFC 6901 writes ``/`` as ``~1`` and ``~`` as ``~0``."""
    assert faulty_places(api.place_order(**{"a/b~c": 1})) == ["#/a~1b~0c"]


def test_all_faults_of_an_order_are_reported_together(api: Api) -> None:
    """So that a caller corrects them all before trying again."""
    answer = api.client.post(
        "/orders",
        json={"id": 0, "datetime": "tomorrow", "services": [{"id": "x"}, {}], "calendar": "", "more": 1},
    )
    assert sorted(faulty_places(answer)) == [
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
def test_an_order_that_is_not_an_object_is_refused(api: Api, body: str) -> None:
    """Valid JSON, but not an order."""
    assert faulty_places(api.post_text("/orders", body)) == ["#"]


@pytest.mark.parametrize("missing", ["totalfee", "services"])
def test_a_missing_field_of_an_order_is_named(api: Api, missing: str) -> None:
    """Only the two fields without a default can be missing."""
    body = order_body()
    del body[missing]
    assert faulty_places(api.client.post("/orders", json=body)) == [f"#/{missing}"]
