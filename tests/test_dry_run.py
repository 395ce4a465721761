"""``?dry_run=true`` on every write of orders: the answer that the write would give, and nothing stored."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import NOON, later, order_body, text_of
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
    assert stored.keys() - answer.json().keys() == {"version", "created_at", "updated_at"}
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


# --- every other write -------------------------------------------------------------------------------

NEW = order_body(at=later(days=9), calendar="new")

WRITES: dict[str, tuple[str, str, Any]] = {
    "create": ("POST", "/orders", NEW),
    "create with an id": ("POST", "/orders", {**NEW, "id": 77}),
    "create many": ("POST", "/orders/batch", {"orders": [NEW, {**NEW, "id": 77, "calendar": "b"}]}),
    "replace": ("PUT", "/orders/5", order_body(at=later(days=3), fee=7, reference="new")),
    "change": ("PATCH", "/orders/5", {"totalfee": 7, "metadata": {"a": "b"}}),
    "change nothing": ("PATCH", "/orders/5", {"totalfee": 100}),
    "move to a new calendar": ("PATCH", "/orders/5", {"calendar": "new"}),
    "delete": ("DELETE", "/orders/5", None),
    "cancel": ("POST", "/orders/5/cancel", {"reason": "a"}),
    "reinstate": ("POST", "/orders/6/reinstate", None),
    "swap": (
        "PATCH",
        "/orders/batch",
        {
            "orders": [
                {"id": 5, "datetime": text_of(later(hours=3)), "reference": "B"},
                {"id": 7, "datetime": text_of(NOON), "reference": "A"},
            ]
        },
    ),
    "cancel many": ("POST", "/orders/batch/cancel", {"orders": [{"id": 5}, {"id": 7}]}),
    "delete many": ("POST", "/orders/batch/delete", {"orders": [{"id": 5}, {"id": 6}]}),
    "create near another": ("POST", "/orders", order_body(at=later(hours=1))),
    "create many near others": ("POST", "/orders/batch", {"orders": [NEW, order_body(at=later(hours=1))]}),
    "move near another": ("PATCH", "/orders/5", {"datetime": text_of(later(hours=4))}),
    "take a reference": ("PATCH", "/orders/5", {"reference": "B"}),
    "change a cancelled one": ("PATCH", "/orders/6", {"totalfee": 7}),
    "another status": ("PATCH", "/orders/5", {"status": "cancelled"}),
    "delete an unknown one": ("DELETE", "/orders/9", None),
    "change many, some wrongly": (
        "PATCH",
        "/orders/batch",
        {"orders": [{"id": 5, "totalfee": 7}, {"id": 9}]},
    ),
    "delete many, some unknown": ("POST", "/orders/batch/delete", {"orders": [{"id": 5}, {"id": 9}]}),
}
NOT_SHOWN = ("version", "created_at", "updated_at", "request_id", "status")
"""What only a stored order has, or what is another at each request."""


def _prepare(api: Api) -> None:
    api.placed_order(id=5, reference="A")
    api.placed_order(id=7, at=later(hours=3), reference="B")
    api.placed_order(id=6, at=later(hours=6))
    api.client.post("/orders/6/cancel")


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return [_shown(item) for item in value]
    if not isinstance(value, dict):
        return value
    shown = {name: _shown(item) for name, item in value.items() if name not in NOT_SHOWN}
    given = shown.get("id") is not None and int(shown["id"]) >= 10**15
    return shown | ({"id": None} if given else {})


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_dry_run_of_each_write_answers_as_the_write_and_changes_nothing(
    api: Api, database: Database, write: tuple[str, str, Any]
) -> None:
    """Not one row: neither orders nor calendars, ids, changes or places."""
    _prepare(api)
    method, path, body = write
    before = database.everything()
    dry = api.client.request(method, f"{path}?dry_run=true", json=body)
    assert database.everything() == before
    real = api.client.request(method, path, json=body)
    assert dry.status_code == (200 if real.status_code == 201 else real.status_code)
    assert "etag" not in dry.headers
    assert "location" not in dry.headers
    if real.content:
        assert _shown(dry.json()) == _shown(real.json())
    else:
        assert dry.content == b""
    if method != "POST" and real.status_code == 200 and path != "/orders/batch":
        assert dry.json()["version"] == real.json()["version"]


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_with_dry_run_false_is_carried_out(api: Api, write: tuple[str, str, Any]) -> None:
    """It does what it does without the parameter."""
    _prepare(api)
    method, path, body = write
    answer = api.client.request(method, f"{path}?dry_run=false", json=body)
    stored = answer.status_code in (200, 201, 204)
    again = api.client.request(method, path, json=body)
    assert stored or (again.status_code, again.json()["type"]) == (answer.status_code, answer.json()["type"])


@pytest.mark.parametrize("write", [WRITES["create"], WRITES["create many"], WRITES["cancel many"]])
def test_a_dry_run_neither_uses_up_its_key_nor_answers_from_it(
    api: Api, database: Database, write: tuple[str, str, Any]
) -> None:
    """It is checked against what is stored now, also after the write that the key was used for."""
    _prepare(api)
    method, path, body = write
    key = {"Idempotency-Key": "k"}
    dry_path = f"{path}?dry_run=true"
    before = database.everything()
    assert api.client.request(method, dry_path, json=body, headers=key).status_code == 200
    assert database.everything() == before
    real = api.client.request(method, path, json=body, headers=key)
    assert real.is_success
    assert "idempotency-replayed" not in real.headers
    again = api.client.request(method, dry_path, json=body, headers=key)
    without_key = api.client.request(method, dry_path, json=body)
    assert "idempotency-replayed" not in again.headers
    assert (again.status_code, _shown(again.json())) == (without_key.status_code, _shown(without_key.json()))
    assert api.client.request(method, dry_path, json=body, headers={"Idempotency-Key": ""}).status_code == 400


def test_dry_runs_of_moves_to_one_place_never_conflict(api: Api, database: Database) -> None:
    """Each leaves it free for the next."""
    orders = [api.placed_order(at=later(days=day)) for day in range(1, 7)]
    to_noon = {"datetime": text_of(NOON)}
    answers = at_once(
        partial(api.client.patch, f"/orders/{order['id']}?dry_run=true", json=to_noon) for order in orders * 2
    )
    assert {answer.status_code for answer in answers} == {200}
    assert database.value("SELECT max(version) FROM orders") == 1
