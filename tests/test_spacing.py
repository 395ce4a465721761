"""The 3-hour rule: two orders of a calendar are at least three hours apart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.orders.spacing import CLEARANCE
from tests.builders import MILLISECOND, NOON, later, order_body, text_of, too_close

if TYPE_CHECKING:
    from tests.drivers import Api, Database

JUST_TOO_CLOSE = CLEARANCE - MILLISECOND
EARLIEST = "1970-01-01T00:00:00.000Z"
LATEST = "2199-12-31T23:59:59.999Z"


def moment(text: str) -> datetime:
    """Read a datetime of an answer."""
    return datetime.fromisoformat(text)


def replace(api: Api, order: dict[str, Any], **fields: Any) -> httpx.Response:
    """Try to replace an order."""
    return api.client.put(f"/orders/{order['id']}", json=order_body(**fields))


def refusal(answer: httpx.Response) -> dict[str, Any]:
    """Return the problem of a write that the rule refused."""
    assert answer.status_code == 409, answer.text
    problem: dict[str, Any] = answer.json()
    assert problem["type"] == "/problems/orders-too-close"
    return problem


def neighbours(database: Database, *times: datetime, calendar: str = "default") -> None:
    """Store orders at any datetimes, also closer than the rule allows, as an import may."""
    database.rows("INSERT INTO calendar (name) VALUES ($1) ON CONFLICT DO NOTHING", calendar)
    database.rows(
        """
        INSERT INTO orders
            (datetime, totalfee, service_ids, service_names, calendar_id, import_id)
        SELECT at, 1, '{123}', '{Inspection}',
            (SELECT id FROM calendar WHERE name = $2), 0
        FROM unnest($1::timestamptz[]) AS at
        """,
        list(times),
        calendar,
    )


# --- near and far enough -----------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, -1], ids=["later", "earlier"])
@pytest.mark.parametrize(
    "distance",
    [timedelta(0), MILLISECOND, timedelta(hours=1), timedelta(hours=2), JUST_TOO_CLOSE],
    ids=str,
)
def test_an_order_less_than_three_hours_away_is_refused(api: Api, side: int, distance: timedelta) -> None:
    """On both sides, down to the millisecond."""
    there = api.placed_order(at=NOON)
    problem = refusal(api.place_order(at=NOON + side * distance))
    assert problem["conflicts"] == [{"id": there["id"], "datetime": there["datetime"]}]
    assert len(api.every_order()) == 1


@pytest.mark.parametrize("side", [1, -1], ids=["later", "earlier"])
@pytest.mark.parametrize("distance", [CLEARANCE, CLEARANCE + MILLISECOND, timedelta(days=1)], ids=str)
def test_an_order_three_hours_away_or_more_is_accepted(api: Api, side: int, distance: timedelta) -> None:
    """Exactly three hours is far enough."""
    api.placed_order(at=NOON)
    api.placed_order(at=NOON + side * distance)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("2030-06-01T17:30:00+05:30", 409),
        ("2030-06-01T20:29:59.999+05:30", 409),
        ("2030-06-01T20:30:00+05:30", 201),
        ("2030-06-01T14:30:00+05:30", 201),
        ("2030-06-01T14:30:00.001+05:30", 409),
        ("2030-06-02T01:00:00+14:00", 409),
        ("2030-05-31T21:00:00-12:00", 201),
        ("2030-06-01T12:00:00-03:00", 201),
        ("2030-06-01T12:00:00-02:59", 409),
        ("2030-06-01T12:00:00-00:00", 409),
    ],
)
def test_the_distance_between_orders_does_not_depend_on_their_zones(api: Api, text: str, status: int) -> None:
    """12:00Z and 17:30+05:30 are the same time."""
    api.placed_order(at="2030-06-01T12:00:00Z")
    assert api.place_order(at=text).status_code == status


def test_one_order_fits_between_two_that_are_six_hours_apart(api: Api) -> None:
    """At the one datetime in the middle, and at no other."""
    for at in (NOON, later(hours=6)):
        api.placed_order(at=at)
    for nudge in (-MILLISECOND, MILLISECOND):
        refusal(api.place_order(at=later(hours=3) + nudge))
    api.placed_order(at=later(hours=3))


def test_a_calendar_holds_eight_orders_a_day(api: Api) -> None:
    """Three hours apart each; the ninth falls on the next day."""
    midnight = datetime(2030, 6, 1, tzinfo=UTC)
    for place in range(8):
        api.placed_order(at=midnight + place * CLEARANCE)
    assert refusal(api.place_order(at=midnight))["nearest"] == {
        "before": "2030-05-31T21:00:00.000Z",
        "after": "2030-06-02T00:00:00.000Z",
    }


def test_an_order_in_the_far_future_does_not_block_one_today(api: Api) -> None:
    """Nor does one in the far past."""
    api.placed_order(at="2199-12-31T23:59:59.999Z")
    api.placed_order(at="1970-01-01T00:00:00Z")
    api.placed_order(at=None)


def test_an_order_without_a_datetime_blocks_another_without_one(api: Api) -> None:
    """Leaving the datetime out does not bypass the rule."""
    api.placed_order(at=None)
    refusal(api.place_order(at=None))


def test_an_order_on_another_calendar_blocks_nothing(api: Api) -> None:
    """The rule holds per calendar, and names of calendars are case-sensitive."""
    for calendar in ("default", "crew-1", "crew-2", "Crew-3"):
        api.placed_order(calendar=calendar)
    assert [c["id"] for c in refusal(api.place_order(calendar="crew-2"))["conflicts"]] == ["1000000000000002"]


def test_a_deleted_order_blocks_nothing(api: Api) -> None:
    """Its place is free as soon as the deletion is answered."""
    there = api.placed_order()
    api.client.delete(f"/orders/{there['id']}")
    api.placed_order()


# --- the three hours in the database -----------------------------------------------------------------


def test_the_database_and_the_code_use_the_same_three_hours(database: Database) -> None:
    """Each defines them once: the default of a calendar's spacing, and ``CLEARANCE``."""
    neighbours(database, NOON)
    assert database.value("SELECT clear_until - datetime FROM orders") == CLEARANCE


