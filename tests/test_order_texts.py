"""Each order's text is stored with it: one entity tag always means the same bytes, also after an upgrade."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from api.http.times import utc_text
from tests.builders import later, order_body, tags
from tests.drivers import Api, Database
from tests.processes import ROOT, call_command
from tests.serving import serving
from tests.test_migrations import run_migrate, run_piccolo

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = (ROOT / "shared" / "database" / "schema.sql").read_text(encoding="utf-8")

EARLIER = "2026-11-29T09:00:00:000000"
"""The last migration of the release that stored no texts."""

COLUMNS = "2026-11-29T12:00:00:000000"
"""The migration that adds them."""

PLACE = """
INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
SELECT timestamptz '2030-01-01Z' + n * interval '3 hours', n / 100.0, '{123}', '{Inspection}', 1
FROM generate_series(1, $1::int) AS n
"""
UNLIKE = "SELECT count(*) FROM orders AS o WHERE rendered::text IS DISTINCT FROM order_json(o)::text"

RENDER_ANEW = "UPDATE orders SET format = order_format() WHERE format <> order_format()"
NEXT_FORMAT = "CREATE OR REPLACE FUNCTION order_format() RETURNS int LANGUAGE sql IMMUTABLE RETURN 3"


# --- orders that an earlier release stored ----------------------------------------------------------------


@pytest.fixture
def earlier(new_database_url: str) -> Iterator[Database]:
    """A database of the release before, with 4,500 orders."""
    run_piccolo(ROOT, new_database_url, "forwards", "shared", EARLIER)
    with Database(new_database_url) as database:
        database.add_services()
        database.rows("INSERT INTO calendar (id, name) VALUES (1, 'default')")
        database.rows(PLACE, 4_500)
        yield database


def test_orders_that_exist_get_their_texts_and_no_change_is_recorded(earlier: Database) -> None:
    """Their versions and changes stay as they are."""
    versions = earlier.rows("SELECT id, version, updated_at FROM orders ORDER BY id")
    changes = earlier.rows("SELECT * FROM order_change ORDER BY id")
    assert run_migrate(earlier.url).returncode == 0
    assert earlier.rows("SELECT id, version, updated_at FROM orders ORDER BY id") == versions
    later_changes = earlier.rows("SELECT * FROM order_change ORDER BY id")
    assert [{name: change[name] for name in changes[0]} for change in later_changes] == changes
    assert earlier.value(UNLIKE) == 0
    last = "SELECT count(*) FROM orders AS o JOIN order_change AS c ON c.order_id = o.id"
    new_members = "'{reference,metadata,status}'::text[]"
    unchanged = f"{last} WHERE c.order_state::jsonb = o.rendered::jsonb - {new_members}"
    assert earlier.value(unchanged) == 4_500


def test_orders_are_written_while_others_still_have_no_text(earlier: Database) -> None:
    """Whatever is changed or deleted between the first migration and the last is recorded as always."""
    run_piccolo(ROOT, earlier.url, "forwards", "shared", COLUMNS)
    first, second, third = (row["id"] for row in earlier.rows("SELECT id FROM orders ORDER BY id LIMIT 3"))
    earlier.rows("UPDATE orders SET totalfee = 7, version = version + 1 WHERE id = $1", first)
    earlier.rows("DELETE FROM orders WHERE id = $1", second)
    assert earlier.value("SELECT rendered FROM orders WHERE id = $1", third) is None
    assert run_migrate(earlier.url).returncode == 0
    assert earlier.value(UNLIKE) == 0
    changes = earlier.rows(
        "SELECT type, order_state ->> 'totalfee' AS fee, previous_state ->> 'totalfee' AS before "
        "FROM order_change WHERE order_version = 2 ORDER BY order_id"
    )
    assert changes == [
        {"type": "order.updated", "fee": "7.00", "before": "0.01"},
        {"type": "order.deleted", "fee": None, "before": "0.02"},
    ]


# --- what the database refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("UPDATE orders SET totalfee = 7", asyncpg.RaiseError),
        ("UPDATE calendar SET name = 'other'", asyncpg.RaiseError),
        ("DELETE FROM calendar", asyncpg.RaiseError),
        ("TRUNCATE calendar", asyncpg.RaiseError),
        ("UPDATE orders SET calendar_id = 77, version = version + 1", asyncpg.ForeignKeyViolationError),
    ],
)
def test_no_statement_can_make_a_text_untrue(
    api: Api, database: Database, statement: str, error: type[Exception]
) -> None:
    """Not even one that is typed by hand: a change without a version, or a calendar's name."""
    stored = api.placed_order()
    with pytest.raises(error):
        database.rows(statement)
    assert api.client.get(f"/orders/{stored['id']}").json() == stored


def test_calendars_can_be_truncated_together_with_their_orders(api: Api, database: Database) -> None:
    """As an operator does who empties a database."""
    api.placed_order()
    database.rows("TRUNCATE calendar, orders")
    assert database.value("SELECT count(*) FROM calendar") == 0


