"""GET /fee-summaries: sums by period, service and calendar, with the position that they are exact for."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from api.http.pages import encode_cursor
from tests.steps import apply_every_change

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.drivers import Api, Database

Item = tuple[str, str | None, str | None, int, Decimal]


@pytest.fixture
def summed(api: Api, run: Callable[..., Any]) -> Callable[..., list[Item]]:
    """Sum every change, then read the summaries: period, service, calendar, orders, fees."""

    def read(**query: str) -> list[Item]:
        run(apply_every_change())
        return [
            (
                item["period"],
                item["service"] and item["service"]["id"],
                item["calendar"],
                item["orders"],
                item["totalfee"],
            )
            for item in api.fee_summaries(**query)["items"]
        ]

    return read


@pytest.fixture
def orders(api: Api) -> None:
    """Place orders around the ends of a week, a month and a year."""
    for at, fee, services, calendar in (
        ("2029-12-30T12:00:00Z", 1, (123,), "default"),  # a Sunday
        ("2029-12-31T12:00:00Z", 2, (123, 456), "default"),  # a Monday
        ("2030-01-01T00:00:00Z", 4, (456,), "default"),
        ("2030-01-01T23:59:59.999Z", 8, (789,), "default"),
        ("2030-01-01T12:00:00Z", 16, (123, 456, 789), "crew-1"),
        ("2030-02-01T00:00:00Z", 32, (123,), "crew-1"),
    ):
        api.placed_order(at=at, fee=fee, services=services, calendar=calendar)


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        (
            "day",
            [
                ("2029-12-30", 1, "1"),
                ("2029-12-31", 1, "2"),
                ("2030-01-01", 3, "28"),
                ("2030-02-01", 1, "32"),
            ],
        ),
        ("week", [("2029-12-24", 1, "1"), ("2029-12-31", 4, "30"), ("2030-01-28", 1, "32")]),
        ("month", [("2029-12-01", 2, "3"), ("2030-01-01", 3, "28"), ("2030-02-01", 1, "32")]),
        ("quarter", [("2029-10-01", 2, "3"), ("2030-01-01", 4, "60")]),
        ("year", [("2029-01-01", 2, "3"), ("2030-01-01", 4, "60")]),
    ],
)
def test_orders_and_fees_are_summed_by_period(
    summed: Callable[..., list[Item]], group_by: str, expected: list[tuple[str, int, str]]
) -> None:
    """A period is named by its first day; weeks begin on Monday."""
    assert summed(group_by=group_by) == [
        (period, None, None, count, Decimal(fee)) for period, count, fee in expected
    ]


@pytest.mark.usefixtures("orders")
def test_fees_are_divided_over_services(summed: Callable[..., list[Item]]) -> None:
    """To the cent, the first services get the odd cents; an order counts for each of its services."""
    assert summed(by="service", group_by="year") == [
        ("2029-01-01", "123", None, 2, Decimal("2.00")),
        ("2029-01-01", "456", None, 1, Decimal("1.00")),
        ("2030-01-01", "123", None, 2, Decimal("37.34")),
        ("2030-01-01", "456", None, 2, Decimal("9.33")),
        ("2030-01-01", "789", None, 2, Decimal("13.33")),
    ]


@pytest.mark.usefixtures("orders")
def test_orders_and_fees_are_summed_by_calendar(summed: Callable[..., list[Item]]) -> None:
    """Each order counts once."""
    assert sorted(summed(by="calendar", group_by="month"), key=str) == [
        ("2029-12-01", None, "default", 2, Decimal(3)),
        ("2030-01-01", None, "crew-1", 1, Decimal(16)),
        ("2030-01-01", None, "default", 2, Decimal(12)),
        ("2030-02-01", None, "crew-1", 1, Decimal(32)),
    ]


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize(
    ("bounds", "total"),
    [
        ({}, 63),
        ({"from": "2030-01-01"}, 60),
        ({"to": "2030-01-01"}, 3),
        ({"from": "2029-12-31", "to": "2030-01-01"}, 2),
        ({"from": "2030-01-01", "to": "2030-01-01"}, 0),
        ({"from": "2030-02-02"}, 0),
        ({"from": "1970-01-01", "to": "2200-01-01"}, 63),
    ],
    ids=str,
)
@pytest.mark.parametrize("by", ["none", "calendar", "service"])
@pytest.mark.parametrize("group_by", ["day", "year"])
def test_a_summarys_from_day_is_included_and_its_to_day_is_not(
    summed: Callable[..., list[Item]], bounds: dict[str, str], total: int, by: str, group_by: str
) -> None:
    """Also where they cut a period; the sums are the same whatever the period is."""
    items = summed(**bounds, by=by, group_by=group_by)
    assert sum((fee for *_, fee in items), Decimal(0)) == total


def test_a_summary_contains_exactly_the_changes_up_to_its_position(api: Api, run: Callable[..., Any]) -> None:
    """Later changes are not in it."""
    api.placed_order(fee=100, services=(123, 456))
    assert api.fee_summaries()["items"] == []
    assert api.fee_summaries()["as_of"]["position"] == 0
    run(apply_every_change())
    summaries = api.fee_summaries(by="service")
    assert summaries["as_of"]["position"] == 1
    expected = {
        "period": "2030-06-01",
        "service": {"id": "123", "name": "Inspection"},
        "calendar": None,
        "orders": 1,
        "totalfee": Decimal("50.00"),
    }
    assert expected.items() <= summaries["items"][0].items()


def test_summaries_show_the_current_names_of_services(api: Api, run: Callable[..., Any]) -> None:
    """An order keeps the name that its service had; a summary shows the current one."""
    api.placed_order()
    run(apply_every_change())
    api.client.put("/services/123", json={"name": "Survey"})
    api.client.delete("/services/123")
    assert api.fee_summaries(by="service")["items"][0]["service"] == {"id": "123", "name": "Survey"}


def test_summaries_follow_every_change_of_an_order(api: Api, summed: Callable[..., list[Item]]) -> None:
    """Moved, repriced, on another calendar, with other services, and deleted."""
    path = f"/orders/{api.placed_order()['id']}"
    assert summed() == [("2030-06-01", None, None, 1, Decimal(100))]
    api.client.patch(path, json={"datetime": "2030-06-02T12:00:00Z", "totalfee": 0.01})
    assert summed() == [("2030-06-02", None, None, 1, Decimal("0.01"))]
    api.client.patch(path, json={"calendar": "crew-1", "services": [{"id": 456}, {"id": 789}]})
    assert summed(by="calendar") == [("2030-06-02", None, "crew-1", 1, Decimal("0.01"))]
    assert [(service, fee) for _, service, _, _, fee in summed(by="service")] == [
        ("456", Decimal("0.01")),
        ("789", Decimal("0.00")),
    ]
    api.client.delete(path)
    assert summed() == []


def test_the_greatest_fees_are_summed_exactly(api: Api, summed: Callable[..., list[Item]]) -> None:
    """They are decimals throughout; binary floats would round."""
    for hour in range(0, 24, 3):
        api.post_text(
            "/orders",
            f'{{"datetime": "2030-06-01T{hour:02}:00:00Z", "totalfee": 9999999999.99, '
            '"services": [{"id": 123}]}',
        )
    assert summed() == [("2030-06-01", None, None, 8, Decimal("79999999999.92"))]
    assert '"totalfee":79999999999.92' in api.client.get("/fee-summaries").text


def test_the_earliest_and_the_latest_orders_are_in_the_summaries(
    api: Api, summed: Callable[..., list[Item]]
) -> None:
    """No default bound excludes them."""
    api.placed_order(at="1970-01-01T00:00:00Z")
    api.placed_order(at="2199-12-31T23:59:59.999Z")
    assert [period for period, *_ in summed()] == ["1970-01-01", "2199-12-31"]


def test_local_days_outside_the_utc_range_of_orders_are_in_the_summaries(
    api: Api, database: Database
) -> None:
    """In other time zones the earliest order may be on 1969-12-31 and the latest on 2200-01-01."""
    database.rows("INSERT INTO calendar (name) VALUES ('default')")
    database.rows(
        """
        INSERT INTO fee_summary (generation, day, calendar_id, service_id, share, orders)
        SELECT generation, day, 1, 0, 5, 1
        FROM fee_summary_state, unnest('{1969-12-31,2200-01-01}'::date[]) AS day
        """
    )
    assert [item["period"] for item in api.fee_summaries()["items"]] == ["1969-12-31", "2200-01-01"]


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize("by", ["none", "calendar", "service"])
@pytest.mark.parametrize("limit", ["1", "2", "3"])
def test_small_pages_of_fee_summaries_together_equal_one_large_page(
    api: Api, summed: Callable[..., list[Item]], by: str, limit: str
) -> None:
    """In the same order, each item once."""
    summed()
    whole = json.loads(api.client.get(f"/fee-summaries?by={by}&limit=100").text)
    assert whole["next"] is None
    assert api.every_item(f"/fee-summaries?by={by}&limit={limit}") == whole["items"]


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        *((f"{name}={text}", name) for name in ("from", "to") for text in ("", "2030", "2030-02-30", "now")),
        ("from=2030-06-01T00:00:00Z", "from"),
        ("from=20300601", "from"),
        ("from=1969-12-30", "from"),
        ("to=2300-01-01", "to"),
        ("from=2030-06-02&to=2030-06-01", "from"),
        ("group_by=hour", "group_by"),
        ("group_by=", "group_by"),
        ("group_by=DAY", "group_by"),
        ("by=order", "by"),
        ("by=", "by"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("period=day", "period"),
        ("by=service&by=service", "by"),
    ],
)
def test_a_malformed_query_for_fee_summaries_is_refused(api: Api, query: str, wrong: str) -> None:
    """400, and the parameter is named."""
    answer = api.client.get(f"/fee-summaries?{query}")
    assert answer.status_code == 400
    assert answer.json()["type"] == "/problems/malformed-request"
    assert [fault["parameter"] for fault in answer.json()["errors"]] == [wrong]


@pytest.mark.parametrize(
    "after",
    [
        *(("2030-06-01", 0), ("2030-06-01", 0, 0, 0), ("now", 0, 0), (None, 0, 0), ("2030-06-01", None, 0)),
        *(("2030-06-01", 10**30, 0), ("2030-06-01", 0, -1), ("2030-06-01", 1.5, 0), ("2030-06-01", 0, "x")),
    ],
    ids=str,
)
def test_a_forged_cursor_of_fee_summaries_is_refused(api: Api, after: tuple[Any, ...]) -> None:
    """It never reaches the database."""
    answer = api.client.get("/fee-summaries", params={"cursor": encode_cursor(after, [])})
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-cursor")


def test_a_cursor_of_fee_summaries_is_refused_with_another_query(
    api: Api, summed: Callable[..., list[Item]]
) -> None:
    """It would skip rows that were never shown."""
    for hour in ("00", "12"):
        api.placed_order(at=f"2030-06-01T{hour}:00:00Z", calendar=f"crew-{hour}")
    summed()
    cursor = api.client.get("/fee-summaries?by=calendar&limit=1").json()["next"].partition("cursor=")[2]
    assert api.client.get(f"/fee-summaries?by=calendar&cursor={cursor}").status_code == 200
    assert api.client.get(f"/fee-summaries?by=none&cursor={cursor}").status_code == 400