@pytest.mark.parametrize("written", ["datetime", "datetime + interval '1 hour'", "'infinity'"])
def test_the_column_clear_until_cannot_be_written(database: Database, written: str) -> None:
    """A trigger derives it from the datetime and the calendar's spacing."""
    neighbours(database, NOON)
    with pytest.raises(asyncpg.RaiseError):
        database.rows(f"UPDATE orders SET clear_until = {written}")
    database.rows("UPDATE orders SET datetime = $1, version = 2", later(days=1))
    assert database.value("SELECT clear_until FROM orders") == later(days=1) + CLEARANCE


@pytest.mark.parametrize(
    "zone",
    [
        *("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"),
        *("UTC+3", "UTC0UTC1,M3.2.0,M11.1.0"),  # zones of one's own, which call their time UTC
    ],
)
def test_three_hours_are_equally_long_in_every_session_time_zone(database: Database, zone: str) -> None:
    """Also across a change of the clocks, where 3:00 to 6:00 local time is two hours or four."""
    database.rows("INSERT INTO calendar (id, name) SELECT n, 'c' || n FROM generate_series(1, 960) AS n")
    database.rows("SELECT set_config('TimeZone', $1, false)", zone)
    try:
        # The answers at the bounds, at every hour of weeks in which clocks change; a calendar for each hour.
        for distance, are_placed in (
            (timedelta(0), True),
            (timedelta(0), False),
            (JUST_TOO_CLOSE, False),
            (-JUST_TOO_CLOSE, False),
            (CLEARANCE, True),
            (-CLEARANCE, True),
        ):
            # Not as an interval: the driver sends minus three hours as "-1 day +21 hours", which is another
            # distance across a change of the clocks.
            placed = database.rows(
                """
                INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
                SELECT timestamptz '2030-03-01Z' + n * interval '1 hour' + $1 * interval '1 second',
                    1, '{123}', '{Inspection}', n
                FROM generate_series(1, 960) AS n ON CONFLICT DO NOTHING RETURNING id
                """,
                distance.total_seconds(),
            )
            assert len(placed) == (960 if are_placed else 0), distance
        seconds = "SELECT DISTINCT extract(epoch FROM clear_until) - extract(epoch FROM datetime) FROM orders"
        assert [list(row.values()) for row in database.rows(seconds)] == [[3 * 60 * 60]]
    finally:
        database.rows("RESET TIME ZONE")


