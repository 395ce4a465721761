"""Reports that include a caller's own writes, or of a given position: waiting, older positions, expiry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest

from api.fee_summaries.errors import SummariesBehindError
from api.fee_summaries.positions import wait_for
from api.orders.updates import delete_order
from api.relay.retention import trim_log
from shared.database.engine import DB
from shared.database.standbys import OrderVersion
from tests.builders import later
from tests.drivers import Api, at_once, wait_until
from tests.processes import NO_REDIS
from tests.serving import serving
from tests.steps import ANYONE, apply_every_change, assign_all, place

if TYPE_CHECKING:
    from tests.drivers import Database, Pipeline

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


def test_a_report_after_a_version_includes_that_version(pipeline: Pipeline) -> None:
    """Through relay, queue and worker, without ever waiting for a fixed time."""
    seen = 0
    order: dict[str, Any] = {}
    query: dict[str, str] = {}
    for day in range(15):
        order = pipeline.api.placed_order(at=later(days=day))
        query = {"after_version": f"{order['id']}:{order['version']}", "wait": "10"}
        report = pipeline.api.fee_summaries(**query, group_by="year")
        assert report["totals"]["orders"] == day + 1
        assert report["as_of"]["position"] >= seen
        seen = report["as_of"]["position"]
    pipeline.api.client.delete(f"/orders/{order['id']}")
    # A deletion is the version after the last.
    query["after_version"] = f"{order['id']}:2"
    assert pipeline.api.fee_summaries(**query, group_by="year")["totals"]["orders"] == 14
    behind = pipeline.api.client.get("/fee-summaries/orders", params=query).json()
    assert len(behind["items"]) == 14


def test_a_report_whose_changes_are_not_summed_in_time_is_503_with_the_position(run: Run, api: Api) -> None:
    """With and without a given position, on every route with figures."""
    order_id = run(place(later(days=1)))
    path = f"/fee-summaries?after_version={order_id}:1&wait=1"
    before = time.monotonic()
    answer = api.client.get(path)
    assert 0.9 < time.monotonic() - before < 5
    problem = answer.json()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert (problem["type"], problem["as_of"]["position"]) == ("/problems/summaries-behind", 0)
    assert problem["asked"] == {"position": None}
    run(assign_all())
    assert api.client.get(path.replace("wait=1", "wait=0")).json()["asked"] == {"position": 1}
    assert api.client.get("/fee-summaries?position=1&wait=0").status_code == 503
    assert api.client.get("/fee-summaries/orders?min_position=1&wait=0").status_code == 503
    run(apply_every_change())
    for query in (f"after_version={order_id}:1", "min_position=1", "position=1", "min_position=0&wait=0"):
        assert api.client.get(f"/fee-summaries?{query}").json()["as_of"]["position"] == 1


def waiting(api: Api) -> int:
    """Count the requests that wait for the summaries."""
    return api.waiting("fee_summaries_waiting_requests")


def test_a_waiting_report_is_answered_as_soon_as_the_summaries_are_ready(run: Run, api: Api) -> None:
    """The request may come before the order is written or has a position."""
    with ThreadPoolExecutor(1) as thread:
        # Unassigned, assigned and not even written yet: each is waited for.
        request = thread.submit(api.client.get, "/fee-summaries?min_position=1&wait=10")
        wait_until(lambda: waiting(api) == 1, "the request waits")
        run(place(later(days=1)))
        run(assign_all())
        time.sleep(0.1)  # two polls
        wait_until(lambda: waiting(api) == 1, "the request still waits")
        assert not request.done()
        before = time.monotonic()
        run(apply_every_change())
        assert request.result().json()["as_of"]["position"] == 1
        assert time.monotonic() - before < 5


def test_many_waiting_reports_do_not_block_other_requests(run: Run, api: Api) -> None:
    """A waiting request takes no connection of the pool."""

    def others() -> bool:
        wait_until(lambda: waiting(api) == 40, "all requests wait")
        return all(api.client.get("/fee-summaries").status_code == 200 for _ in range(5))

    with ThreadPoolExecutor(1) as thread:
        held_up = thread.submit(others)
        answers = at_once([lambda: api.client.get("/fee-summaries?min_position=1&wait=2") for _ in range(40)])
        assert {answer.status_code for answer in answers} == {503}
        assert held_up.result()
    run(place(later(days=1)))
    run(apply_every_change())
    assert api.client.get("/fee-summaries?min_position=1").status_code == 200


def test_a_report_after_a_version_that_was_never_written_is_404(run: Run, api: Api) -> None:
    """At once, instead of waiting for a version that may never be written."""
    order_id = run(place(later(days=1)))
    run(apply_every_change())
    for unknown in (f"{order_id}:2", "999:1"):
        answer = api.client.get(f"/fee-summaries?after_version={unknown}&wait=10")
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")


def test_a_version_that_was_removed_from_the_log_is_included_in_reports(
    run: Run, api: Api, database: Database
) -> None:
    """Only applied changes are ever removed."""
    order_id = run(place(later(days=1)))
    run(apply_every_change())
    database.rows("DELETE FROM order_change")
    assert api.client.get(f"/fee-summaries?after_version={order_id}:1&wait=0").status_code == 200


def test_an_earlier_version_is_included_in_reports_when_only_later_versions_are_retained(
    run: Run, api: Api, database: Database
) -> None:
    """Of a deleted order too: a later change in the log shows that the version existed."""
    order_id = run(place(later(days=1)))
    run(delete_order(order_id, ANYONE))
    run(apply_every_change())
    database.rows("DELETE FROM order_change WHERE position = 1")
    for version in (1, 2):
        answer = api.client.get(f"/fee-summaries?after_version={order_id}:{version}&wait=0")
        assert (answer.status_code, answer.json()["as_of"]["position"]) == (200, 2)
    answer = api.client.get(f"/fee-summaries?after_version={order_id}:3&wait=0")
    assert (answer.status_code, answer.json()["detail"]) == (
        404,
        f"Order {order_id} has no version 3.",
    )


def test_a_version_of_an_order_without_retained_changes_is_404_with_both_possible_reasons(
    run: Run, api: Api, database: Database
) -> None:
    """The order never existed, or it was deleted long ago: its versions are no longer known."""
    order_id = run(place(later(days=1)))
    run(delete_order(order_id, ANYONE))
    run(apply_every_change())
    database.rows("DELETE FROM order_change")
    for unknown in (order_id, 999):
        answer = api.client.get(f"/fee-summaries?after_version={unknown}:1&wait=10")
        assert answer.status_code == 404
        assert answer.json()["detail"] == (
            f"There is no order {unknown}, and no change of it is retained. It never existed, or it was "
            "deleted long ago and is in no figures."
        )


def test_a_report_at_a_position_whose_later_changes_were_removed_is_410(
    run: Run, api: Api, database: Database
) -> None:
    """Never figures that are slightly wrong."""
    for day in range(4):
        run(place(later(days=day)))
    run(apply_every_change())
    assert api.client.get("/fee-summaries?position=1").status_code == 200
    database.rows("DELETE FROM order_change WHERE position <= 2")
    assert api.client.get("/fee-summaries?position=2").json()["totals"]["orders"] == 2
    for path in ("/fee-summaries", "/fee-summaries/orders"):
        answer = api.client.get(f"{path}?position=1")
        assert (answer.status_code, answer.json()["type"]) == (410, "/problems/report-expired")
        assert answer.json()["latest_position"] == 4
    csv = api.client.get("/fee-summaries/export?position=1", headers={"Accept": "text/csv"})
    assert csv.status_code == 410


def test_a_page_of_an_expired_report_is_410(run: Run, api: Api, database: Database) -> None:
    """Also one of a database that has been restored since."""
    for day in range(3):
        run(place(later(days=day)))
    run(apply_every_change())
    following = api.client.get("/fee-summaries?limit=1").json()["next"]
    behind = api.client.get("/fee-summaries/orders?limit=1").json()["next"]
    # 50,001 changes later: too many to take back.
    database.rows("UPDATE consumer_cursor SET position = position + 50001 WHERE consumer = 'fee_summaries'")
    for path in (following, behind, "/fee-summaries?position=3"):
        answer = api.client.get(path)
        assert (answer.status_code, answer.json()["type"]) == (410, "/problems/report-expired")
    # A database that was restored from an older copy is behind its readers.
    database.rows("UPDATE consumer_cursor SET position = 2 WHERE consumer = 'fee_summaries'")
    assert api.client.get(following).status_code == 410


@pytest.mark.parametrize("path", ["/fee-summaries?limit=1&by=calendar", "/fee-summaries/orders?limit=1"])
def test_pages_of_a_report_end_with_410_when_changes_since_the_first_page_were_removed(
    run: Run, api: Api, database: Database, path: str
) -> None:
    """By the retention itself. Until then each page is exact for the first page's position."""
    for day in range(4):
        run(place(later(days=day)))
    run(apply_every_change())
    following = api.client.get(path).json()["next"]
    run(place(later(days=5)))
    run(apply_every_change())
    database.rows("UPDATE order_change SET recorded_at = recorded_at - interval '91 days' WHERE position < 5")
    assert run(trim_log()) == 4
    # The one change since then is still in the log.
    assert api.client.get(following).json()["as_of"]["position"] == 4
    database.rows("UPDATE order_change SET recorded_at = recorded_at - interval '91 days'")
    assert run(trim_log()) == 1
    answer = api.client.get(following)
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (410, "/problems/report-expired")
    assert problem["latest_position"] == 5
    assert problem["detail"] == "Position 4 is followed by changes that are no longer retained."
    # A report that begins now does not need them.
    assert len(api.every_item(path)) == 5


