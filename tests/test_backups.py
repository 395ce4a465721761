"""Backups: a database is lost and restored from a dump or to a moment, proved, and used again."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from stack.embedded_postgres import EmbeddedPostgres
from stack.server_user import claim_folder
from tests.builders import later
from tests.drivers import Api, Database, wait_until
from tests.import_steps import import_sample
from tests.operations_guide import commands, run_commands
from tests.processes import NO_REDIS, migrate
from tests.serving import running_pipeline, serving
from tests.webhook_steps import subscribe

if TYPE_CHECKING:
    from stack.embedded_valkey import EmbeddedValkey
    from tests.webhook_receiver import Receiver

ARCHIVE = "/var/lib/oms-archive"
MOMENT = "2026-11-29 12:00:00+00"
"""The folder and the time in the guide."""


def run(name: str, folder: Path, replace: dict[str, str] | None = None, **variables: str) -> str:
    """Run commands of the guide, which must succeed; return what they print."""
    text = commands("backups", name)
    for place, instead in (replace or {}).items():
        assert place in text
        text = text.replace(place, instead)
    done = run_commands(text, folder, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fill(api: Api, database: str) -> None:
    """Store orders of every kind, some of them changed."""
    import_sample(database=database).check_returncode()
    orders = [api.placed_order(at=later(hours=3 * number)) for number in range(6)]
    for path, method in (("", "DELETE"), ("/cancel", "POST")):
        api.client.request(method, f"/orders/{orders.pop()['id']}{path}").raise_for_status()


def write_more(api: Api) -> list[dict[str, Any]]:
    """Store and change orders that no backup has; return them."""
    lost = [api.placed_order(at=later(hours=100 + 3 * number)) for number in range(5)]
    api.client.patch(f"/orders/{lost[0]['id']}", json={"totalfee": 1}).raise_for_status()
    return lost


def assert_creates(api: Api, lost: list[dict[str, Any]]) -> None:
    """Check that orders are taken, under ids that were never given out."""
    created = api.placed_order(at=later(hours=300))
    assert int(created["id"]) > max(int(order["id"]) for order in lost)


@pytest.mark.timeout(180)
def test_a_lost_database_is_restored_from_a_dump_into_an_empty_server(
    tmp_path: Path, own_valkey: EmbeddedValkey, receiver: Receiver
) -> None:
    """Redis still has the messages of what was lost, and a subscriber learns that its position is gone."""
    with EmbeddedPostgres(tmp_path / "first", durable=False) as postgres:
        migrate(postgres.url)
        with running_pipeline(database=postgres.url, redis=own_valkey.url) as before:
            subscribe(before.api, receiver.url)
            fill(before.api, postgres.url)
            kept = before.wait_until_summed()
            orders, summaries = before.api.every_order(), before.api.fee_summaries(by="service")
            run("dump", tmp_path, OMS_DATABASE_URL=postgres.url)
            lost = write_more(before.api)
            ahead = before.wait_until_summed()
            wait_until(lambda: ahead in receiver.positions, "the last change is delivered")
            seen = set(receiver.ids)
        postgres.kill()
        shutil.rmtree(postgres.home / "data")

    with EmbeddedPostgres(tmp_path / "second", durable=False) as postgres:
        restored = run("restore", tmp_path, OMS_DATABASE_URL=postgres.url)
        booked = sum(order["status"] == "booked" for order in orders)
        assert f"summary matches the orders, to the cent: {booked} orders" in restored
        assert len(restored.splitlines()) == 4, restored
        again = run_commands(commands("backups", "restore"), tmp_path, OMS_DATABASE_URL=postgres.url)
        assert again.returncode == 1
        assert "restore into an empty one" in again.stderr

        with running_pipeline(database=postgres.url, redis=own_valkey.url) as after:
            assert after.api.every_order() == orders
            assert after.api.fee_summaries(by="service") == summaries
            # A subscriber that is ahead is told so, and where to continue.
            gone = after.api.client.get("/order-changes", params={"after": ahead})
            assert (gone.status_code, gone.json()["resume"]) == (
                httpx.codes.GONE,
                f"/order-changes?after={kept}",
            )
            assert after.api.client.get(gone.json()["resume"]).json()["items"] == []
            assert_creates(after.api, lost)
            after.wait_until_summed()
            assert after.database.wrong_summaries() == []
            # What is new has an id of its own, though its position was another change's.
            wait_until(lambda: set(receiver.ids) > seen, "the next change is delivered")
            assert receiver.received[-1].position == kept + 1 <= ahead


@pytest.mark.timeout(180)
def test_a_database_is_recovered_to_a_moment_between_two_writes(tmp_path: Path) -> None:
    """From a base backup and the archived WAL."""
    with ExitStack() as stack:
        owner, home = claim_folder(tmp_path / "first")
        archive = home / "archive"
        archive.mkdir()
        if owner:
            os.chown(archive, owner.pw_uid, owner.pw_gid)
        settings = commands("backups", "archive").replace(ARCHIVE, str(archive))
        archiving = {
            name: value.strip("'") for name, value in re.findall(r"^(\w+) = (.+)$", settings, re.MULTILINE)
        }
        first = stack.enter_context(EmbeddedPostgres(tmp_path / "first", durable=False, settings=archiving))
        migrate(first.url)
        with serving(database=first.url, redis=NO_REDIS) as (before, _), Database(first.url) as database:
            run("base", tmp_path, ADMIN_URL=first.url)
            fill(before, first.url)
            orders = before.every_order()
            moment = database.value("SELECT clock_timestamp()::text")
            lost = write_more(before)
            wal = database.value("SELECT pg_walfile_name(pg_switch_wal())")
            wait_until(
                lambda: database.value("SELECT last_archived_wal >= $1 FROM pg_stat_archiver", wal),
                "the WAL is archived",
            )
        first.kill()

        owner, home = claim_folder(tmp_path / "second")
        run("recover", tmp_path, {ARCHIVE: str(archive), MOMENT: moment}, PGDATA=str(home / "data"))
        if owner:
            for path in (home / "data", *(home / "data").rglob("*")):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        second = stack.enter_context(EmbeddedPostgres(tmp_path / "second", durable=False))
        run("after", tmp_path, OMS_DATABASE_URL=second.url)
        with serving(database=second.url, redis=NO_REDIS) as (after, _):
            assert after.every_order() == orders
            assert_creates(after, lost)
