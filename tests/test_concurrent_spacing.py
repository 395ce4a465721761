"""Spacings change and calendars are deleted while many orders are written: no deadlock, no 5xx."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import later, order_body, text_of
from tests.drivers import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from tests.drivers import Api

SPACINGS = ("PT1M", "PT1M", "PT10M", "PT10M", "PT1H", "PT3H", "PT12H", "P1D", "P2D", "P7D")
CALENDARS = ("default", "crew-1", "crew-2")

# Neighbours are enough where no two orders were imported together.
NEAR_NEIGHBOURS = """
SELECT id, earlier_id FROM (
    SELECT o.id, o.datetime, lag(o.id) OVER earlier AS earlier_id, c.spacing_seconds,
        lag(o.datetime) OVER earlier AS earlier
    FROM orders AS o JOIN calendar AS c ON c.id = o.calendar_id
    WHERE o.status = 'booked'
    WINDOW earlier AS (PARTITION BY o.calendar_id ORDER BY o.datetime)
) AS neighbour
WHERE datetime - earlier < make_interval(secs => spacing_seconds)
"""
WRONG_ENDS = """
SELECT o.id FROM orders AS o LEFT JOIN calendar AS c ON c.id = o.calendar_id AND c.deleted_at IS NULL
WHERE o.clear_until IS DISTINCT FROM CASE o.status
    WHEN 'booked' THEN o.datetime + make_interval(secs => c.spacing_seconds) ELSE o.datetime END
   OR c.id IS NULL
