"""GET /calendars and /calendars/{calendar}/availability: what is free, compared with what can be booked."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import NOON, later, order_body, text_of

if TYPE_CHECKING:
    from tests.drivers import Api, Database

MILLISECOND = timedelta(milliseconds=1)
CLEARANCE = timedelta(hours=3)

Interval = tuple[datetime, datetime]


def free(api: Api, begin: datetime, end: datetime, calendar: str = "default") -> list[Interval]:
    """Return the free intervals."""
    answer = api.client.get(
        f"/calendars/{calendar}/availability", params={"from": text_of(begin), "to": text_of(end)}
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["calendar"], body["next"]) == (calendar, None)
    assert [datetime.fromisoformat(body[name]) for name in ("from", "to")] == [begin, end]
    return [(datetime.fromisoformat(one["from"]), datetime.fromisoformat(one["to"])) for one in body["items"]]


def bookable(api: Api, at: datetime) -> bool:
    """Whether an order could be placed, by a dry run."""
    answer = api.client.post("/orders?dry_run=true", json=order_body(at=at))
    assert answer.status_code in (200, 409), answer.text
    return answer.status_code == 200


def by_brute_force(datetimes: list[datetime], begin: datetime, end: datetime) -> list[Interval]:
    """Try every instant at which anything may change, and its neighbours."""
    edges = {begin, end, *(at + side * CLEARANCE for at in datetimes for side in (-1, 1))}
    instants = sorted(
        at + step * MILLISECOND
        for at in edges
        for step in (-1, 0, 1)
        if begin <= at + step * MILLISECOND <= end
    )
    intervals: list[Interval] = []
    was_free = False
    for at in dict.fromkeys(instants):
        is_free = all(abs(at - other) >= CLEARANCE for other in datetimes)
        if is_free and was_free:
            intervals[-1] = (intervals[-1][0], at)
        elif is_free:
            intervals.append((at, at))
        was_free = is_free
    return intervals


@pytest.mark.parametrize("seed", range(6))
def test_exactly_the_intervals_listed_as_free_can_be_booked(api: Api, database: Database, seed: int) -> None:
    """To the millisecond at both ends of every interval, for random calendars and windows."""
    rng = random.Random(seed)
    database.rows("INSERT INTO calendar (name) VALUES ('default')")
    begin = later(minutes=rng.randrange(600))
    end = begin + timedelta(hours=rng.choice((1, 5, 40, 100)), milliseconds=rng.randrange(1_000))
    at = begin - timedelta(hours=7)
    times: list[datetime] = []
    while at < end + timedelta(hours=7):
        times.append(at)
        gap = rng.choice((3, 3, 4, 6, 6, 9)) * 3600 * 10**6 + rng.choice((0, 0, 1, 10**6))
        at += timedelta(milliseconds=gap)
    database.rows(
        """
        INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
        SELECT at, 1, '{123}', '{Inspection}', 1 FROM unnest($1::timestamptz[]) AS at
        """,
        times,
    )
    intervals = free(api, begin, end)
    assert intervals == by_brute_force(times, begin, end)
    for first, last in intervals:
        assert bookable(api, first)
        assert bookable(api, last)
        assert begin == first or not bookable(api, first - MILLISECOND)
        assert end == last or not bookable(api, last + MILLISECOND)


def test_both_ends_of_a_free_interval_can_be_booked(api: Api) -> None:
    """One order after the other, until nothing of the interval is left."""
    api.placed_order(at=NOON)
    api.placed_order(at=later(hours=12))
    assert free(api, NOON, later(hours=12)) == [(later(hours=3), later(hours=9))]
    api.placed_order(at=later(hours=3))
    assert free(api, NOON, later(hours=12)) == [(later(hours=6), later(hours=9))]
    api.placed_order(at=later(hours=9))
    assert free(api, NOON, later(hours=12)) == [(later(hours=6), later(hours=6))]
    api.placed_order(at=later(hours=6))
    assert free(api, NOON, later(hours=12)) == []


def test_orders_up_to_three_hours_outside_a_window_shorten_its_free_intervals(api: Api) -> None:
    """Orders further away and orders on other calendars do not."""
    api.placed_order(at=later(hours=-1))
    api.placed_order(at=later(hours=11))
    api.placed_order(at=later(hours=5), calendar="crew-1")
    assert free(api, NOON, later(hours=10)) == [(later(hours=2), later(hours=8))]
    assert free(api, later(hours=2), later(hours=8)) == [(later(hours=2), later(hours=8))]


def test_a_calendar_that_was_never_used_is_free(api: Api, database: Database) -> None:
    """Reading its availability does not create it."""
    assert free(api, NOON, later(days=1), "nobody") == [(NOON, later(days=1))]
    assert database.counts()["calendar"] == 0


def test_a_window_of_availability_may_be_one_instant_or_thirty_two_days(api: Api) -> None:
    """The first and the last instant of the window are included."""
    api.placed_order(at=NOON)
    assert free(api, later(hours=3), later(hours=3)) == [(later(hours=3), later(hours=3))]
    assert free(api, later(hours=2), later(hours=2)) == []
    assert free(api, NOON, later(days=32)) == [(later(hours=3), later(days=32))]


def test_a_full_window_of_thirty_two_days_has_no_more_free_intervals_than_the_contract_allows(
    api: Api, database: Database
) -> None:
    """At most 257: one free instant between any two orders."""
    database.rows("INSERT INTO calendar (name) VALUES ('default')")
    database.rows(
        """
        INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
        SELECT at, 1, '{123}', '{Inspection}', 1
        FROM (SELECT $1::timestamptz + n * interval '6 hours' AS at FROM generate_series(-1, 200) AS n) AS t
        """,
        NOON,
    )
    assert len(free(api, NOON, later(days=32))) == 128


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z"),
        ("2199-12-31T00:00:00Z", "2199-12-31T23:59:59.999Z"),
    ],
)
def test_availability_can_be_read_for_the_first_and_the_last_possible_day(
    api: Api, begin: str, end: str
) -> None:
    """Three hours beyond them lies outside the datetimes that orders may have."""
    first, last = datetime.fromisoformat(begin), datetime.fromisoformat(end)
    assert free(api, first, last) == [(first, last)]
    api.placed_order(at=first)
    api.placed_order(at=last)
    assert free(api, first, last) == [(first + CLEARANCE, last - CLEARANCE)]


def test_calendars_are_listed_by_name_page_by_page(api: Api) -> None:
    """Each appears once, with the time of its first use."""
    names = ["A", "Crew-3", "Z", "b", "crew-1", "crew-10", "crew-2", "crew.2", "default", "y"]
    for name in reversed(names):
        api.placed_order(calendar=name)
    listed: list[dict[str, Any]] = api.every_item("/calendars?limit=2")
    assert sorted(calendar["name"] for calendar in listed) == sorted(names)
    assert listed == api.every_item("/calendars?limit=100")
    assert set(listed[0]) == {"name", "title", "spacing", "created_at"}


def test_the_window_of_an_availability_is_to_the_millisecond(api: Api) -> None:
    """An order may start at its ends, so they are datetimes of orders; filters of lists only compare."""
    window = {"from": "2030-06-01T12:00:00.000500Z", "to": "2030-06-01T12:00:00.111000000Z"}
    answer = api.client.get("/calendars/default/availability", params=window)
    assert answer.status_code == 400
    assert answer.json()["errors"] == [
        {
            "parameter": "from",
            "detail": "must be to the millisecond, as in 2030-06-01T12:00:00.000Z; "
            "further digits must be zeros",
        }
    ]
    api.placed_order(at="2030-06-01T12:00:00.001Z")
    assert len(api.client.get("/orders", params=window).json()["items"]) == 1
    window["from"] = "2030-06-01T12:00:00.001000001Z"
    refused = api.client.get("/orders", params=window)
    assert refused.json()["errors"][0]["detail"] == "must be to the microsecond; further digits must be zeros"
