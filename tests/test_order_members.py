"""Every member of an order gets through every way in and out: bodies, statements, files, contracts."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from api.orders.bodies import NewOrder, OrderPatch, OrderReplacement
from api.orders.imports.imported_orders import ImportedOrder
from api.orders.lists.exports import CSV_COLUMNS
from api.orders.members import READ_ONLY, SET_WHEN_STORED, SETTABLE, SHOWN
from contract.checks.document import EVENTS, load
from tests.contract_schemas import CONTRACT
from tests.import_steps import import_rows

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers import Api

PLAIN = {
    "datetime": "2030-06-01T12:00:00.000Z",
    "totalfee": 100.0,
    "services": [{"id": "123"}],
    "calendar": "default",
    "reference": None,
    "metadata": {},
}
OTHER = {
    "datetime": "2031-07-02T13:14:15.161Z",
    "totalfee": 99.95,
    "services": [{"id": "456"}, {"id": "789"}],
    "calendar": "crew-7",
    "reference": "PO 4711 / Müller",
    "metadata": {"source": "web", "=note": 'a\n"b", c\\ ü', "empty": ""},
}
"""A value for each member that is neither its default nor that of ``PLAIN``."""

CSV_CELLS = {"services": ("service_ids", "service_names")}
"""Members that are not one cell of their own name."""


def as_sent(order: dict[str, Any]) -> dict[str, Any]:
    """Return what callers can set of an order that was read, in the form that they send."""
    services = [{"id": service["id"]} for service in order["services"]]
    return {name: order[name] for name in SETTABLE} | {"services": services}


def read_back(api: Api, order_id: str) -> dict[str, Any]:
    """Read an order, and return what callers can set of it."""
    return as_sent(api.client.get(f"/orders/{order_id}").json())


def test_every_settable_member_has_a_value_here() -> None:
    """The tests below try only members that they know a value for."""
    assert PLAIN.keys() == OTHER.keys() == set(SETTABLE)


@pytest.mark.parametrize(
    "body",
    [
        NewOrder,
        ImportedOrder,
        OrderReplacement,
        OrderPatch,
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_body_takes_every_member_that_is_shown(body: type[NewOrder | OrderPatch]) -> None:
    """A body with a missing or an extra member would differ from the list."""
    assert set(body.model_fields) == set(SHOWN)


@pytest.mark.parametrize("name", ["NewOrder", "OrderReplacement", "OrderPatch"])
def test_the_contract_takes_every_member_that_is_shown(name: str) -> None:
    """In the schemas of creates, replacements and patches; what is ignored is read-only there."""
    members = CONTRACT.target(f"#/components/schemas/{name}").members("properties")
    assert members.keys() == set(SHOWN)
    compared = {"version"} if name != "NewOrder" else set()  # the status too, but it can't be sent otherwise
    read_only = {member for member, schema in members.items() if schema.get("readOnly") is True}
    assert read_only == set(READ_ONLY) - compared


def test_both_contracts_show_every_member() -> None:
    """An order always has each of them; one that a change recorded may lack newer ones."""
    order = CONTRACT.target("#/components/schemas/Order")
    assert order.members("properties").keys() == set(order.get("required")) == set(SHOWN)
    for contract in (CONTRACT, load(EVENTS)):
        recorded = contract.target("#/components/schemas/RecordedOrder")
        assert recorded.members("properties").keys() == set(SHOWN)
        assert set(recorded.get("required")) < set(SHOWN)


def test_an_order_is_shown_with_every_member(api: Api) -> None:
    """The answer to a create is the order as every reader sees it."""
    assert set(api.placed_order()) == set(SHOWN)


def test_a_preview_shows_what_a_create_would_store(api: Api) -> None:
    """Every member but those that only a stored order has."""
    order = api.client.post("/orders", params={"dry_run": "true"}, json=OTHER).json()
    assert list(order) == [name for name in api.placed_order() if name not in SET_WHEN_STORED]
    assert as_sent(order) == OTHER


def test_a_create_stores_every_member(api: Api) -> None:
    """Read back, each is as it was sent."""
    order = api.client.post("/orders", json=OTHER).json()
    assert read_back(api, order["id"]) == OTHER


def test_a_batch_stores_every_member(api: Api) -> None:
    """Read back, each is as it was sent."""
    (order,) = api.client.post("/orders/batch", json={"orders": [OTHER]}).json()["orders"]
    assert read_back(api, order["id"]) == OTHER


def test_a_replacement_stores_every_member(api: Api) -> None:
    """Read back, each is as it was sent."""
    order = api.client.post("/orders", json=PLAIN).json()
    assert api.client.put(f"/orders/{order['id']}", json=OTHER).status_code == 200
    assert read_back(api, order["id"]) == OTHER


@pytest.mark.parametrize("name", SETTABLE)
def test_a_patch_changes_the_member_that_it_names_and_no_other(api: Api, name: str) -> None:
    """Each member is tried by itself."""
    order = api.client.post("/orders", json=PLAIN).json()
    answer = api.client.patch(f"/orders/{order['id']}", json={name: OTHER[name]})
    assert answer.status_code == 200
    assert read_back(api, order["id"]) == PLAIN | {name: OTHER[name]}


def test_an_import_stores_every_member(api: Api, tmp_path: Path) -> None:
    """Read back, each is as the file has it."""
    assert import_rows(tmp_path, [{"id": 7} | OTHER]).returncode == 0
    assert read_back(api, "7") == OTHER


def test_exports_have_every_member(api: Api) -> None:
    """NDJSON as the order is shown everywhere; CSV with a cell for each."""
    order = api.client.post("/orders", json=OTHER).json()
    lines = api.client.get("/orders/export", headers={"Accept": "application/x-ndjson"}).text
    assert json.loads(lines) == order
    cells = [cell for name in SHOWN for cell in CSV_CELLS.get(name, (name,))]
    assert set(CSV_COLUMNS) == set(cells)
    table = api.client.get("/orders/export", headers={"Accept": "text/csv"}).text
    (row,) = csv.DictReader(io.StringIO(table))
    assert {name: row[name] for name in ("datetime", "calendar", "reference")} == {
        name: OTHER[name] for name in ("datetime", "calendar", "reference")
    }
    assert json.loads(row["metadata"]) == {"source": "web", "'=note": 'a\n"b", c\\ ü', "empty": ""}
    assert row["status"] == "booked"
