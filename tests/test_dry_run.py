"""POST /orders?dry_run=true: every check of a create, and nothing stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import NOON, later, order_body
from tests.drivers import at_once

if TYPE_CHECKING:
    import httpx

    from tests.drivers import Api, Database


def dry_run(api: Api, **fields: Any) -> httpx.Response:
    """Send a dry run of an order."""
    return api.client.post("/orders?dry_run=true", json=order_body(**fields))


def test_a_dry_run_returns_the_order_as_a_create_would_store_it(api: Api, database: Database) -> None:
    """Without what only a stored order has: an id from the server, version, timestamps, location."""
    counts = database.counts()
    answer = dry_run(api, id=7, services=(456, "123"), fee=99.5, calendar="crew-1")
    assert answer.status_code == 200
    assert "location" not in answer.headers
    assert "etag" not in answer.headers
    assert database.counts() == counts
    stored = api.placed_order(id=7, services=(456, "123"), fee=99.5, calendar="crew-1")
    assert stored.keys() - answer.json().keys() == {"status", "version", "created_at", "updated_at"}
    assert {name: stored[name] for name in answer.json()} == answer.json()


def test_a_dry_run_returns_no_server_assigned_id(api: Api) -> None:
    """Another order may get that id before this one is created."""
    assert dry_run(api).json()["id"] is None


def test_a_dry_run_stores_nothing(api: Api, database: Database) -> None:
    """No calendar, no claimed id, no change; the place and the id stay free."""
    counts = database.counts()
    for _ in range(3):
        assert dry_run(api, id=7, calendar="new").status_code == 200
    assert database.counts() == counts
    assert api.client.get("/orders/7").status_code == 404


REFUSALS: dict[str, dict[str, Any]] = {
    "too close": {"at": later(hours=2)},
    "too close on both sides": {"at": later(hours=4)},
    "the id is taken": {"id": 5, "at": later(days=2)},
    "the id of a deleted order": {"id": 6, "at": later(days=2)},
    "an unknown service": {"services": (123, 999)},
    "an archived service": {"services": (789,), "at": later(days=2)},
    "an invalid fee": {"fee": -1},
    "an unknown field": {"more": 1},
}


@pytest.mark.parametrize("fields", REFUSALS.values(), ids=REFUSALS)
def test_a_dry_run_is_refused_with_the_same_problem_as_a_create(
    api: Api, database: Database, fields: dict[str, Any]
) -> None:
    """With conflicts, nearest datetimes and pointers."""
    api.placed_order(id=5, at=NOON)
    api.placed_order(id=6, at=later(hours=6))
    api.placed_order(id=8, at=later(hours=6, days=1))
    api.client.delete("/orders/6")
    api.placed_order(at=later(hours=6))
    api.client.delete("/services/789")
    counts = database.counts()
    dry, real = dry_run(api, **fields), api.place_order(**fields)
    assert dry.status_code == real.status_code >= 400
    shown = [{**answer.json(), "request_id": None} for answer in (dry, real)]
    assert shown[0] == shown[1]
    assert database.counts() == counts


def test_a_create_with_dry_run_false_stores_the_order(api: Api) -> None:
    """It does what a create without the parameter does."""
    answer = api.client.post("/orders?dry_run=false", json=order_body())
    assert answer.status_code == 201
    assert api.client.get(answer.headers["location"]).status_code == 200


def test_concurrent_dry_runs_never_conflict(api: Api, database: Database) -> None:
    """Neither with each other nor with a create."""
    answers = at_once([lambda: dry_run(api, at=NOON)] * 12)
    assert {answer.status_code for answer in answers} == {200}
    creates = [lambda: api.place_order(at=NOON)]
    mixed = at_once([*[lambda: dry_run(api, at=NOON)] * 6, *creates, *[lambda: dry_run(api, at=NOON)] * 6])
    assert mixed[6].status_code == 201
    assert {answer.status_code for answer in mixed} <= {200, 201, 409}
    assert database.counts()["orders"] == 1
