"""The migration that brings stored orders, services and calendars to the rules for their values."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import NOON, later
from tests.drivers import Database
from tests.processes import ROOT
from tests.test_migrations import RULES, run_migrate, run_piccolo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

PLACE = """
INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id, import_id)
VALUES ($1, 100, '{123}', '{Inspection}', $2, coalesce($3::bigint, nextval('order_import_id_seq')))
RETURNING id
"""


@pytest.fixture(scope="module")
def copies(postgres_url: str) -> Iterator[Callable[[], str]]:
    """Copies of a database of the release before, with two calendars: migrating each from nothing is slow."""
    with Database(postgres_url) as server:
        own = server.value("SELECT current_database()")
        names = [f"before_{own}"]
        server.rows(f"CREATE DATABASE {names[0]}")
        url = postgres_url.replace(own, names[0])
        run_piccolo(ROOT, url, "forwards", "shared", RULES)
        with Database(url) as database:
            database.add_services()
            database.rows("INSERT INTO calendar (id, name) VALUES (1, 'default'), (2, 'crew-1')")

        def copy() -> str:
            names.append(f"{names[0]}_{len(names)}")
            server.rows(f"CREATE DATABASE {names[-1]} TEMPLATE {names[0]}")
            return postgres_url.replace(own, names[-1])

        yield copy
        for name in names:
            server.rows(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def earlier(copies: Callable[[], str]) -> Iterator[Database]:
    """A database of the release before, with two calendars."""
    with Database(copies()) as database:
        yield database


def migrated(database: Database) -> str:
    """Run the migration; return what it printed as an error."""
    done = run_migrate(database.url)
    assert (done.returncode == 0) == (done.stderr == ""), done.stderr
    return done.stderr


def orders(database: Database) -> dict[int, dict[str, Any]]:
    """Return the orders by id."""
    return {row["id"]: row for row in database.rows("SELECT * FROM orders")}


def floor(at: datetime) -> datetime:
    """Return the millisecond that a datetime is in."""
    return at.replace(microsecond=at.microsecond // 1_000 * 1_000)


@pytest.mark.parametrize("seed", range(2))
def test_stored_datetimes_are_rounded_down_to_the_millisecond_as_changes(
    earlier: Database, seed: int
) -> None:
    """Orders three hours apart stay so; each that moves has a new version, and a change in the log."""
    rng = random.Random(seed)
    at, placed = NOON, {}
    for n in range(300):
        order = earlier.value(PLACE, at, n % 2 + 1, None)
        placed[order] = at
        if n % 2:
            at += timedelta(hours=3, microseconds=rng.choice((0, 0, 1, 999, rng.randrange(3_000))))
    imported = [earlier.value(PLACE, at + timedelta(days=1, microseconds=n), 1, 10**6) for n in (1, 1001, 1)]
    history = earlier.rows("SELECT * FROM order_change ORDER BY id")
    assert migrated(earlier) == ""
    now = orders(earlier)
    for order, before in placed.items():
        assert now[order]["datetime"] == floor(before)
        assert now[order]["version"] == (1 if floor(before) == before else 2)
    assert {now[order]["version"] for order in imported} == {2}
    assert earlier.too_close_pairs() == []
    changes = earlier.rows("SELECT * FROM order_change ORDER BY id")
    assert [{name: change[name] for name in history[0]} for change in changes[: len(history)]] == history
    moved = {order for order, row in now.items() if row["version"] == 2}
    assert {change["order_id"] for change in changes[len(history) :]} == moved
    for change in changes[len(history) :]:
        # Without the members that later migrations add.
        shown = earlier.value(
            "SELECT (order_json(o)::jsonb - '{reference,metadata,status}'::text[])::text "
            "FROM orders AS o WHERE id = $1",
            change["order_id"],
        )
        recorded = json.loads(change["order_state"])
        assert (change["type"], change["order_version"], recorded) == ("order.updated", 2, json.loads(shown))
    assert (
        earlier.rows(
            "SELECT FROM ordered_service AS s JOIN orders AS o ON o.id = s.order_id "
            "WHERE o.datetime <> s.datetime"
        )
        == []
    )


def test_afterwards_the_database_refuses_more_digits(earlier: Database) -> None:
    """However an order is written."""
    assert migrated(earlier) == ""
    earlier.rows(PLACE, later(milliseconds=1), 1, None)
    for microseconds in (1, 999, 500, 1001):
        with pytest.raises(Exception, match="orders_datetime_milliseconds"):
            earlier.rows(PLACE, later(days=1, microseconds=microseconds), 1, None)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["Survey", "\uff33urvey"],
            "services whose names differ only in case or in the form of letters: 1 and 2. ",
        ),
        (["Stra\u00dfe", "strasse", "STRASSE \u2460", "Strasse 1"], "of letters: 1 and 2; 3 and 4. "),
        (["a\u200bb", "ok", "\u3000"], "with characters in their names that can't be seen: 1, 3. "),
    ],
    ids=ascii,
)
def test_services_that_break_the_rules_for_names_are_listed_and_nothing_is_changed(
    earlier: Database, names: list[str], message: str
) -> None:
    """One line says which, and what to do; once they are renamed, the migration is applied."""
    earlier.rows(PLACE, later(microseconds=7), 1, None)
    for n, name in enumerate(names, 1):
        earlier.rows("INSERT INTO service (id, name) VALUES ($1, $2)", n, name)
    before = earlier.everything()
    error = migrated(earlier)
    (line,) = [line for line in error.splitlines() if line.startswith("migrate: ")]
    assert message in line
    assert "UPDATE service SET name = '…' WHERE id = …" in line
    after = earlier.everything()
    for table in ("orders", "order_change", "service", "calendar"):
        assert after[table] == before[table]
    for n, name in enumerate(names, 1):
        earlier.rows(
            "UPDATE service SET name = $2 WHERE id = $1", n, f"{name.encode('ascii', 'ignore').decode()} {n}"
        )
    assert migrated(earlier) == ""


def test_archived_services_may_share_a_name(earlier: Database) -> None:
    """As before."""
    for n in (1, 2):
        earlier.rows("INSERT INTO service (id, name, archived_at) VALUES ($1, 'Survey', now())", n)
    assert migrated(earlier) == ""


def test_calendars_whose_names_differ_only_in_case_stay_and_no_more_are_made(earlier: Database) -> None:
    """They can't be renamed, so both keep their orders; a third is refused."""
    earlier.rows(
        "INSERT INTO calendar (id, name) VALUES (3, 'CREW-1'), (4, 'Crew-1'), (5, 'North'), (6, 'NORTH')"
    )
    assert migrated(earlier) == ""
    variants = earlier.rows("SELECT name FROM calendar WHERE is_case_variant ORDER BY name")
    assert [row["name"] for row in variants] == ["CREW-1", "Crew-1", "NORTH"]
    earlier.rows(PLACE, NOON, 4, None)
    for name in ("crew-1", "cREW-1", "north", "Default"):
        with pytest.raises(Exception, match="calendar_name"):
            earlier.rows("INSERT INTO calendar (id, name) VALUES (9, $1)", name)