def test_the_position_of_reports_never_goes_back_between_two_api_processes(
    run: Run, api: Api, postgres_url: str
) -> None:
    """A load balancer sends requests to any process; all figures come from one database."""
    with (
        serving(database=postgres_url, redis=NO_REDIS) as (other, _),
        ThreadPoolExecutor(1) as thread,
    ):
        stop = Event()

        def read() -> list[int]:
            seen = []
            while not stop.is_set():
                for process in (api, other):
                    report = process.client.get("/fee-summaries?group_by=year").json()
                    assert (report["totals"]["orders"]) == report["as_of"]["position"]
                    seen.append(report["as_of"]["position"])
            return seen

        reading = thread.submit(read)
        for day in range(40):
            run(place(later(days=day)))
            run(apply_every_change())
        stop.set()
        seen = reading.result()
        assert seen == sorted(seen)
        assert len(set(seen)) > 5


def test_the_position_of_reports_never_goes_back_during_repeats_and_rebuilds(
    run: Run, api: Api, database: Database
) -> None:
    """A position always has the same time."""
    from worker.fee_summaries.rebuild import rebuild

    seen = []
    for day in range(10):
        run(place(later(days=day)))
        run(apply_every_change())
        if day % 3 == 0:
            run(rebuild())
        as_of = api.client.get("/fee-summaries").json()["as_of"]
        seen.append((as_of["position"], as_of["time"]))
    assert seen == sorted(seen)
    assert [position for position, _ in seen] == list(range(1, 11))
    steps = database.rows("SELECT position FROM fee_summary_step ORDER BY position")
    assert [step["position"] for step in steps] == list(range(1, 11))
    for position, at in seen:
        assert api.client.get(f"/fee-summaries?position={position}").json()["as_of"]["time"] == at


def test_a_waiting_report_queries_its_version_only_after_new_positions(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many wait, only the query for the summaries' position is repeated."""
    order_id = run(place())
    statements: list[str] = []
    fetch = DB.fetch

    async def counted(sql: str, *args: object) -> list[dict[str, Any]]:
        statements.append(sql)
        return await fetch(sql, *args)

    monkeypatch.setattr(DB, "fetch", counted)

    async def wait() -> None:
        with suppress(SummariesBehindError):
            await wait_for(0, OrderVersion(order_id, 1), 1)

    async def many() -> None:
        await asyncio.gather(*(wait() for _ in range(20)))

    run(many())
    versions = sum("order_version" in sql for sql in statements)
    print(f"{versions} queries for a version in {len(statements)} statements")
    assert versions == 20
    assert len(statements) < 80