"""


@pytest.fixture
def rng() -> random.Random:
    """A random generator; its seed is printed when a test fails, and ``TEST_SEED`` sets it."""
    seed = int(os.environ.get("TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
    print(f"TEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(autouse=True)
def _check_consistency(database: Database) -> Iterator[None]:
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = database.value(deadlocks)
    yield
    assert database.rows(NEAR_NEIGHBOURS) == []
    assert database.rows(WRONG_ENDS) == []
    assert database.too_close_pairs() == []
    assert database.value(deadlocks) == before


def _in_threads(calls: list[Callable[[], Counter[Any]]]) -> Counter[Any]:
    with ThreadPoolExecutor(len(calls)) as threads:
        return sum((pending.result() for pending in [threads.submit(call) for call in calls]), Counter())


def _write(api: Api, own: random.Random, known: list[str]) -> httpx.Response:
    """Place, move, change, cancel, reinstate or delete orders; most find few others in their way."""
    at = later(hours=own.randrange(0, 24 * 60), minutes=own.choice((0, 0, 1, 10)))
    calendar = own.choice(CALENDARS)
    path = f"/orders/{own.choice(known[-60:])}"
    match own.randrange(14):
        case 0 | 1 | 2:
            return api.place_order(at=at, calendar=calendar)
        case 3:
            key = {"Idempotency-Key": f"key-{own.randrange(10**9)}"}
            return api.client.post("/orders", json=order_body(at=at, calendar=calendar), headers=key)
        case 4:
            orders = [order_body(at=at, calendar=own.choice(CALENDARS)) for _ in range(2)]
            return api.client.post("/orders/batch", json={"orders": orders})
        case 5 | 6:
            return api.client.patch(path, json={"datetime": text_of(at), "calendar": calendar})
        case 7:
            return api.client.patch(path, json={"totalfee": own.randrange(100)})
        case 8:
            return api.client.post(f"{path}/cancel", json={"reason": "asked for"})
        case 9:
            return api.client.post(f"{path}/reinstate")
        case 10 | 11:
            one, other = own.sample(known[-60:], 2)
            moves = [{"id": one, "datetime": text_of(at)}, {"id": other, "calendar": calendar}]
            return api.client.patch("/orders/batch", json={"orders": moves})
        case 12:
            return api.client.put(path, json=order_body(at=at, calendar=calendar))
        case _:
            return api.client.delete(path)


def test_the_rule_holds_while_spacings_change_among_creates_moves_and_deletions(
    api: Api, database: Database, rng: random.Random
) -> None:
    """After each change that was accepted, all neighbours keep the new spacing."""
    known = [
        api.placed_order(at=later(days=8 * day), calendar=calendar)["id"]
        for calendar in CALENDARS
        for day in range(8)
    ]
    is_over = threading.Event()

    def writer(seed: int) -> Counter[Any]:
        own, counts = random.Random(seed), Counter[Any]()
        while not is_over.is_set():
            answer = _write(api, own, known)
            counts["written", answer.status_code] += 1
            if answer.status_code == 201 and "orders" not in answer.json():
                known.append(answer.json()["id"])
        return counts

    def changer(seed: int) -> Counter[Any]:
        own, counts = random.Random(seed), Counter[Any]()
        with Database(database.url) as look:
            for n in range(20):
                calendar = own.choice(CALENDARS)
                spacing = own.choice(SPACINGS)
                if n % 5 == 4:  # make room for a longer one, which few orders keep otherwise
                    for order in api.every_item(f"/orders?calendar={calendar}&limit=100")[1:]:
                        api.client.delete(f"/orders/{order['id']}")
                send = own.choice((api.client.put, api.client.patch))
                answer = send(f"/calendars/{calendar}", json={"spacing": spacing})
                counts["changed", answer.status_code] += 1
                assert look.rows(NEAR_NEIGHBOURS) == [], answer.text
                assert look.rows(WRONG_ENDS) == [], answer.text
        return counts

    def changers() -> Counter[Any]:
        try:
            return _in_threads([lambda seed=seed: changer(seed) for seed in seeds[:3]])  # type: ignore[misc]
        finally:
            is_over.set()

    seeds = [rng.randrange(10**9) for _ in range(15)]
    counts = _in_threads([changers, *[lambda seed=seed: writer(seed) for seed in seeds[3:]]])
    print(counts)
    statuses = {status for kind, status in counts if kind == "written"}
    assert statuses <= {200, 201, 204, 404, 409}, counts
    assert {status for kind, status in counts if kind == "changed"} == {200, 409}, counts
    assert counts["changed", 200] > 10, counts


class _Caller:
    """Uses calendars and deletes them, and has at most one order at a time."""

    NAMES = ("a", "b", "C", "c")

    def __init__(self, api: Api, seed: int) -> None:
        self.api, self.own = api, random.Random(seed)
        self.order: str | None = None
        self.counts = Counter[Any]()

    def run(self) -> Counter[Any]:
        """Make some requests."""
        for _ in range(300):
            name = self.own.choice(self.NAMES)
            kind, answer = self._write_calendar(name) if self.own.random() < 0.5 else self._write_order(name)
            self.counts[kind, answer.status_code] += 1
        return self.counts

    def _write_calendar(self, name: str) -> tuple[str, httpx.Response]:
        if self.own.random() < 0.7:
            return "calendar deleted", self.api.client.delete(f"/calendars/{name}")
        body = {"spacing": self.own.choice(("PT1M", "PT1H", "PT3H")), "title": name}
        return "calendar put", self.api.client.put(f"/calendars/{name}", json=body)

    def _write_order(self, name: str) -> tuple[str, httpx.Response]:
        body = order_body(at=later(hours=4 * self.own.randrange(10_000)), calendar=name)
        if self.order is not None and self.own.random() < 0.6:
            path, self.order = self.order, None
            return "deleted", self.api.client.delete(path)
        if self.order is not None:
            move = {"calendar": name, "datetime": body["datetime"]}
            return "moved", self.api.client.patch(self.order, json=move)
        if self.own.random() < 0.3:
            answer = self.api.client.post("/orders/batch", json={"orders": [body]})
            orders = answer.json().get("orders", [])
        else:
            answer = self.api.client.post("/orders", json=body)
            orders = [answer.json()] if answer.status_code == 201 else []
        if orders:
            self.order = f"/orders/{orders[0]['id']}"
        return "placed", answer


def test_calendars_are_deleted_and_used_at_the_same_time(api: Api, rng: random.Random) -> None:
    """Each order is on a calendar that there is. A deletion finds none, or is refused."""
    callers = [_Caller(api, rng.randrange(10**9)) for _ in range(8)]
    counts = _in_threads([caller.run for caller in callers])
    print(counts)
    allowed = {
        "placed": {201, 409, 422},
        "moved": {200, 409, 422},
        "deleted": {204},
        "calendar deleted": {204, 404, 409},
        "calendar put": {200, 201, 409, 422},
    }
    assert [key for key in counts if key[1] not in allowed[key[0]]] == [], counts
    for kind in (("placed", 201), ("moved", 200), ("calendar deleted", 204), ("calendar put", 200)):
        assert counts[kind] > 1, counts
    used = {order["calendar"] for order in api.every_order()}
    assert used <= {calendar["name"] for calendar in api.every_item("/calendars")}


def _placing(api: Api, _order: str) -> httpx.Response:
    return api.place_order(calendar="crew", at=later(hours=9))


def _placing_with_a_key(api: Api, _order: str) -> httpx.Response:
    body = order_body(calendar="crew", at=later(hours=9))
    return api.client.post("/orders", json=body, headers={"Idempotency-Key": "key"})


def _placing_by_id(api: Api, _order: str) -> httpx.Response:
    return api.place_order(calendar="crew", at=later(hours=9), id=7)


def _placing_many(api: Api, _order: str) -> httpx.Response:
    return api.client.post("/orders/batch", json={"orders": [order_body(calendar="crew")]})


def _moving(api: Api, order: str) -> httpx.Response:
    return api.client.patch(f"/orders/{order}", json={"calendar": "crew"})


def _replacing(api: Api, order: str) -> httpx.Response:
    return api.client.put(f"/orders/{order}", json=order_body(calendar="crew"))


def _putting(api: Api, _order: str) -> httpx.Response:
    return api.client.put("/calendars/crew", json={"spacing": "PT1H"})


USES = (_placing, _placing_with_a_key, _placing_by_id, _placing_many, _moving, _replacing, _putting)
DELETE_CALENDAR = "UPDATE calendar SET deleted_at = now() WHERE name = 'crew'"


@pytest.mark.parametrize("use", USES)
def test_what_uses_a_calendar_while_it_is_deleted_makes_it_anew(
    api: Api, database: Database, use: Callable[[Api, str], httpx.Response]
) -> None:
    """It waits for the deletion, and never fails for it."""
    moving = api.placed_order(calendar="other")["id"]
    assert api.client.put("/calendars/crew", json={}).status_code == 201
    with Database(database.url) as other, ThreadPoolExecutor(1) as thread:
        other.run_script(f"BEGIN; {DELETE_CALENDAR}")
        using = thread.submit(use, api, moving)
        time.sleep(0.2)
        other.run_script("COMMIT")
        assert using.result().status_code in {200, 201}, using.result().text
    assert api.client.get("/calendars/crew").status_code == 200


@pytest.mark.parametrize("use", USES)
def test_a_deleted_calendar_is_not_made_anew_while_another_one_gets_its_name_in_another_case(
    api: Api, database: Database, use: Callable[[Api, str], httpx.Response]
) -> None:
    """The answer is the usual one."""
    moving = api.placed_order(calendar="other")["id"]
    api.client.put("/calendars/crew", json={})
    assert api.client.delete("/calendars/crew").status_code == 204
    with Database(database.url) as other, ThreadPoolExecutor(1) as thread:
        other.run_script("BEGIN; INSERT INTO calendar (id, name) VALUES (5, 'CREW')")
        using = thread.submit(use, api, moving)
        time.sleep(0.2)
        other.run_script("COMMIT")
        assert using.result().status_code == 422
        assert "there is a calendar CREW" in using.result().text


def test_a_calendar_is_not_deleted_while_an_order_is_placed_on_it(api: Api, database: Database) -> None:
    """The deletion waits, and counts that order."""
    api.client.put("/calendars/crew", json={})
    with Database(database.url) as other, ThreadPoolExecutor(1) as thread:
        other.run_script(
            """
            BEGIN; INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
            SELECT '2030-06-01Z', 1, '{123}', '{Inspection}', id FROM calendar
            """
        )
        deleting = thread.submit(api.client.delete, "/calendars/crew")
        time.sleep(0.2)
        other.run_script("COMMIT")
        assert deleting.result().json()["orders"] == 1


def test_a_spacing_waits_for_orders_that_are_being_placed_and_counts_them(
    api: Api, database: Database
) -> None:
    """One that is placed right now may be too near for it."""
    order = api.placed_order()
    with Database(database.url) as other, ThreadPoolExecutor(1) as thread:
        other.run_script(
            """
            BEGIN; INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
            SELECT '2030-06-01T16:00Z', 1, '{123}', '{Inspection}', id FROM calendar
            """
        )
        changing = thread.submit(api.client.patch, "/calendars/default", json={"spacing": "PT5H"})
        time.sleep(0.2)
        other.run_script("COMMIT")
        (pair,) = changing.result().json()["pairs"]
    assert pair["earlier"]["id"] == order["id"]


def test_a_spacing_starts_over_if_a_new_order_is_locked_by_one_that_waits_for_the_calendar(
    api: Api, database: Database
) -> None:
    """Waiting for that order would be a deadlock: the other one waits for the calendar's lock."""
    api.placed_order()
    calendar = database.value("SELECT id FROM calendar")
    with Database(database.url) as placing, Database(database.url) as moving, ThreadPoolExecutor(1) as thread:
        # What is placed meanwhile is found only after the calendar is locked.
        placing.run_script(
            f"""
            BEGIN; INSERT INTO orders (id, datetime, totalfee, service_ids, service_names, calendar_id)
            VALUES (77, '2030-06-09Z', 1, '{{123}}', '{{Inspection}}', {calendar})
            """
        )
        changing = thread.submit(api.client.patch, "/calendars/default", json={"spacing": "P1D"})
        time.sleep(0.2)
        placing.run_script("COMMIT")
        moving.run_script("BEGIN; SELECT FROM orders WHERE id = 77 FOR UPDATE")
        moving.run_script(f"SELECT pg_advisory_xact_lock(7316002, {calendar})")
        moving.run_script("UPDATE orders SET datetime = '2030-07-01Z', version = 2 WHERE id = 77; COMMIT")
        assert changing.result().json()["spacing"] == "P1D"
