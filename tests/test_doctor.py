"""``oms doctor``: every fault that is planted is found, and said in a sentence with what to do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import redis

from stack.embedded_postgres import EmbeddedPostgres
from tests.command_steps import command_environment, oms, oms_json
from tests.drivers import Database
from tests.processes import NO_REDIS, ROOT, migrate
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stack.embedded_valkey import EmbeddedValkey
Doctor = dict[str, str]
"""The environment in which everything is well."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL that would survive a crash, unlike that of other tests; the URL of its database."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("doctor") / "postgres") as postgres:
        migrate(postgres.url)
        yield postgres.url


@pytest.fixture
def database(server: str) -> Iterator[Database]:
    """Its database, without any rows."""
    with Database(server) as database:
        database.clean()
        yield database


@pytest.fixture
def healthy(database: Database, own_valkey: EmbeddedValkey) -> Doctor:
    """A deployment whose relay has just worked."""
    database.rows("UPDATE change_log SET led_at = now() WHERE id = 1")
    return {"OMS_DATABASE_URL": database.url, "OMS_REDIS_URL": own_valkey.url}


def _wrong(environment: Doctor) -> list[str]:
    """Run the command, which must find something; return the sentences, each with its advice."""
    done = oms("doctor", "--json", **environment)
    result = json.loads(done.stdout)
    wrong = [finding for finding in result["findings"] if finding["level"] == "wrong"]
    assert done.returncode == 1
    assert wrong
    assert not result["healthy"]
    assert all(finding["advice"] for finding in wrong)
    return [f"{finding['area']}: {finding['text']}" for finding in wrong]


def test_nothing_is_wrong_with_a_deployment_that_works(healthy: Doctor) -> None:
    """Each part was looked at."""
    result = oms_json("doctor", **healthy)
    assert result["healthy"]
    areas = {finding["area"] for finding in result["findings"]}
    parts = {"versions", "disk", "settings", "open files", "database", "redis", "relay", "worker", "clocks"}
    assert parts <= areas
    done = oms("doctor", **healthy)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("nothing is wrong; warnings: ")


