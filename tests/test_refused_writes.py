"""A refused write leaves nothing behind: not a row in any table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import later, order_body
from tests.drivers import Database

if TYPE_CHECKING:
    from tests.drivers import Api

NEW = "a-calendar-never-used"

REFUSED: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "too close": ("POST", "/orders", order_body(), 409),
    "too close with an id": ("POST", "/orders", order_body(id=77), 409),
    "id taken": ("POST", "/orders", order_body(id=5, at=later(days=9)), 409),
    "id taken on a new calendar": ("POST", "/orders", order_body(id=5, calendar=NEW), 409),
    "id of a deleted order": ("POST", "/orders", order_body(id=7, at=later(days=9), calendar=NEW), 409),
    "unknown service": ("POST", "/orders", order_body(id=77, services=(123, 999), at=later(days=9)), 422),
    "unknown service on a new calendar": ("POST", "/orders", order_body(services=(999,), calendar=NEW), 422),
    "archived service": ("POST", "/orders", order_body(id=77, services=(456,), calendar=NEW), 422),
    "bad fee": ("POST", "/orders", order_body(id=77, fee=-1, calendar=NEW), 422),
    "bad field": ("POST", "/orders", order_body(id=77, colour="red", calendar=NEW), 422),
    "PUT too close": ("PUT", "/orders/5", order_body(at=later(days=1)), 409),
    "PUT too close elsewhere": ("PUT", "/orders/5", order_body(calendar="crew-1"), 409),
    "PUT of an unknown order": ("PUT", "/orders/77", order_body(calendar=NEW), 404),
    "PUT of a deleted order": ("PUT", "/orders/7", order_body(at=later(days=9), calendar=NEW), 404),
    "PUT of an unknown service": ("PUT", "/orders/5", order_body(services=(999,), calendar=NEW), 422),
    "PUT of an archived service": ("PUT", "/orders/5", order_body(services=(456,), calendar=NEW), 422),
    "PUT of another id": ("PUT", "/orders/5", order_body(id=77, calendar=NEW), 422),
    "PATCH too close": ("PATCH", "/orders/5", {"datetime": "2030-06-02T13:00:00Z"}, 409),
    "PATCH to a calendar where it is too close": ("PATCH", "/orders/5", {"calendar": "crew-1"}, 409),
    "PATCH of an unknown order": ("PATCH", "/orders/77", {"calendar": NEW}, 404),
    "PATCH of an unknown service": ("PATCH", "/orders/5", {"services": [{"id": 999}], "calendar": NEW}, 422),
    "PATCH of a bad fee": ("PATCH", "/orders/5", {"totalfee": 0.001, "calendar": NEW}, 422),
    "DELETE of an unknown order": ("DELETE", "/orders/77", {}, 404),
    "DELETE again": ("DELETE", "/orders/7", {}, 404),
    "service name taken": ("POST", "/services", {"name": "Testing"}, 409),
    "service id taken": ("POST", "/services", {"id": 123, "name": "New"}, 409),
    "renaming to a name taken": ("PUT", "/services/123", {"name": "Testing"}, 409),
    "renaming of an unknown service": ("PUT", "/services/999", {"name": "New"}, 404),
    "archiving again": ("DELETE", "/services/456", {}, 404),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refused_write_neither_adds_nor_changes_a_row(api: Api, database: Database, what: str) -> None:
    """All tables are compared before and after."""
    api.placed_order(id=5)
    api.placed_order(id=6, at=later(days=1))
    api.placed_order(id=8, calendar="crew-1")
    api.placed_order(id=7, at=later(days=2))
    api.client.delete("/orders/7")
    api.client.delete("/services/456")
    before = database.everything()
    method, path, body, status = REFUSED[what]
    answer = api.client.request(method, path, json=body or None)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert database.everything() == before


def test_a_write_that_stores_nothing_uses_up_no_calendar_id(api: Api, database: Database) -> None:
    """A sequence takes no number back: after 2**31 dry runs there would be no new calendar."""
    numbers = "SELECT last_value, is_called FROM calendar_id_seq"
    before = database.rows(numbers)
    assert api.client.post("/orders?dry_run=true", json=order_body(calendar=NEW)).status_code == 200
    too_close = [order_body(calendar=NEW), order_body(calendar=NEW, at=later(hours=1))]
    assert api.client.post("/orders/batch", json={"orders": too_close}).status_code == 409
    assert database.rows(numbers) == before
    assert database.counts()["calendar"] == 0
    # Stored calendars use no sequence either: their ids are random, and drawn again when taken.
    for name in (NEW, f"{NEW}-2"):
        api.placed_order(calendar=name)
    assert database.rows(numbers) == before


def test_the_tests_check_and_empty_every_table_of_the_database(database: Database) -> None:
    """New ones too: names come from the database; only tables whose rows the migrations make are listed."""
    database.rows("CREATE TABLE added (id int PRIMARY KEY)")
    try:
        with Database(database.url) as fresh:
            before = fresh.everything()
            fresh.rows("INSERT INTO added VALUES (1)")
            assert fresh.everything() == before | {"added": '[{"id":1}]'}
            assert fresh.counts()["added"] == 1
            assert {"ordered_service", "idempotency_key", "order_import", "change_log"} <= set(before)
            fresh.clean()
            assert set(fresh.counts().values()) == {0}
    finally:
        database.rows("DROP TABLE added")
