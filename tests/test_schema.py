"""``shared/database/schema.sql`` documents the schema; here it is compared with what the migrations make."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.catalogue import catalogue, stored_rows
from tests.drivers import Database
from tests.processes import ROOT, migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = (ROOT / "shared" / "database" / "schema.sql").read_text(encoding="utf-8")


@pytest.fixture
def documented(new_database_url: str) -> Iterator[Database]:
    """A database that schema.sql made."""
    with Database(new_database_url) as database:
        database.run_script(SCHEMA)
        yield database


@pytest.fixture
def migrated(documented: Database) -> Iterator[Database]:
    """A database that the migrations made."""
    name = f"{documented.value('SELECT current_database()')}_migrated"
    documented.rows(f"CREATE DATABASE {name}")
    url = re.sub(r"/\w+\?", f"/{name}?", documented.url)
    migrate(url)
    with Database(url) as database:
        yield database


def test_the_documented_schema_is_the_one_that_the_migrations_make(
    documented: Database, migrated: Database
) -> None:
    """Compared by PostgreSQL's catalogues, and by the rows that both begin with."""
    assert catalogue(documented) == catalogue(migrated)
    assert stored_rows(documented) == stored_rows(migrated)


def test_a_difference_of_any_kind_between_two_schemas_is_noticed(documented: Database) -> None:
    """Each of these statements shows in the catalogue or in the rows, and is rolled back."""
    as_documented = catalogue(documented), stored_rows(documented)
    for change in (
        "ALTER TABLE orders ADD COLUMN another text",
        "ALTER TABLE orders ALTER COLUMN version DROP DEFAULT",
        "ALTER TABLE orders ALTER COLUMN version DROP NOT NULL",
        "ALTER TABLE fee_summary ALTER COLUMN share TYPE numeric(14, 2)",
        "ALTER TABLE orders ALTER COLUMN service_ids SET STATISTICS 500",
        "ALTER TABLE orders SET (fillfactor = 80)",
        "ALTER TABLE orders DROP CONSTRAINT orders_spacing",
        "ALTER TABLE orders DROP CONSTRAINT orders_version",
        "ALTER TABLE orders DISABLE TRIGGER orders_record_creation",
        "ALTER TABLE webhook ALTER COLUMN id SET GENERATED ALWAYS",
        "ALTER SEQUENCE orders_id_seq START WITH 1",
        "ALTER SEQUENCE orders_id_seq OWNED BY NONE",
        "SELECT nextval('order_import_id_seq')",
        "COMMENT ON TABLE orders IS 'a comment'",
        "CREATE INDEX ON orders (totalfee)",
        "CREATE STATISTICS ON calendar_id, datetime FROM orders",
        "CREATE TABLE another (id int)",
        "CREATE EXTENSION citext",
        "DROP TRIGGER orders_forget_ordered_services ON orders",
        "CREATE FUNCTION another() RETURNS int LANGUAGE sql RETURN 1",
        "ALTER FUNCTION order_json(orders) PARALLEL UNSAFE",
        "DELETE FROM change_log",
        "UPDATE consumer_cursor SET position = 1",
    ):
        documented.rows("BEGIN")
        documented.rows(change)
        assert (catalogue(documented), stored_rows(documented)) != as_documented, change
        documented.rows("ROLLBACK")


def test_every_file_that_the_documented_schema_names_exists() -> None:
    """When a file is moved, schema.sql must name its new path."""
    named = set(re.findall(r"\b(?:api|shared|worker|tests)(?:/\w+)*/\w+\.\w+", SCHEMA))
    assert "api/orders/commands.py" in named
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []
