"""GET /calendars/{calendar}/availability, and of several calendars: next, except_order, spacing."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from api.calendars import availability
from tests.builders import MILLISECOND, NOON, later, text_of
from tests.random_rounds import seeds

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.drivers import Api, Database


def fill(
    database: Database, calendar: str, spacing: timedelta, at: list[datetime], status: str = "booked"
) -> None:
    """Store orders of one import at some datetimes of a calendar with a spacing."""
    database.rows(
        "INSERT INTO calendar (name, spacing_seconds) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        calendar,
        int(spacing.total_seconds()),
    )
    database.rows(
        """
        INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id, import_id, status)
        SELECT at, 1, '{123}', '{Inspection}', (SELECT id FROM calendar WHERE name = $1), 1, $3
        FROM unnest($2::timestamptz[]) AS at
        """,
        calendar,
        at,
        status,
    )


def read(api: Api, calendar: str = "default", **query: object) -> dict[str, Any]:
    """Read a calendar's availability."""
    answer = api.client.get(
        f"/calendars/{calendar}/availability", params={k: str(v) for k, v in query.items()}
    )
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def next_free(
    api: Api, number: int, begin: datetime = NOON, calendar: str = "default", **query: object
) -> list[str]:
    """Return the next free datetimes."""
    found: list[str] = read(api, calendar, **{"from": text_of(begin)}, next=number, **query)["next_free"]
    return found


def utc(*times: datetime) -> list[str]:
    """Write times as answers do."""
    return [at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}Z" for at in times]


@pytest.mark.parametrize("seed", seeds(0, 4))
def test_the_next_free_datetimes_can_all_be_booked_and_none_before_them(
    api: Api, database: Database, seed: int
) -> None:
    """The earliest are those that a caller gets who books each time at the nearest free datetime."""
    rng = random.Random(seed)
    spacing = rng.choice((timedelta(minutes=1), timedelta(minutes=45), timedelta(hours=3), timedelta(days=7)))
    taken = [NOON + spacing * rng.uniform(-2, 9) for _ in range(rng.randrange(1, 8))]
    taken = [at.replace(microsecond=at.microsecond // 1000 * 1000) for at in taken]
    fill(database, "default", spacing, taken)
    fill(database, "default", spacing, [NOON, later(minutes=1)], "cancelled")
    expected: list[datetime] = []
    candidates = sorted(NOON + offset for offset in {timedelta(0), *(at + spacing - NOON for at in taken)})
    while len(expected) < 6:
        free = [
            at
            for at in [*candidates, *(at + spacing for at in expected)]
            if at >= NOON and all(abs(at - other) >= spacing for other in (*taken, *expected))
        ]
        expected.append(min(free))
    assert next_free(api, 6) == utc(*expected), seed
    for at in expected:
        api.placed_order(at=at)
    assert next_free(api, 6)[0] > utc(expected[-1])[0]


def test_a_list_of_next_datetimes_ends_with_the_window_or_shows_the_window_up_to_the_last(api: Api) -> None:
    """With an end, no later datetimes; without one, the intervals up to the last datetime."""
    api.placed_order(at=later(hours=4))
    body = read(api, **{"from": text_of(NOON), "to": text_of(later(hours=9))}, next=5)
    assert body["next_free"] == utc(NOON, later(hours=7))
    assert [one["to"] for one in body["items"]] == utc(later(hours=1), later(hours=9))
    body = read(api, **{"from": text_of(NOON)}, next=3)
    assert body["next_free"] == utc(NOON, later(hours=7), later(hours=10))
    assert body["to"] == utc(later(hours=10))[0]
    assert [one["to"] for one in body["items"]] == utc(later(hours=1), later(hours=10))
    assert read(api, **{"from": text_of(NOON)})["to"] == utc(later(days=32))[0]
    last = datetime.fromisoformat("2199-12-31T20:00:00Z")
    assert read(api, **{"from": text_of(last)})["to"] == "2199-12-31T23:59:59.999Z"
    body = read(api, **{"from": text_of(last)}, next=9)
    assert body["next_free"] == utc(last, last + timedelta(hours=3))
    assert body["to"] == "2199-12-31T23:59:59.999Z"


def test_ones_own_order_is_in_nobodys_way(api: Api) -> None:
    """To move it, its own place counts as free; ids that no order has change nothing."""
    own = api.placed_order(at=NOON)
    other = api.placed_order(at=later(hours=6))
    assert next_free(api, 1) == utc(later(hours=3))
    assert next_free(api, 3, except_order=own["id"]) == utc(NOON, later(hours=3), later(hours=9))
    assert next_free(api, 1, except_order=other["id"]) == utc(later(hours=3))
    assert next_free(api, 1, except_order=999) == utc(later(hours=3))
    moved = api.client.patch(f"/orders/{own['id']}", json={"datetime": text_of(later(hours=1))})
    assert moved.status_code == 200


def test_availability_speaks_of_each_calendars_own_spacing(api: Api, database: Database) -> None:
    """As an ISO 8601 duration; a calendar that nobody used has the usual one."""
    fill(database, "quick", timedelta(minutes=1), [NOON])
    fill(database, "slow", timedelta(days=7), [NOON])
    answer = api.client.get(
        "/availability",
        params=[("calendar", "slow"), ("calendar", "quick"), ("calendar", "nobody"), ("next", "2"),
                ("from", text_of(NOON + MILLISECOND))],
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["next"], body["next_cursor"]) == (None, None)
    shown = {one["calendar"]: (one["spacing"], one["next_free"]) for one in body["items"]}
    assert list(shown) == ["slow", "quick", "nobody"]
    assert shown == {
        "slow": ("P7D", utc(later(days=7), later(days=14))),
        "quick": ("PT1M", utc(later(minutes=1), later(minutes=2))),
        "nobody": ("PT3H", utc(NOON + MILLISECOND, NOON + MILLISECOND + timedelta(hours=3))),
    }


def test_more_intervals_than_an_answer_has_follow_under_next(api: Api, database: Database) -> None:
    """257 of each calendar; the address of the rest is that of the calendar alone."""
    fill(database, "quick", timedelta(minutes=1), [later(minutes=2 * n) for n in range(2_500)])
    window = {"from": text_of(NOON), "to": text_of(later(days=4))}
    body = read(api, "quick", **window)
    assert len(body["items"]) == 257
    whole = api.every_item(f"/calendars/quick/availability?from={window['from']}&to={window['to']}")
    assert len(whole) == 2_500
    assert [one["from"] for one in whole] == sorted(one["from"] for one in whole)
    assert len({one["from"] for one in whole}) == 2_500
    (several,) = api.client.get("/availability", params={"calendar": "quick", **window}).json()["items"]
    assert several["items"] == body["items"]
    assert body["items"] + api.every_item(several["next"]) == whole
    again = {**window, "next": 2, "cursor": body["next_cursor"]}
    answer = api.client.get("/calendars/quick/availability", params=again)
    assert answer.json()["type"] == "/problems/invalid-cursor"


@pytest.mark.parametrize("most", [1, 2, 3, 7, 500])
def test_free_times_are_complete_however_few_orders_a_statement_reads(
    database: Database,
    run: Callable[[Coroutine[Any, Any, Any]], Any],
    most: int,
) -> None:
    """Also where an import has several orders at one time."""
    rng = random.Random(most)
    taken = [later(minutes=rng.randrange(1_500)) for _ in range(40)]
    taken += [later(hours=10)] * 10 + [later(hours=10, minutes=1)] * 3
    spacing = timedelta(minutes=20)
    fill(database, "default", spacing, taken)

    def intervals(at_once: int) -> list[tuple[datetime, datetime]]:
        window = availability.Window(NOON, later(hours=26))
        (free,) = run(availability.find_free_time(["default"], window, 1_000, at_once))
        return list(free.intervals)

    expected = intervals(10_000)
    assert len(expected) > 5
    assert intervals(most) == expected


@pytest.mark.parametrize(
    ("path", "parameter", "detail"),
    [
        ("/calendars/a/availability?next=3", "from", "is required"),
        ("/calendars/a/availability?to=2030-06-01T12:00:00Z", "from", "is required"),
        ("/calendars/a/availability?from=2030-06-01T12:00:00Z&next=0", "next", "must be a whole number"),
        ("/calendars/a/availability?from=2030-06-01T12:00:00Z&next=101", "next", "must be a whole number"),
        (
            "/calendars/a/availability?from=2030-06-01T12:00:00Z&next=1&except_order=x",
            "except_order",
            "must be an id",
        ),
        ("/availability?from=2030-06-01T12:00:00Z&next=1", "calendar", "is required"),
        ("/availability?from=2030-06-01T12:00:00Z&next=1&calendar=a&calendar=a", "calendar", "has the same"),
        ("/availability?from=2030-06-01T12:00:00Z&next=1&calendar=%20", "calendar", "must be 1 to 64"),
    ],
)
def test_an_availability_that_can_not_be_read_is_refused(
    api: Api, path: str, parameter: str, detail: str
) -> None:
    """Each fault names its parameter."""
    answer = api.client.get(path)
    assert answer.status_code == 400, answer.text
    (fault,) = answer.json()["errors"]
    assert fault["parameter"] == parameter
    assert fault["detail"].startswith(detail)