# --- moving ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize(
    ("at", "status"),
    [
        (later(hours=9), 409),
        (later(hours=9) + JUST_TOO_CLOSE, 409),
        (later(hours=9) - JUST_TOO_CLOSE, 409),
        (later(hours=12), 200),
        (later(hours=6), 200),
        (later(hours=1), 200),
        (NOON, 200),
    ],
    ids=["onto", "just after", "just before", "exactly after", "exactly before", "near itself", "in place"],
)
def test_an_update_must_keep_the_distance_from_all_orders_but_itself(
    api: Api, method: str, at: datetime, status: int
) -> None:
    """An order moved by an hour does not conflict with its own old datetime."""
    mine = api.placed_order(at=NOON)
    other = api.placed_order(at=later(hours=9))
    body = order_body(at=at) if method == "PUT" else {"datetime": text_of(at)}
    answer = api.client.request(method, f"/orders/{mine['id']}", json=body)
    assert answer.status_code == status, answer.text
    if status == 409:
        assert refusal(answer)["conflicts"] == [{"id": other["id"], "datetime": other["datetime"]}]
        assert api.client.get(f"/orders/{mine['id']}").json() == mine
    else:
        assert moment(answer.json()["datetime"]) == at


def test_an_order_that_moved_leaves_its_old_datetime_free(api: Api) -> None:
    """The new datetime is booked."""
    mine = api.placed_order(at=NOON)
    assert replace(api, mine, at=later(days=1)).status_code == 200
    api.placed_order(at=NOON)
    refusal(api.place_order(at=later(days=1, hours=1)))


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_an_order_that_moves_to_another_calendar_must_keep_the_distance_on_that_calendar(
    api: Api, method: str
) -> None:
    """Its datetime stays, and another order has it on the other calendar."""
    mine = api.placed_order(calendar="crew-1")
    other = api.placed_order(calendar="crew-2")
    body = order_body(calendar="crew-2") if method == "PUT" else {"calendar": "crew-2"}
    answer = api.client.request(method, f"/orders/{mine['id']}", json=body)
    assert refusal(answer)["conflicts"] == [{"id": other["id"], "datetime": other["datetime"]}]
    body["calendar"] = "crew-3"
    assert api.client.request(method, f"/orders/{mine['id']}", json=body).json()["calendar"] == "crew-3"
    api.placed_order(calendar="crew-1")


def test_a_put_without_a_calendar_must_keep_the_distance_on_the_default_calendar(api: Api) -> None:
    """A full replacement: what is left out gets its default, not its old value."""
    mine = api.placed_order(calendar="crew-1")
    api.placed_order()
    refusal(replace(api, mine))
    assert replace(api, mine, at=later(hours=3)).json()["calendar"] == "default"


def test_only_orders_of_the_same_import_may_be_near_imported_orders(api: Api, database: Database) -> None:
    """The refusal names all of them, in their order."""
    neighbours(database, NOON, later(hours=1), NOON)
    for at in (NOON, later(hours=4) - MILLISECOND, NOON - JUST_TOO_CLOSE):
        refusal(api.place_order(at=at))
    conflicts = refusal(api.place_order(at=later(minutes=30)))["conflicts"]
    assert [moment(c["datetime"]) for c in conflicts] == [NOON, NOON, later(hours=1)]
    assert [int(c["id"]) - 10**15 for c in conflicts] == [0, 2, 1]
    api.placed_order(at=later(hours=4))
    api.placed_order(at=NOON - CLEARANCE)


# --- what a refusal contains -------------------------------------------------------------------------

DENSE = tuple(later(hours=hours) for hours in (0, 3, 6, 11.5, 15, 21, 24))
"""Gaps of 3, 3, 5.5, 3.5, 6 and 3 hours: only the one of six has a free datetime, exactly one."""


@pytest.mark.parametrize(
    ("orders", "wanted", "before", "after"),
    [
        ([NOON], NOON, later(hours=-3), later(hours=3)),
        ([NOON], later(hours=1), later(hours=-3), later(hours=3)),
        ([NOON], later(hours=-2), later(hours=-3), later(hours=3)),
        ([NOON, later(hours=5)], later(hours=2.5), later(hours=-3), later(hours=8)),
        ([NOON, later(hours=6)], later(hours=2), later(hours=-3), later(hours=3)),
        ([NOON, later(hours=6)], later(hours=5), later(hours=3), later(hours=9)),
        ([NOON, later(hours=6) - MILLISECOND], later(hours=2), later(hours=-3), later(hours=9) - MILLISECOND),
        (DENSE, later(hours=7), later(hours=-3), later(hours=18)),
        (DENSE, later(hours=19), later(hours=18), later(hours=27)),
        (DENSE, later(hours=24), later(hours=18), later(hours=27)),
        ([NOON, NOON, NOON], NOON, later(hours=-3), later(hours=3)),
    ],
    ids=str,
)
def test_a_refused_order_gets_the_nearest_free_datetimes_on_both_sides(  # noqa: PLR0917 (a table's columns)
    api: Api, database: Database, orders: list[datetime], wanted: datetime, before: datetime, after: datetime
) -> None:
    """Gaps that are too small are skipped; both can really be booked."""
    neighbours(database, *orders)
    nearest = refusal(api.place_order(at=wanted))["nearest"]
    assert (moment(nearest["before"]), moment(nearest["after"])) == (before, after)
    api.placed_order(at=nearest["before"])
    api.placed_order(at=nearest["after"])


