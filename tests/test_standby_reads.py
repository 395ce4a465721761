"""Reads from a standby: what callers may rely on while it is behind, paused, frozen or gone."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from shared.database import standbys
from shared.database.engine import DB, Engine
from shared.database.read_places import ReadPlace, StandbyFailedError, reading_at
from shared.database.sessions import Session
from shared.database.standbys import Standby, StandbyEngine, in_order_of_preference
from shared.database.url import hosts_of
from shared.settings import settings
from tests.builders import later
from tests.drivers import Api, Database, wait_until
from tests.import_steps import import_rows, imported
from tests.random_rounds import seeds
from tests.replicated_system import Replicated, replicated_system
from tests.standby_load import run_load

if TYPE_CHECKING:
    from collections.abc import Iterator

OK, GONE = 200, 404

pytestmark = pytest.mark.timeout(240)  # two database servers, three processes


@pytest.fixture(scope="module")
def _replicated(redis_url: str) -> Iterator[Replicated]:
    with (
        tempfile.TemporaryDirectory(prefix="oms-") as folder,
        replicated_system(Path(folder), redis_url) as one,
    ):
        yield one


@pytest.fixture
def replicated(_replicated: Replicated) -> Iterator[Replicated]:
    """A system whose standby follows, and is used."""
    _replicated.repair()
    yield _replicated
    _replicated.standby.thaw()


def test_reads_go_to_the_standby(replicated: Replicated) -> None:
    order = replicated.place()
    path = f"/orders/{order.json()['id']}"
    replicated.standby.pause_replay()
    replicated.api.client.patch(path, json={"totalfee": 7}).raise_for_status()
    assert replicated.read_after(order, path).json()["version"] == 1


def test_a_caller_who_sends_read_after_reads_its_own_write_though_the_standby_is_behind(
    replicated: Replicated,
) -> None:
    replicated.standby.pause_replay()
    order = replicated.place()
    path = f"/orders/{order.json()['id']}"
    assert replicated.api.client.get(path).status_code == GONE
    assert replicated.read_after(order, path).json() == order.json()
    ids = [item["id"] for item in replicated.read_after(order, "/orders?sort=-id&limit=5").json()["items"]]
    assert order.json()["id"] in ids
    assert order.json()["id"] in replicated.read_after(order, "/orders/export?format=ndjson").text
    change = replicated.api.client.patch(path, json={"totalfee": 9})
    assert replicated.read_after(change, path).json()["version"] == 2
    deletion = replicated.api.client.delete(path)
    assert deletion.headers["Read-After"] == f"{order.json()['id']}:3"
    assert replicated.read_after(deletion, path).status_code == GONE
    assert replicated.counted('read_fallbacks_total{reason="behind"}') > 0


def test_a_deletion_is_read_from_the_standby_once_it_has_it(replicated: Replicated) -> None:
    order = replicated.place()
    path = f"/orders/{order.json()['id']}"
    deletion = replicated.api.client.delete(path)
    before = replicated.counted('read_fallbacks_total{reason="behind"}')
    assert (
        replicated.api.client.get(
            path, params={"after_version": deletion.headers["Read-After"], "wait": "10"}
        ).status_code
        == GONE
    )
    assert replicated.counted('read_fallbacks_total{reason="behind"}') == before


def test_any_order_of_a_batch_stands_for_all_even_if_some_stayed_as_they_were(replicated: Replicated) -> None:
    first, second = replicated.place().json(), replicated.place().json()
    replicated.api.client.post(f"/orders/{first['id']}/cancel").raise_for_status()
    replicated.standby.pause_replay()
    body = {"orders": [{"id": first["id"]}, {"id": second["id"]}]}
    batch = replicated.api.client.post("/orders/batch/cancel", json=body)
    assert batch.headers["Read-After"] == f"{second['id']}:2"
    assert replicated.read_after(batch, f"/orders/{second['id']}").json()["status"] == "cancelled"
    deletion = replicated.api.client.post("/orders/batch/delete", json=body)
    assert replicated.read_after(deletion, f"/orders/{first['id']}").status_code == GONE


def test_an_etag_does_not_go_back_for_a_caller_who_sends_a_newer_one(replicated: Replicated) -> None:
    order = replicated.place()
    path = f"/orders/{order.json()['id']}"
    replicated.read_after(order, path)
    replicated.standby.pause_replay()
    change = replicated.api.client.patch(path, json={"totalfee": 11})
    answer = replicated.api.client.get(path, headers={"If-None-Match": change.headers["ETag"]})
    assert answer.status_code == 304


def test_the_feed_continues_from_a_position_that_the_standby_does_not_have_yet(
    replicated: Replicated,
) -> None:
    start = replicated.last_position()
    replicated.standby.pause_replay()
    order = replicated.place().json()
    replicated.wait_for_position(start + 1)
    page = replicated.api.client.get("/order-changes", params={"after": start}).json()
    assert page["next_cursor"] == start  # the standby has not got it yet
    end = replicated.last_position()
    again = replicated.api.client.get("/order-changes", params={"after": end})
    assert (again.status_code, again.json()["next_cursor"]) == (OK, end)
    with replicated.api.client.stream("GET", "/order-changes/stream", params={"after": start}) as stream:
        replicated.standby.resume_replay()
        lines = (line for line in stream.iter_lines() if line.startswith('data: {"specversion'))
        assert f'"subject":"{order["id"]}"' in next(lines)
    history = replicated.read_after(
        replicated.api.client.patch(f"/orders/{order['id']}", json={"totalfee": 3}),
        f"/orders/{order['id']}/changes",
    )
    assert history.status_code == OK


@pytest.mark.parametrize("fault", ["frozen", "killed", "stopped"])
def test_the_primary_answers_while_the_standby_does_not(replicated: Replicated, fault: str) -> None:
    order = replicated.place()
    standby = replicated.standby
    {"frozen": standby.freeze, "killed": standby.server.kill, "stopped": standby.server.stop}[fault]()
    for _ in range(3):
        answer = replicated.read_after(order, f"/orders/{order.json()['id']}")
        assert answer.json() == order.json()
        assert replicated.api.client.get("/orders?limit=3").status_code == OK
        assert replicated.api.client.get("/orders/export?format=ndjson").status_code == OK
    assert replicated.api.client.get("/health/ready").status_code == OK
    standby.thaw()
    standby.server.start()
    replicated.wait_until_used()


def test_a_query_that_recovery_cancels_is_run_on_the_primary(replicated: Replicated) -> None:
    primary = Engine(extensions=(), config={**DB.config, "dsn": replicated.primary.url})
    standby = StandbyEngine(
        extensions=(),
        config={**DB.config, "dsn": replicated.standby.url, "target_session_attrs": None},
    )
    slow = "SELECT pg_is_in_recovery(), (SELECT count(*) FROM order_change), pg_sleep(2)"

    async def read_while_rows_are_removed() -> tuple[bool, bool]:
        place = ReadPlace(standby, 0)
        with reading_at(place):
            reading = asyncio.create_task(primary.fetch(slow))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(remove_rows)
        ((is_in_recovery, _, _),) = await reading
        return is_in_recovery, place.is_over

    def remove_rows() -> None:
        with Database(replicated.primary.url) as database:
            database.run_script("CREATE TABLE removed AS SELECT generate_series(1, 9)")
            database.run_script("DELETE FROM removed")
            database.run_script("VACUUM removed")

    with Database(replicated.standby.url) as database:
        database.run_script("ALTER SYSTEM SET max_standby_streaming_delay = 0")
        database.run_script("SELECT pg_reload_conf()")
        try:
            assert asyncio.run(read_while_rows_are_removed()) == (False, False)
        finally:
            database.run_script("ALTER SYSTEM RESET max_standby_streaming_delay")
            database.run_script("SELECT pg_reload_conf()")


def test_a_place_is_over_before_its_standby_answers_again_after_a_crash(
    replicated: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may then show less than before, and a process that is asked knows only what it has shown."""
    url = replicated.standby.url
    monkeypatch.setattr(standbys, "PROBE_SECONDS", 60)
    read_from = settings().model_copy(update={"database_read_url": url})
    monkeypatch.setattr(standbys, "settings", lambda: read_from)

    async def is_over_after_a_crash() -> bool:
        standby = Standby(*hosts_of(url)[0], 2)
        watching = asyncio.create_task(standby.watch())
        try:
            while (place := standby.place) is None:  # noqa: ASYNC110 (nothing tells of it)
                await asyncio.sleep(0.01)
            ((process,),) = await place.run(Session.fetch, "SELECT pg_backend_pid()")
            os.kill(process, signal.SIGKILL)
            await asyncio.to_thread(wait_until_it_answers)
            with suppress(StandbyFailedError):
                await place.run(Session.fetch, "SELECT")
            return place.is_over
        finally:
            watching.cancel()

    def wait_until_it_answers() -> None:
        def answers() -> bool:
            with suppress(OSError, asyncpg.PostgresError), Database(url):
                return True
            return False

        time.sleep(0.2)  # it has noticed the crash
        wait_until(answers, "the standby answers again")

    assert asyncio.run(is_over_after_a_crash())


