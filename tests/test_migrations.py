"""``python -m shared.database.migrate``: an empty database gets the schema that the tables describe."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.catalogue import catalogue
from tests.drivers import Database
from tests.processes import NO_REDIS, ROOT, call_command, environment, run_command

if TYPE_CHECKING:
    from pathlib import Path

TABLES = "2026-11-29T00:06:21:509739"
RULES = "2026-11-29T00:07:00:000000"
"""The first two migrations, by the names under which Piccolo stores them."""

MIGRATIONS = len(list((ROOT / "shared" / "database" / "migrations").glob("shared_*.py")))

TLS_REQUEST = (80_877_103).to_bytes(4, "big")
"""The first message of a PostgreSQL client."""


def run_migrate(url: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return call_command("shared.database.migrate", database=url)


def run_migrate_as_process(url: str) -> subprocess.CompletedProcess[str]:
    """Run the command beside another one."""
    return run_command("shared.database.migrate", database=url)


def run_piccolo(folder: Path, database: str, *arguments: str) -> str:
    """Run one of Piccolo's commands for migrations on the code in a folder; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "piccolo.main", "migrations", *arguments],
        check=False,
        cwd=folder,
        env={**environment(database, NO_REDIS), "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def schema(url: str) -> set[str]:
    """Describe all that migrations make, except rows."""
    with Database(url) as database:
        return catalogue(database)


def test_migrating_an_empty_database_twice_applies_each_migration_once(
    new_database_url: str, postgres_url: str
) -> None:
    """The schema is the one that all other tests run on."""
    for applied in (MIGRATIONS, 0):
        done = run_migrate(new_database_url)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", f"migrations applied: {applied}\n")
        assert schema(new_database_url) == schema(postgres_url)
    with Database(new_database_url) as database:
        assert database.value("SELECT count(*) FROM migration") == MIGRATIONS


def test_concurrent_migrations_run_one_after_the_other(new_database_url: str, postgres_url: str) -> None:
    """As when two copies of the service start together on an empty database."""
    with ThreadPoolExecutor(2) as threads:
        runs = list(threads.map(run_migrate_as_process, [new_database_url] * 2))
    assert [done.returncode for done in runs] == [0, 0], [done.stdout + done.stderr for done in runs]
    assert schema(new_database_url) == schema(postgres_url)


@pytest.mark.parametrize(
    ("obstacle", "migration", "reason"),
    [
        ("CREATE TABLE orders (id int)", TABLES, 'relation "orders" already exists'),
        (
            "CREATE TABLE ordered_service (order_id int)",
            RULES,
            'relation "ordered_service" already exists',
        ),
    ],
    ids=["the tables", "the rules"],
)
def test_a_failing_migration_is_named(
    new_database_url: str, obstacle: str, migration: str, reason: str
) -> None:
    """Its name is printed before PostgreSQL's message."""
    with Database(new_database_url) as database:
        database.rows(obstacle)
    done = run_migrate(new_database_url)
    assert (done.returncode, done.stdout) == (1, "")
    which, why = done.stderr.splitlines()
    assert f"{migration} [forwards]" in which
    assert why == f"migrate: {reason}"


def test_a_server_that_is_too_old_is_refused_before_any_migration(
    new_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line that says which version is needed."""
    monkeypatch.setattr("shared.database.migrate.REQUIRED_POSTGRESQL", 99)
    done = run_migrate(new_database_url)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"migrate: PostgreSQL 99 or newer is needed; this is 18\.\d+.*\n", done.stderr)
    with Database(new_database_url) as database:
        assert database.value("SELECT to_regclass('orders')") is None


def test_a_migration_that_fails_leaves_nothing_behind(new_database_url: str) -> None:
    """Its statements are one transaction: once the obstacle is gone, the next run applies it whole."""
    with Database(new_database_url) as database:
        database.rows("CREATE TABLE idempotency_key (key text)")  # the last that the rules make
        assert run_migrate(new_database_url).returncode == 1
        assert database.rows("SELECT name FROM migration") == [{"name": TABLES}]
        database.rows("DROP TABLE idempotency_key")
        assert run_migrate(new_database_url).stdout == f"migrations applied: {MIGRATIONS - 1}\n"


def test_a_missing_migration_is_applied_although_later_ones_were_applied(new_database_url: str) -> None:
    """As after another branch of the code, with as many migrations of its own, was tried."""
    run_piccolo(ROOT, new_database_url, "forwards", "shared", TABLES)
    with Database(new_database_url) as database:
        database.rows("INSERT INTO migration (name, app_name) VALUES ('of another branch', 'shared')")
        missing = run_migrate(new_database_url)
        assert (missing.returncode, missing.stdout) == (0, f"migrations applied: {MIGRATIONS - 1}\n")
        assert run_migrate(new_database_url).stdout == "migrations applied: 0\n"


def test_migrating_again_keeps_stored_data(new_database_url: str) -> None:
    """Migrations are applied once."""
    assert run_migrate(new_database_url).returncode == 0
    with Database(new_database_url) as database:
        database.add_services()
        before = database.counts()
        assert run_migrate(new_database_url).returncode == 0
        assert database.counts() == before


def test_migrating_an_unusable_database_fails_with_one_line(tmp_path: Path, postgres_url: str) -> None:
    """Exit status 1, so that a supervisor waits or stops."""
    name = urlsplit(postgres_url).path
    for url, reason in (
        (f"postgresql://nobody@/orders?host={tmp_path}", ""),
        (postgres_url.replace(name, "/nowhere"), 'database "nowhere" does not exist'),
        (re.sub("//[^@/]*@", "//nobody@", postgres_url), 'role "nobody" does not exist'),
    ):
        assert_failed_in_one_line(run_migrate(url), reason)


def assert_failed_in_one_line(done: subprocess.CompletedProcess[str], reason: str) -> None:
    """Check that it ended with one line that says why."""
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("migrate: ")
    assert reason in line


def test_migrating_a_database_that_is_starting_up_fails_with_one_line() -> None:
    """PostgreSQL answers SQLSTATE 57P03 while it recovers after a crash."""

    def refuse(listener: socket.socket) -> None:
        for _ in range(2):  # the client first asks for TLS, which this server does not support
            connection, _ = listener.accept()
            with connection:
                while length := int.from_bytes(connection.recv(4), "big"):
                    if connection.recv(length - 4)[:4] == TLS_REQUEST:
                        connection.sendall(b"N")
                        continue
                    text = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
                    connection.sendall(b"E" + (len(text) + 4).to_bytes(4, "big") + text)
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=refuse, args=(listener,), daemon=True)
        server.start()
        done = run_migrate(f"postgresql://orders@127.0.0.1:{listener.getsockname()[1]}/orders")
        server.join(5)
    assert_failed_in_one_line(done, "the database system is starting up")


def test_the_migrations_create_the_tables_that_the_code_describes(tmp_path: Path, postgres_url: str) -> None:
    """Piccolo's generator, run on a copy, finds nothing to add."""
    shutil.copy(ROOT / "piccolo_conf.py", tmp_path)
    shutil.copytree(ROOT / "shared", tmp_path / "shared", ignore=shutil.ignore_patterns("__pycache__"))
    migrations = tmp_path / "shared" / "database" / "migrations"
    before = set(migrations.glob("shared_*.py"))
    assert "No changes detected" in run_piccolo(tmp_path, postgres_url, "new", "shared", "--auto")
    assert set(migrations.glob("shared_*.py")) == before