def test_there_is_no_free_datetime_before_1970_or_after_2199(api: Api) -> None:
    """The side without any is null, the other one can be booked."""
    api.placed_order(at=EARLIEST)
    api.placed_order(at=LATEST)
    first = refusal(api.place_order(at="1970-01-01T02:59:59Z"))["nearest"]
    assert first == {"before": None, "after": "1970-01-01T03:00:00.000Z"}
    last = refusal(api.place_order(at="2199-12-31T21:00:00Z"))["nearest"]
    assert last == {"before": "2199-12-31T20:59:59.999Z", "after": None}
    api.placed_order(at=first["after"])
    api.placed_order(at=last["before"])


def test_the_first_and_the_last_allowed_datetime_can_be_the_nearest(api: Api) -> None:
    """The limits are included."""
    api.placed_order(at="1970-01-01T03:00:00Z")
    api.placed_order(at="2199-12-31T20:59:59.999Z")
    assert refusal(api.place_order(at="1970-01-01T01:00:00Z"))["nearest"]["before"] == EARLIEST
    assert refusal(api.place_order(at=LATEST.replace("23", "22")))["nearest"]["after"] == LATEST
    api.placed_order(at=EARLIEST)
    api.placed_order(at=LATEST)


def test_the_nearest_datetimes_of_an_update_ignore_the_order_itself(api: Api) -> None:
    """They may be its present datetime, or near it."""
    mine = api.placed_order(at=NOON)
    api.placed_order(at=later(hours=4))
    problem = refusal(replace(api, mine, at=later(hours=2)))
    assert moment(problem["nearest"]["before"]) == later(hours=1)
    assert moment(problem["nearest"]["after"]) == later(hours=7)
    assert replace(api, mine, at=problem["nearest"]["before"]).status_code == 200


def test_the_nearest_datetimes_of_a_move_are_free_on_the_target_calendar(api: Api) -> None:
    """Orders on the calendar that it leaves do not matter."""
    mine = api.placed_order(at=NOON, calendar="crew-1")
    api.placed_order(at=later(hours=3), calendar="crew-1")
    api.placed_order(at=NOON, calendar="crew-2")
    nearest = refusal(replace(api, mine, at=NOON, calendar="crew-2"))["nearest"]
    assert moment(nearest["after"]) == later(hours=3)
    assert replace(api, mine, at=nearest["after"], calendar="crew-2").status_code == 200


def test_the_problem_of_a_refused_order_says_what_to_do(api: Api) -> None:
    """RFC 9457, with the id of the request."""
    there = api.placed_order(at=NOON)
    answer = api.place_order(at=later(hours=1))
    problem = refusal(answer)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == 409
    assert problem["instance"] == "/orders"
    assert problem["request_id"] == answer.headers["x-request-id"]
    for word in (there["id"], "2030-06-01T12:00:00.000Z", "2030-06-01T09:00:00.000Z", "default"):
        assert word in problem["detail"]


minutes = st.integers(-600, 600)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(orders=st.lists(minutes, max_size=12), wanted=minutes)
def test_an_order_on_a_random_calendar_is_stored_or_gets_the_nearest_bookable_datetimes(
    api: Api, database: Database, orders: list[int], wanted: int
) -> None:
    """The answer agrees with a search minute by minute: nothing nearer is free on either side."""
    database.clean()
    database.add_services()
    datetimes = [later(minutes=m) for m in orders]
    neighbours(database, *datetimes)

    def free(minute: int) -> bool:
        return not any(too_close(later(minutes=minute), at) for at in datetimes)

    answer = api.place_order(at=later(minutes=wanted))
    assert answer.status_code == (201 if free(wanted) else 409)
    if answer.status_code == 409:
        problem = answer.json()
        assert {moment(c["datetime"]) for c in problem["conflicts"]} == {
            at for at in datetimes if too_close(later(minutes=wanted), at)
        }
        before = next(m for m in range(wanted, -10_000, -1) if free(m))
        after = next(m for m in range(wanted, 10_000) if free(m))
        nearest = problem["nearest"]
        assert (moment(nearest["before"]), moment(nearest["after"])) == (
            later(minutes=before),
            later(minutes=after),
        )
        api.placed_order(at=nearest["before"])
        api.placed_order(at=nearest["after"])
