"""One cell: its ids, the source of its changes, its calendars, and processes that would mix two."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from api.operations.contracts import CONTRACT, EVENTS
from tests.builders import later, order_body
from tests.drivers import Api, Database, faulty_places, wait_until
from tests.operations_guide import run_commands
from tests.processes import NO_REDIS, ServiceProcess, run_command
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

CELL = {"OMS_CELL": "eu-2", "OMS_CELL_NUMBER": "2"}
NO_CELL: Mapping[str, str] = {}
FIRST, LAST = 2 * 10**15, 3 * 10**15 - 1


def migrate(url: str, **settings: str) -> str:
    """Run the migrations; return what they say if they fail."""
    done = run_command("shared.database.migrate", database=url, **settings)
    return done.stderr if done.returncode else ""


def a_relay(database: str, cell: Mapping[str, str] = NO_CELL) -> ServiceProcess:
    """Return a relay, not started."""
    return ServiceProcess("api.relay.main", database=database, redis=NO_REDIS, port=0, **cell)


def log_of(api: Api, count: int) -> list[dict[str, Any]]:
    """Read the change log from the beginning, once it has so many changes."""

    def read() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = api.client.get("/order-changes?after=0&limit=100").json()["items"]
        return items

    wait_until(lambda: len(read()) >= count, f"{count} changes have positions")
    return read()


@pytest.fixture
def cell(new_database_url: str) -> Iterator[tuple[Api, Database]]:
    """The API of a cell with a calendar and services, and its database."""
    assert migrate(new_database_url, **CELL) == ""
    with (
        Database(new_database_url) as database,
        serving(database=new_database_url, redis=NO_REDIS, **CELL) as (api, _),
    ):
        database.add_services()
        assert api.client.put("/calendars/default", json={}).status_code == httpx.codes.CREATED
        yield api, database


def test_a_cell_gives_out_ids_of_its_range_and_names_itself_in_every_change(
    cell: tuple[Api, Database],
) -> None:
    api, database = cell
    order = api.placed_order()
    service = api.client.post("/services", json={"name": "Of this cell"}).json()
    assert (order["id"], service["id"]) == (str(FIRST), str(FIRST))
    with a_relay(database.url, CELL):
        (change,) = log_of(api, 1)
    assert change["source"] == "/cells/eu-2/orders"
    assert change["sequence"] == "0000000000000000001"
    for path, document in (("/openapi.yaml", CONTRACT), ("/asyncapi.yaml", EVENTS)):
        served, written = api.client.get(path).text, document.read_text("utf-8")
        assert "const: /cells/eu-2/orders\n" in served
        assert "const: /orders\n" not in served
        assert served.replace("/cells/eu-2/", "/") == written


def test_in_a_cell_callers_choose_ids_of_its_range_only(cell: tuple[Api, Database]) -> None:
    """Those of services are for all cells: the same id is the same service."""
    api, _ = cell
    for other in ("223", str(10**12), str(3 * 10**12), str(FIRST)):
        refused = api.place_order(id=other)
        assert faulty_places(refused) == ["#/id"]
        assert "from 2000000000000 to 2999999999999 in cell eu-2" in refused.text
    assert api.placed_order(id="2000000000223")["id"] == "2000000000223"
    assert api.client.post("/services", json={"id": "77", "name": "Everywhere"}).json()["id"] == "77"


def test_in_a_cell_an_order_makes_no_calendar(cell: tuple[Api, Database]) -> None:
    """A router that sends it to the wrong cell is noticed; PUT is how a cell gets a calendar."""
    api, database = cell
    order = api.placed_order()
    elsewhere = order_body(at=later(days=1), calendar="us-crew")
    refusals = {
        "#/calendar": api.client.post("/orders", json=elsewhere),
        "#/orders/1/calendar": api.client.post(
            "/orders/batch", json={"orders": [order_body(at=later(days=1)), elsewhere]}
        ),
    }
    for place, refused in refusals.items():
        assert faulty_places(refused) == [place]
        assert "cell eu-2 has no calendar us-crew" in refused.text
    merge_patch = {"Content-Type": "application/merge-patch+json"}
    path, patch = f"/orders/{order['id']}", {"calendar": "us-crew"}
    moved = api.client.patch(path, json=patch, headers=merge_patch)
    assert faulty_places(moved) == ["#/calendar"]
    batch = {"orders": [{"id": order["id"], **patch}]}
    refused = api.client.patch("/orders/batch", json=batch)
    assert refused.is_client_error
    assert "cell eu-2 has no calendar us-crew" in refused.text
    assert database.rows("SELECT name FROM calendar") == [{"name": "default"}]
    assert api.client.put("/calendars/us-crew", json={}).status_code == httpx.codes.CREATED
    assert api.client.patch(path, json=patch, headers=merge_patch).json()["calendar"] == "us-crew"


def test_a_create_may_name_its_calendar_in_the_query_for_a_proxy_and_it_must_be_the_same(api: Api) -> None:
    """With or without cells."""
    body = order_body(calendar="crew-7")
    refused = api.client.post("/orders?calendar=crew-8", json=body)
    assert faulty_places(refused) == ["#/calendar"]
    assert "must be crew-8, as the parameter calendar says" in refused.text
    assert faulty_places(api.client.post("/orders?calendar=crew-7", json=order_body())) == ["#/calendar"]
    assert api.client.post("/orders?calendar=crew-7", json=body).status_code == httpx.codes.CREATED
    batch = {"orders": [order_body(at=later(days=1), calendar=name) for name in ("crew-7", "crew-8")]}
    refused = api.client.post("/orders/batch?calendar=crew-7", json=batch)
    assert faulty_places(refused) == ["#/orders/1/calendar"]


@pytest.mark.parametrize("module", ["api.server", "api.relay.main", "worker.main"])
def test_no_process_starts_on_the_database_of_another_cell(new_database_url: str, module: str) -> None:
    """One line says which cell it is and what to do. The doctor says it, and the migrations refuse it too."""
    assert migrate(new_database_url, **CELL) == ""
    other = {"OMS_CELL": "eu-3", "OMS_CELL_NUMBER": "3"}
    is_of = "the database is of cell eu-2, number 2"
    advice = "et OMS_CELL=eu-2 and OMS_CELL_NUMBER=2, or correct OMS_DATABASE_URL"
    for settings, given in (
        ({}, "OMS_CELL is not set"),
        (other, "OMS_CELL is eu-3 and OMS_CELL_NUMBER is 3"),
    ):
        refused = run_command(module, database=new_database_url, **settings)
        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1] == f"{given}, and {is_of}: s{advice}"
        assert "Traceback" not in refused.stderr
        if module == "api.server":
            doctor = run_command("oms", "doctor", database=new_database_url, **settings)
            assert f"{given}, and {is_of}" in doctor.stdout
            assert f"S{advice}" in " ".join(doctor.stdout.split())
    assert is_of in migrate(new_database_url, **other)
    assert migrate(new_database_url) == ""  # an upgrade may be run without the cell's settings


def test_a_cell_that_the_database_does_not_know_yet_needs_the_migrations(new_database_url: str) -> None:
    assert migrate(new_database_url) == ""
    refused = run_command("api.server", database=new_database_url, **CELL)
    assert "OMS_CELL is eu-2, and the database is of no cell: run the migrations with" in refused.stderr
    for half in ({"OMS_CELL": "eu-2"}, {"OMS_CELL_NUMBER": "2"}):
        assert "a cell needs both" in migrate(new_database_url, **half)
    for name in ("EU-2", "-eu", "eu_2", "e" * 33):
        assert "OMS_CELL: must be 1 to 32 small letters" in migrate(
            new_database_url, OMS_CELL=name, OMS_CELL_NUMBER="2"
        )


def test_a_running_installation_becomes_cell_1_and_keeps_its_ids_and_every_byte_of_its_changes(
    new_database_url: str,
) -> None:
    assert migrate(new_database_url) == ""
    first = {"OMS_CELL": "eu-1", "OMS_CELL_NUMBER": "1"}
    with Database(new_database_url) as database:
        with (
            serving(database=new_database_url, redis=NO_REDIS) as (api, _),
            a_relay(new_database_url),
        ):
            database.add_services()
            chosen, given = api.placed_order(id="223"), api.placed_order(at=later(days=1))
            assert [change["source"] for change in log_of(api, 2)] == ["/orders", "/orders"]
            before = api.client.get("/order-changes?after=0&limit=2").content
        refused = migrate(new_database_url, **CELL)
        assert any(
            f"has an order {order['id']}, an id of cell 1: use that number" in refused
            for order in (chosen, given)
        )
        assert migrate(new_database_url, **first) == ""
        with (
            serving(database=new_database_url, redis=NO_REDIS, **first) as (api, _),
            a_relay(new_database_url, first),
        ):
            assert api.client.get(f"/orders/{chosen['id']}").json() == chosen
            assert int(api.placed_order(at=later(days=2))["id"]) == int(given["id"]) + 1
            assert api.placed_order(at=later(days=3), id="224")["id"] == "224"
            log = log_of(api, 4)
            assert api.client.get("/order-changes?after=0&limit=2").content == before
    assert [change["source"] for change in log[2:]] == ["/cells/eu-1/orders"] * 2
    assert [int(change["sequence"]) for change in log] == [1, 2, 3, 4]


def test_an_installation_whose_callers_chose_ids_of_cell_1_becomes_no_other(new_database_url: str) -> None:
    assert migrate(new_database_url) == ""
    with (
        Database(new_database_url) as database,
        serving(database=new_database_url, redis=NO_REDIS) as (api, _),
    ):
        database.add_services()
        api.placed_order(id="223")
    refused = migrate(new_database_url, **CELL)
    assert "has an order 223, an id of cell 1: use that number" in refused


def test_an_import_and_a_restore_keep_to_the_range_of_the_cell(
    cell: tuple[Api, Database], tmp_path: Path
) -> None:
    """Whatever the settings of the command: the database knows its cell. Services may be those of others."""
    api, database = cell
    services = tmp_path / "services.json"
    services.write_text(
        json.dumps([{"id": 5 * 10**15, "name": "Of cell 5"}, {"id": FIRST + 7, "name": "Here"}])
    )

    def import_orders(*ids: int) -> Any:
        file = tmp_path / "orders.json"
        orders = [order_body(id=id_, at=later(days=n), calendar="moved") for n, id_ in enumerate(ids)]
        file.write_text(json.dumps(orders))
        return run_command("oms", "import", str(file), "--services", str(services), database=database.url)

    refused = import_orders(5 * 10**15, 2000000000001, 223)
    assert refused.returncode != 0
    output = refused.stdout + refused.stderr
    for foreign in (5 * 10**15, 223):
        assert f"{foreign} is no id of cell eu-2" in output
    assert "2000000000001 is no id" not in output
    done = import_orders(2000000000001, FIRST + 50)
    assert done.returncode == 0, done.stderr
    assert int(api.placed_order()["id"]) in range(FIRST + 51, FIRST + 20_000)
    assert api.client.post("/services", json={"name": "Next"}).json()["id"] == str(FIRST + 8)
    restored = run_commands("docs/operations/after_restore.sh", tmp_path, OMS_DATABASE_URL=database.url)
    assert restored.returncode == 0, restored.stderr
    assert int(api.placed_order(at=later(days=50))["id"]) in range(FIRST + 1_000_000, FIRST + 2_000_000)


def test_the_sequences_of_a_cell_cannot_leave_its_range(cell: tuple[Api, Database]) -> None:
    """Not even by hand: PostgreSQL refuses it."""
    _, database = cell
    for sequence in ("orders_id_seq", "service_id_seq"):
        (bounds,) = database.rows(
            "SELECT min_value, max_value FROM pg_sequences WHERE sequencename = $1", sequence
        )
        assert bounds == {"min_value": FIRST, "max_value": LAST}
