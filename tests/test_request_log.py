"""One line in the log for each request: which it was, who sent it, where to, and how long it took."""

from __future__ import annotations

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import later, order_body
from tests.drivers import wait_until
from tests.processes import NO_REDIS
from tests.serving import serving
from tests.steps import place

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from tests.drivers import Api, Database
    from tests.processes import ServiceProcess

KEY = "a-key-that-no-line-may-have"
IN_JSON = {"OMS_LOG_FORMAT": "json"}


@pytest.fixture
def logged(postgres_url: str, database: Database) -> Iterator[tuple[Api, ServiceProcess]]:
    """A caller of an API that logs in JSON and asks for keys, with one key, and the API's process."""
    database.add_services()
    keys = f"office:write:{sha256(KEY.encode()).hexdigest()}"
    with serving(database=postgres_url, redis=NO_REDIS, OMS_API_KEYS=keys, **IN_JSON) as (api, process):
        api.client.headers["Authorization"] = f"Bearer {KEY}"
        yield api, process


def lines_of(process: ServiceProcess, **fields: object) -> list[dict[str, Any]]:
    """Return the lines of requests that have these fields."""
    events = [json.loads(line) for line in process.log.splitlines()]
    return [event for event in events if event["event"] == "answered" and fields.items() <= event.items()]


def line_of(process: ServiceProcess, request_id: str) -> dict[str, Any]:
    """Wait for the one line of a request, and return it."""
    wait_until(lambda: lines_of(process, request_id=request_id) != [], "it is logged")
    (line,) = lines_of(process, request_id=request_id)
    return line


def test_a_line_names_route_caller_calendar_and_times(logged: tuple[Api, ServiceProcess]) -> None:
    """The calendar is the one in the path, in the query or of the order that is written."""
    api, process = logged
    created = api.client.post("/orders", json=order_body(calendar="room-1"))
    path = created.headers["Location"]
    batch = {"orders": [order_body(at=later(days=n), calendar=f"r-{n % 7}") for n in range(2, 16)]}
    for answer, route, status, calendar in (
        (created, "/orders", 201, "room-1"),
        (api.client.post("/orders", json=order_body(at=later(days=1))), "/orders", 201, "default"),
        (api.client.post("/orders/batch", json=batch), "/orders/batch", 201, "r-0,r-1,r-2,r-3,r-4+2"),
        (api.client.get(path), "/orders/{order_id}", 200, None),
        (api.client.patch(path, json={"calendar": "room-2"}), "/orders/{order_id}", 200, "room-2"),
        (api.client.get("/orders?calendar=room-1&calendar=room-2"), "/orders", 200, "room-1,room-2"),
        (api.client.get("/orders?calendar=%2F"), "/orders", 400, None),
        (api.client.get("/calendars/room-1"), "/calendars/{calendar}", 200, "room-1"),
        (api.client.get("/orders/1?x=y"), "/orders/{order_id}", 400, None),
        (api.client.get("/nowhere"), "unknown", 404, None),
    ):  # fmt: skip
        line = line_of(process, answer.headers["X-Request-Id"])
        assert (answer.status_code, line["status"], line["route"]) == (status, status, route), line
        assert line.get("calendar") == calendar, line
        assert line.get("actor") == (None if route == "unknown" else "office"), line
        assert 0 <= line["database_ms"] <= line["ms"] + 0.1, line
        assert (line["database_ms"] > 0) is (status < 300), line
    assert KEY not in process.log


def test_a_caller_without_a_key_is_anyone_and_one_with_a_wrong_key_is_nobody(
    logged: tuple[Api, ServiceProcess], postgres_url: str
) -> None:
    api, process = logged
    refused = api.client.get("/orders", headers={"Authorization": "Bearer wrong"})
    line = line_of(process, refused.headers["X-Request-Id"])
    assert (line["status"], line.get("actor")) == (401, None)
    assert "wrong" not in process.log
    with serving(database=postgres_url, redis=NO_REDIS, **IN_JSON) as (open_api, open_process):
        answer = open_api.client.get("/orders")
        assert line_of(open_process, answer.headers["X-Request-Id"])["actor"] == "anyone"


def test_the_time_that_a_request_waits_for_a_lock_is_time_of_the_database(
    logged: tuple[Api, ServiceProcess], database: Database, run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    """Reads of an order share statements; each of them counts the whole wait."""
    api, process = logged
    run(place(later(days=1)))
    database.rows("BEGIN")
    database.rows("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
    try:
        with ThreadPoolExecutor(5) as threads:
            reads = [threads.submit(api.client.get, "/orders/1") for _ in range(4)]
            lists = threads.submit(api.client.get, "/orders")
            time.sleep(0.6)
            database.rows("COMMIT")
            answers = [read.result() for read in (*reads, lists)]
    finally:
        database.rows("ROLLBACK")
    for answer in answers:
        line = line_of(process, answer.headers["X-Request-Id"])
        assert line["ms"] - 50 < line["database_ms"] <= line["ms"] + 0.1, line
        assert line["database_ms"] > 400, line


def test_a_share_of_the_reads_that_succeed_is_logged_and_every_write_and_error(
    postgres_url: str, database: Database
) -> None:
    """By chance: of 1,000 reads at a quarter, 250 give or take six standard deviations."""
    database.add_services()
    settings = {**IN_JSON, "OMS_LOG_SAMPLE": "0.25"}
    with serving(database=postgres_url, redis=NO_REDIS, **settings) as (api, process):
        for _ in range(1_000):
            assert api.client.get("/services").status_code == 200
        for n in range(20):
            assert api.client.get("/orders/999").status_code == 404
            assert api.place_order(at=later(days=n)).status_code == 201
        wait_until(lambda: len(lines_of(process, status=201)) == 20, "every write is logged")
        assert len(lines_of(process, status=404)) == 20
        assert 168 <= len(lines_of(process, route="/services")) <= 332


@pytest.mark.parametrize(
    ("method", "status", "is_sampled"),
    [
        ("GET", 200, True),
        ("HEAD", 206, True),
        ("GET", 304, True),
        ("OPTIONS", 204, True),
        ("GET", 0, False),
        ("GET", 404, False),
        ("GET", 500, False),
        ("HEAD", 503, False),
        ("POST", 200, False),
        ("DELETE", 204, False),
    ],
)
def test_only_reads_that_succeed_are_sampled(method: str, status: int, *, is_sampled: bool) -> None:
    """At a tenth, from a seed; and none of them with a share of 0."""
    from api.http.request_log import _is_logged

    scope: Any = {"method": method}
    random.seed(7)
    logged = sum(_is_logged(scope, status, 0.1) for _ in range(1_000))
    assert 70 < logged < 130 if is_sampled else logged == 1_000
    assert _is_logged(scope, status, 0) is not is_sampled
    assert _is_logged(scope, status, 1)
