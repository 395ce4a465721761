"""`make verify` proves the spacing of orders without the constraint that enforces it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.builders import MILLISECOND, later
from tests.processes import call_command

if TYPE_CHECKING:
    from tests.drivers import Api, Database

# As if the triggers had failed: with them, neither can be written.
WITHOUT_TRIGGERS = "SET session_replication_role = replica"
WITH_TRIGGERS = "SET session_replication_role = origin"


@pytest.fixture
def placed(api: Api, database: Database) -> list[int]:
    """Orders on calendars with spacings of their own, one of them cancelled, and two of one import."""
    for calendar, spacing in (("short", "PT10M"), ("long", "P2D"), ("empty", "P7D")):
        assert api.client.put(f"/calendars/{calendar}", json={"spacing": spacing}).status_code == 201
    for number, (calendar, minutes) in enumerate(
        (("short", 0), ("short", 10), ("long", 0), ("long", 2880), ("default", 0), ("default", 180)), 1
    ):
        api.placed_order(id=number, calendar=calendar, at=later(minutes=minutes))
    database.rows("UPDATE orders SET status = 'cancelled', version = version + 1 WHERE id = 2")
    api.placed_order(id=7, calendar="short", at=later(minutes=12))
    database.rows(
        """
        INSERT INTO orders (id, datetime, totalfee, service_ids, service_names, calendar_id, import_id)
        SELECT n, $1::timestamptz + n * interval '1 minute', 1, '{123}', '{Inspection}', id, 99999
        FROM calendar, generate_series(10, 11) AS n WHERE name = 'long'
        """,
        later(days=30),
    )
    return [1, 2, 3, 4, 5, 6, 7, 10, 11]


def test_orders_that_keep_their_calendars_spacings_are_proved(database: Database, placed: list[int]) -> None:
    """Cancelled orders and those of one import may be near others."""
    proof = call_command("oms", "verify", "places", database=database.url)
    assert (proof.returncode, proof.stderr) == (0, "")
    assert proof.stdout == f"every booked order keeps its calendar's spacing: {len(placed)} orders\n"


@pytest.mark.usefixtures("placed")
def test_each_order_that_does_not_is_named(database: Database) -> None:
    """From datetimes alone; and ``clear_until``, which the constraint compares, is checked by itself."""
    database.rows(WITHOUT_TRIGGERS)
    database.rows("UPDATE orders SET clear_until = clear_until - interval '1 second' WHERE id = 6")
    database.rows("UPDATE orders SET clear_until = datetime + interval '1 second' WHERE id = 2")
    nearer = later(days=2) - MILLISECOND
    database.rows("UPDATE orders SET clear_until = $1, datetime = $1 WHERE id = 4", nearer)
    database.rows(WITH_TRIGGERS)
    proof = call_command("oms", "verify", "places", database=database.url)
    assert proof.returncode == 1
    wrong = "its clear_until is not what its datetime and its calendar's spacing say"
    assert sorted(proof.stdout.splitlines()) == [
        *(f"order {order_id}: {wrong}" for order_id in (2, 4, 6)),
        "orders 3 and 4: nearer than the spacing of calendar long",
    ]
    assert proof.stderr == "verify: 4 faults in the places of 9 orders on their calendars\n"
    database.rows(WITHOUT_TRIGGERS)
    database.rows("UPDATE calendar SET spacing_seconds = 780 WHERE name = 'short'")
    database.rows(WITH_TRIGGERS)
    changed = call_command("oms", "verify", "places", database=database.url)
    assert "orders 1 and 7: nearer than the spacing of calendar short" in changed.stdout