def test_a_text_that_is_typed_by_hand_is_rendered_anew(api: Api, database: Database) -> None:
    """Nobody sees anything but what the row says."""
    stored = api.placed_order()
    database.rows("UPDATE orders SET rendered = '{}', version = version + 1")
    assert api.client.get(f"/orders/{stored['id']}").json() == {
        **stored,
        "version": 2,
        "updated_at": utc_text(database.value("SELECT updated_at FROM orders")),
    }


# --- a release that shows a new member --------------------------------------------------------------------


@pytest.fixture
def upgradable(new_database_url: str, redis_url: str) -> Iterator[tuple[Api, Database]]:
    """An API with an order, on a database of its own."""
    assert run_migrate(new_database_url).returncode == 0
    with (
        serving(database=new_database_url, redis=redis_url) as (api, _),
        Database(new_database_url) as database,
    ):
        database.add_services()
        api.placed_order(id=5)
        yield api, database


def show_a_note(database: Database) -> None:
    """Add a member to the text of orders, as a migration would."""
    database.rows("ALTER TABLE orders ADD COLUMN note text")
    (function,) = re.findall(r"CREATE FUNCTION (order_json\(.+?\n\);)\n", SCHEMA, re.DOTALL)
    shown = "o.version AS version,"
    assert shown in function
    database.rows(f"CREATE OR REPLACE FUNCTION {function.replace(shown, f'{shown} o.note,')}")


def test_a_new_member_gives_every_order_another_tag(upgradable: tuple[Api, Database]) -> None:
    """A caller who has the order as it was is not told that it is unchanged."""
    api, database = upgradable
    before, changes = api.client.get("/orders/5"), database.everything()["order_change"]
    assert before.headers["etag"] == tags('"1"')
    show_a_note(database)
    database.rows(NEXT_FORMAT)
    database.rows(RENDER_ANEW)

    known: Any = {"If-None-Match": before.headers["etag"]}
    after = api.client.get("/orders/5", headers=known)
    assert after.status_code == 200
    assert after.json() == {**before.json(), "note": None}
    assert after.headers["etag"] == '"30000000001"'
    assert api.client.get("/orders/5", headers={"If-None-Match": '"30000000001"'}).status_code == 304
    # What was said of it remains as it was said.
    assert database.everything()["order_change"] == changes

    change = {"totalfee": 7}
    refused = api.client.patch("/orders/5", json=change, headers={"If-Match": tags('"1"')})
    assert refused.status_code == 412
    assert refused.headers["etag"] == '"30000000001"'
    changed = api.client.patch("/orders/5", json=change, headers={"If-Match": '"30000000001"'})
    assert changed.status_code == 200
    assert changed.headers["etag"] == '"30000000002"'


def test_a_create_repeated_after_an_upgrade_has_its_old_text_with_its_old_tag(
    upgradable: tuple[Api, Database],
) -> None:
    """And one that is new has a new tag."""
    api, database = upgradable
    key = {"Idempotency-Key": "k"}
    first = api.client.post("/orders", json=order_body(at=later(days=1)), headers=key)
    assert first.status_code == 201
    show_a_note(database)
    database.rows(NEXT_FORMAT)
    database.rows(RENDER_ANEW)
    repeated = api.client.post("/orders", json=order_body(at=later(days=1)), headers=key)
    assert (repeated.content, repeated.headers["etag"]) == (first.content, tags('"1"'))
    new = api.client.post("/orders", json=order_body(at=later(days=2)), headers={"Idempotency-Key": "n"})
    assert (new.json()["note"], new.headers["etag"]) == (None, '"30000000001"')


def test_rendering_anew_without_another_format_is_refused(upgradable: tuple[Api, Database]) -> None:
    """So that a migration can't forget it."""
    _, database = upgradable
    show_a_note(database)
    with pytest.raises(asyncpg.RaiseError, match="one entity tag would mean two texts"):
        database.rows("UPDATE orders SET format = 2")


def test_orders_that_were_not_rendered_anew_are_found_by_the_proof(upgradable: tuple[Api, Database]) -> None:
    """Each is named, and the exit status is 1."""
    api, database = upgradable
    api.placed_order(id=6, at=later(days=1))
    show_a_note(database)
    found = call_command("oms", "verify", "texts", database=database.url)
    assert found.returncode == 1
    assert found.stdout.splitlines() == [
        f"order {order_id}: its stored text is not what its row says" for order_id in (5, 6)
    ]
    assert found.stderr == "verify: 2 of 2 orders have texts that their rows do not say\n"
    database.rows(NEXT_FORMAT)
    database.rows(RENDER_ANEW)
    proved = call_command("oms", "verify", "texts", database=database.url)
    assert (proved.returncode, proved.stderr) == (0, "")
    assert proved.stdout == "every order's stored text is what its row says: 2 orders\n"