@pytest.mark.parametrize(
    ("settings", "beginnings"),
    [
        ({"OMS_TYPO": "1", "OMS_PORT": "x"}, ["settings: OMS_TYPO: unknown setting", "settings: OMS_PORT: "]),
        ({"OMS_HOST": "0.0.0.0"}, ["settings: OMS_HOST: other machines may reach this address"]),
        ({"OMS_REDIS_URL": NO_REDIS}, ["redis: it can't be used: "]),
        (
            {"OMS_DATABASE_URL": "postgresql://oms:x@127.0.0.1:1/oms"},
            ["database: orders can't be stored: the database can't be reached"],
        ),
        (
            {"OMS_API_PROCESSES": "60", "OMS_POOL_SIZE": "60"},
            ["database: one API may open 3600 sessions"],
        ),
        ({"TMPDIR": "/no/such/folder"}, ["disk: the temporary folder /no/such/folder can't be written"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_found(healthy: Doctor, settings: Doctor, beginnings: list[str]) -> None:
    """And nothing else is called wrong."""
    sentences = _wrong(healthy | settings)
    assert len(sentences) == len(beginnings), sentences
    for sentence, beginning in zip(sorted(sentences), sorted(beginnings), strict=True):
        assert sentence.startswith(beginning), sentence


PLANTED = {
    "UPDATE change_log SET led_at = now() - interval '1 hour' WHERE id = 1": "relay: no relay has worked for",
    "UPDATE migration SET app_name = 'hidden' WHERE id = (SELECT max(id) FROM migration)": (
        "database: orders can't be stored: 1 of the migrations are pending"
    ),
    "UPDATE fee_summary_proof SET finished_at = now(), differing = 3 WHERE id = 1": (
        "worker: in the last proof, 3 fee summaries did not match the orders"
    ),
    "UPDATE consumer_cursor SET position = 9 WHERE consumer = 'fee_summaries'": (
        "worker: the cursor of fee summaries is past the end of the change log"
    ),
}
MENDED = """
UPDATE migration SET app_name = 'shared' WHERE app_name = 'hidden';
UPDATE fee_summary_proof SET finished_at = NULL, differing = NULL
"""


@pytest.mark.parametrize(("fault", "beginning"), PLANTED.items(), ids=[text[:40] for text in PLANTED])
def test_a_fault_in_the_database_is_found(
    healthy: Doctor, database: Database, fault: str, beginning: str
) -> None:
    """Planted with one statement."""
    database.rows(fault)
    try:
        (sentence,) = _wrong(healthy)
    finally:
        database.run_script(MENDED)
    assert sentence.startswith(beginning)


def test_a_schema_of_a_newer_version_is_wrong_only_if_this_one_cannot_use_it(
    healthy: Doctor, database: Database
) -> None:
    """Otherwise it is an upgrade that goes on, and a warning."""
    database.run_script("INSERT INTO migration (id, name, app_name) VALUES (999, '2999', 'shared')")
    says = database.value("SELECT pg_get_functiondef('oldest_compatible_migration()'::regprocedure)")
    try:
        warnings = [one for one in oms_json("doctor", **healthy)["findings"] if one["level"] == "warning"]
        assert any(
            "a newer version of this service has migrated the database" in one["text"] for one in warnings
        )
        database.run_script(
            "CREATE OR REPLACE FUNCTION oldest_compatible_migration() RETURNS text "
            "LANGUAGE sql IMMUTABLE AS $$ SELECT '2999' $$"
        )
        (sentence,) = _wrong(healthy)
        assert "a newer version of this service has removed from the schema what this one needs" in sentence
    finally:
        database.run_script(f"{says}; DELETE FROM migration WHERE name = '2999'")


@contextmanager
def _role_that_only_reads(database: Database) -> Iterator[str]:
    database.run_script("CREATE ROLE doctor_reader LOGIN; GRANT pg_read_all_data TO doctor_reader")
    try:
        yield re.sub("//[^@/?]*@|//", "//doctor_reader@", database.url, count=1)
    finally:
        database.run_script("DROP ROLE doctor_reader")


def test_missing_privileges_and_another_time_zone_are_found(healthy: Doctor, database: Database) -> None:
    """All missing privileges are named; the advice for the zone is the command that changes it."""
    with _role_that_only_reads(database) as url:
        (sentence, *_) = _wrong(healthy | {"OMS_DATABASE_URL": url})
    assert "the database role lacks INSERT on orders, UPDATE on orders" in sentence
    database.run_script(
        "INSERT INTO fee_summary (generation, day, calendar_id, service_id, share, orders) "
        "SELECT generation, '2030-01-01', 1, 0, 1, 1 FROM fee_summary_state"
    )
    done = oms("doctor", **healthy, OMS_TIME_ZONE="Asia/Tokyo")
    assert done.returncode == 1
    assert "OMS_TIME_ZONE is Asia/Tokyo, and the fee summaries count in days of UTC" in done.stdout
    assert "OMS_TIME_ZONE=Asia/Tokyo oms rebuild" in done.stdout


def test_a_broker_that_would_drop_messages_is_found(healthy: Doctor) -> None:
    """By its eviction policy, or as it is full; without an append-only file there is a warning."""
    with redis.Redis.from_url(healthy["OMS_REDIS_URL"]) as client:
        client.config_set("appendonly", "no")
        warnings = [one for one in oms_json("doctor", **healthy)["findings"] if one["level"] == "warning"]
        assert any("appendonly is no" in one["text"] for one in warnings)
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", "1000000")
        policy, use = _wrong(healthy)
        assert policy == "redis: maxmemory-policy is allkeys-lru: when it is full, it drops messages"
        assert use.startswith("redis: it uses ")


def _environment_with(folder: Path, **files: str) -> Doctor:
    """Return variables for a process that imports from a folder first."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"PYTHONPATH": str(folder)}


def test_a_clock_that_is_wrong_is_found(healthy: Doctor, tmp_path: Path) -> None:
    """Here this machine's, as the command sees it, is an hour ahead."""
    shifted = "import time\nnow = time.time\ntime.time = lambda: now() + 3600\n"
    (sentence,) = _wrong(healthy | _environment_with(tmp_path / "shifted", sitecustomize_dot_py=shifted))
    assert sentence.startswith("clocks: the clock of this machine is 3,6")


def test_a_package_of_another_version_is_found(healthy: Doctor, tmp_path: Path) -> None:
    """It names the package and both versions."""
    metadata = "Metadata-Version: 2.1\nName: msgspec\nVersion: 0.0.1\n"
    folder = tmp_path / "packages" / "msgspec-0.0.1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(metadata)
    (sentence,) = _wrong(healthy | {"PYTHONPATH": str(folder.parent)})
    assert sentence.startswith(
        "versions: packages are not those of requirements.lock: msgspec is 0.0.1, not "
    )


def test_a_limit_of_open_files_below_the_connections_is_found(healthy: Doctor) -> None:
    """The advice has the number that is needed."""
    command = f"ulimit -n 500; ulimit -Hn 500; exec {sys.executable} -m oms doctor"
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        cwd=ROOT,
        env=command_environment(**healthy),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 1
    assert "a process may open 500 files, and OMS_CONNECTIONS=4000 needs 4,100" in done.stdout


def test_changes_without_a_position_and_disabled_webhooks_are_found(
    healthy: Doctor, database: Database
) -> None:
    """The relay leads, but is held up; a disabled webhook is a warning."""
    database.add_services()
    with serving(database=healthy["OMS_DATABASE_URL"], redis=healthy["OMS_REDIS_URL"]) as (api, _):
        api.placed_order()
        database.rows("UPDATE order_change SET recorded_at = now() - interval '1 hour'")
        created = api.client.post("/webhooks", json={"url": "http://127.0.0.1:1024/x"}).json()
        api.client.patch(f"/webhooks/{created['id']}", json={"enabled": False})
    done = oms("doctor", **healthy)
    assert done.returncode == 1
    assert "relay: 1 changes have no position, the oldest for 3,6" in done.stdout
    assert "webhooks: 1 webhooks are disabled" in done.stdout


def test_a_database_that_a_crash_would_destroy_is_found(
    postgres_url: str, own_valkey: EmbeddedValkey
) -> None:
    """The other tests' is like that."""
    sentences = _wrong({"OMS_DATABASE_URL": postgres_url, "OMS_REDIS_URL": own_valkey.url})
    assert "database: fsync is off: a crash of its machine may destroy the database" in sentences
