"""Days of fee summaries: those of one time zone, across its clock changes, until a rebuild uses another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from shared.database.locks import RELAY_LOCK
from shared.fee_summaries import OtherTimeZoneError, check_time_zone
from tests.builders import later
from tests.drivers import WAITING_FOR_LOCKS, wait_until
from tests.fee_summary_history import History
from tests.fee_summary_model import Query, report, shown_figures, shown_row
from tests.fee_summary_steps import differences, exactly, pages
from tests.processes import NO_REDIS, ServiceProcess, run_command
from tests.steps import apply_every_change, place
from worker.fee_summaries.rebuild import rebuild

if TYPE_CHECKING:
    import httpx

    from tests.drivers import Api, Database

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


def test_a_rebuild_in_another_time_zone_ends_pages_of_the_old_zone(
    run: Run, api: Api, database: Database, setting: Callable[..., None]
) -> None:
    """Until then nothing is ever counted in days of two zones."""
    zone = "Pacific/Auckland"
    history = History(34)
    run(history.write(40))
    run(apply_every_change())
    following = api.client.get("/fee-summaries?limit=1").json()["next"]
    assert api.client.get(following).status_code == 200
    setting(time_zone=zone)
    with pytest.raises(OtherTimeZoneError, match="OMS_TIME_ZONE=Pacific/Auckland make rebuild"):
        run(check_time_zone())
    run(history.write(5))
    run(apply_every_change())  # from a process that was not restarted: still in days of the old zone
    assert differences(run) == []
    assert database.wrong_summaries("UTC") == []
    run(rebuild())
    run(check_time_zone())
    assert database.wrong_summaries(zone) == []
    run(history.write(10))
    run(apply_every_change())
    assert database.wrong_summaries(zone) == []
    assert differences(run) == []
    for position in (55, 50, 41, 20, 0):
        every_page = pages(api, Query(by=("calendar",)), position=str(position))
        rows, totals = report(history.at(position), Query(by=("calendar",)), zone)
        assert {shown_row(item): shown_figures(item) for page in every_page for item in page["items"]} == rows
        assert shown_figures(every_page[0]["totals"]) == totals
        assert every_page[0]["time_zone"] == zone
    assert api.client.get(following).json()["type"] == "/problems/report-expired"
    setting(time_zone="UTC")
    run(rebuild())


@pytest.mark.parametrize("path", ["/fee-summaries?limit=1", "/fee-summaries/orders?limit=1"])
def test_a_page_read_while_the_time_zone_changes_never_mixes_days_of_both_zones(
    run: Run, api: Api, postgres_url: str, path: str
) -> None:
    """Its cursor was checked in the old zone; its rows would be those of the new one."""
    for day in range(3):
        run(place(later(days=day)))
    run(apply_every_change())
    following = api.client.get(path).json()["next"]

    async def read_while_it_changes() -> httpx.Response:
        changing = await asyncpg.connect(postgres_url)
        try:
            async with changing.transaction():
                await changing.execute("LOCK TABLE fee_summary, orders IN ACCESS EXCLUSIVE MODE")
                reading = asyncio.create_task(asyncio.to_thread(api.client.get, following))
                while not await changing.fetchval(f"SELECT count(*) {WAITING_FOR_LOCKS}"):
                    assert not reading.done()
                    await asyncio.sleep(0.01)
                await changing.execute("UPDATE fee_summary_state SET time_zone = 'Asia/Tokyo'")
            return await reading
        finally:
            await changing.execute("UPDATE fee_summary_state SET time_zone = 'UTC'")
            await changing.close()

    answer = run(read_while_it_changes())
    assert (answer.status_code, answer.json()["type"]) == (410, "/problems/report-expired")
    assert "belongs to a report with days in UTC; days are now in Asia/Tokyo" in answer.json()["detail"]


@pytest.mark.parametrize("module", ["api.server", "api.relay.main", "worker.main"])
def test_no_process_starts_with_a_time_zone_other_than_the_summaries(
    run: Run, database: Database, postgres_url: str, module: str
) -> None:
    """One line says why and names the command to run."""
    run(place(later(days=1)))
    run(apply_every_change())
    refused = run_command(module, database=postgres_url, OMS_TIME_ZONE="Europe/Rome")
    assert refused.returncode == 1
    lines = [line for line in refused.stderr.splitlines() if "zone" in line.lower()]
    assert len(lines) == 1
    assert "OMS_TIME_ZONE=Europe/Rome make rebuild" in lines[0]
    assert "Traceback" not in refused.stdout + refused.stderr
    if module == "api.relay.main":
        # An empty database has no zone yet.
        database.clean()
        with ServiceProcess(
            module, database=postgres_url, redis=NO_REDIS, OMS_TIME_ZONE="Europe/Rome"
        ) as relay:
            wait_until(lambda: "leading" in relay.log, "the relay leads")


def test_a_running_relay_survives_a_change_of_the_time_zone_and_lost_connections(
    run: Run, database: Database, postgres_url: str, setting: Callable[..., None]
) -> None:
    """The relay uses no time zone, so nothing is gained if it ends when PostgreSQL comes back."""
    run(place(later(days=1)))
    run(apply_every_change())
    with ServiceProcess("api.relay.main", database=postgres_url, redis=NO_REDIS) as relay:
        wait_until(lambda: "leading" in relay.log, "the relay leads")
        setting(time_zone="Europe/Rome")
        run(rebuild())
        database.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            RELAY_LOCK,
        )
        wait_until(lambda: relay.log.count("leading") == 2, "the relay leads again")
    setting(time_zone="UTC")
    run(rebuild())


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Rome", "2026-03-29", 23),
        ("Europe/Rome", "2026-10-25", 25),
        ("America/Havana", "2026-11-01", 25),  # its midnight comes twice
        ("America/Santiago", "2026-09-06", 23),  # it has no midnight
        ("Asia/Kolkata", "2026-03-29", 24),
    ],
)
def test_an_order_at_local_midnight_belongs_to_the_day_that_begins(  # noqa: PLR0917 (fixtures and cases)
    run: Run, api: Api, setting: Callable[..., None], zone: str, day: str, hours: int
) -> None:
    """On days of 23, 24 and 25 hours, with two midnights and with no midnight."""
    setting(time_zone=zone)
    local = ZoneInfo(zone)
    noon = datetime.fromisoformat(f"{day}T12:00:00").replace(tzinfo=local)
    begin = noon.astimezone(ZoneInfo("UTC"))
    tick = timedelta(milliseconds=1)
    while (begin - tick).astimezone(local).date() == noon.date():
        begin -= timedelta(minutes=30)
    end = begin + timedelta(hours=hours)
    for calendar, at in enumerate((begin - tick, begin, end - tick, end)):
        run(place(at, calendar=f"c{calendar}"))
    run(apply_every_change())
    tomorrow = (noon + timedelta(days=1)).date()
    items = exactly(api.client.get("/fee-summaries"))["items"]
    yesterday = (noon - timedelta(days=1)).date().isoformat()
    assert [(item["period"], item["orders"]) for item in items] == [
        (yesterday, 1),
        (day, 2),
        (tomorrow.isoformat(), 1),
    ]
    for item in items:
        behind = exactly(api.client.get(item["counted_orders"]))
        assert ({order["day"] for order in behind["items"]}, len(behind["items"])) == (
            {item["period"]},
            item["orders"],
        )
    assert differences(run) == []
    run(rebuild())
    assert [
        (item["period"], item["orders"]) for item in exactly(api.client.get("/fee-summaries"))["items"]
    ] == [(item["period"], item["orders"]) for item in items]


@pytest.mark.parametrize("zone", ["Europe/Rome", "Australia/Lord_Howe", "America/Santiago", "Asia/Kolkata"])
def test_days_of_summaries_are_those_of_the_deployments_time_zone(
    run: Run, database: Database, setting: Callable[..., None], zone: str
) -> None:
    """PostgreSQL's zones against Python's, around clock changes."""
    setting(time_zone=zone)
    # Around the clock changes of 2026, each hour of three weeks; days of 23, 23.5, 24.5 and 25 h.
    hours = [
        start + timedelta(hours=3 * n)
        for start in (datetime.fromisoformat(f"2026-{day}T00:30:00Z") for day in ("03-25", "04-01", "09-02"))
        for n in range(56)
    ] + [datetime.fromisoformat("2026-10-22T00:30:00Z") + timedelta(hours=3 * n) for n in range(40)]
    expected: dict[date, int] = {}
    for at in sorted(set(hours)):
        database_day = at.astimezone(ZoneInfo(zone)).date()
        expected[database_day] = expected.get(database_day, 0) + 1
        run(place(at))
    run(apply_every_change())
    assert database.wrong_summaries(zone) == []
    kept = database.rows("SELECT day, orders FROM fee_summary WHERE service_id = 0 ORDER BY day")
    assert [(row["day"], row["orders"]) for row in kept] == sorted(expected.items())


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Rome", "2026-03-29", 23),
        ("Europe/Rome", "2026-10-25", 25),
        ("Europe/Rome", "2026-10-26", 24),
        ("UTC", "2026-03-29", 24),
    ],
)
def test_a_day_has_23_24_or_25_hours_as_its_time_zone_says(  # noqa: PLR0917 (fixtures and parameters)
    run: Run, database: Database, setting: Callable[..., None], zone: str, day: str, hours: float
) -> None:
    """From its first millisecond to its last."""
    setting(time_zone=zone)
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    begin = start.astimezone(ZoneInfo("UTC"))
    length = timedelta(hours=hours)
    tick = timedelta(milliseconds=1)
    for calendar, at in enumerate((begin - tick, begin, begin + length - tick, begin + length)):
        run(place(at, calendar=f"c{calendar}"))
    run(apply_every_change())
    kept = database.rows("SELECT day, sum(orders) AS orders FROM fee_summary WHERE service_id = 0 GROUP BY 1")
    counted = {row["day"]: row["orders"] for row in kept}
    today = start.date()
    assert counted == {today - timedelta(days=1): 1, today: 2, today + timedelta(days=1): 1}