@pytest.mark.parametrize("seed", seeds(1))
def test_under_faults_every_caller_reads_its_own_writes_and_no_position_goes_back(
    replicated: Replicated, seed: int
) -> None:
    report = run_load(replicated, seconds=10, seed=seed)
    assert report.wrong == [], report
    assert report.own_writes_read > 20, report
    assert report.faults > 3, report
    assert report.on_standby > 20, report


def test_a_batch_is_named_by_an_order_that_it_wrote_whatever_times_an_import_has_given(
    api: Api, tmp_path: Path
) -> None:
    """Clocks may differ too: those of two primaries."""
    far = {"status": "cancelled", "updated_at": "2199-01-01T00:00:00Z"}
    rows = [imported(1, at=later(days=1)) | far, imported(2, at=later(days=2))]
    assert import_rows(tmp_path, rows).returncode == 0
    orders = [{"id": "1"}, {"id": "2"}]
    patches = {"orders": [{"id": "1", "version": 1, "totalfee": 1}, {"id": "2", "version": 1, "totalfee": 9}]}
    stored = api.client.get("/orders/1").json()
    patches["orders"][0]["totalfee"] = stored["totalfee"]
    changed = api.client.patch("/orders/batch", json=patches)
    assert changed.headers["Read-After"] == "2:2", changed.text
    cancelled = api.client.post("/orders/batch/cancel", json={"orders": orders})
    assert cancelled.headers["Read-After"] == "2:3", cancelled.text


@pytest.mark.parametrize(
    "value", ["", "1", "1:0", "x:1", "1:2:3", "1:1,", "1:1;wait=3", ",".join(["1:1"] * 21)]
)
def test_a_header_that_no_write_was_answered_with_is_refused(api: Api, value: str) -> None:
    answer = api.client.get("/orders", headers={"Read-After": value})
    assert answer.status_code == 400
    fault: dict[str, Any] = answer.json()["errors"][0]
    assert fault["header"] == "Read-After"


def test_processes_prefer_different_standbys_also_in_pods_where_all_have_the_same_id() -> None:
    hosts: list[tuple[str, int | None]] = [("db-1", None), ("db-2", None), ("db-3", 5433)]

    def preferred(machine: str, process: int) -> tuple[str, int | None]:
        order = in_order_of_preference(hosts, machine, process)
        assert sorted(order) == hosts
        return order[0]

    assert {preferred("oms-api-7c9f", process) for process in (8, 9, 10)} == set(hosts)
    assert {preferred(f"oms-api-{pod}", 1) for pod in range(12)} == set(hosts)
    assert in_order_of_preference([]) == []
