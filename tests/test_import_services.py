"""The services of an import: added with the orders, or refused with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.import_steps import SAMPLE_ORDERS, catalogue, import_rows, import_sample, imported

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers import Api, Database


def test_a_catalogue_adds_missing_services_and_leaves_existing_ones_unchanged(
    api: Api, tmp_path: Path
) -> None:
    """Archived ones too, also if another service has their name by now."""
    api.client.delete("/services/456")
    assert api.client.post("/services", json={"id": "900", "name": "ANALYSIS"}).status_code == 201
    given = ((123, "Inspection"), (456, "Analysis"), (789, "Testing"), (900, "ANALYSIS"), (901, "New"))
    for _ in range(2):
        done = import_rows(tmp_path, [imported(1, services=(901,))], catalogue(*given))
        assert done.returncode == 0, done.stderr
        services = api.every_item("/services?include_archived=true")
        assert [(int(service["id"]), service["name"]) for service in services] == list(given)
        assert services[1]["archived_at"]


def test_new_services_are_added_although_the_orders_were_imported_before(api: Api, tmp_path: Path) -> None:
    """A second import of the same services adds nothing."""
    assert import_sample().returncode == 0
    api.client.delete("/orders/223")
    for added, said in ((2, "; services added: 2"), (0, ": nothing to do")):
        given = catalogue((901, "New"), (456, "Analysis"), (902, "Newer"))
        done = import_rows(tmp_path, SAMPLE_ORDERS.read_text(), given)
        assert (done.returncode, done.stderr) == (0, ""), added
        assert "was imported before" in done.stdout
        assert done.stdout.endswith(f"{said}\n")
    services = {int(service["id"]): service["name"] for service in api.every_item("/services")}
    assert services == {123: "Inspection", 456: "Analysis", 789: "Testing", 901: "New", 902: "Newer"}
    assert [order["id"] for order in api.every_order()] == ["224", "225"]


@pytest.mark.usefixtures("api")
def test_new_services_are_added_with_an_empty_file_of_orders_however_often(
    database: Database, tmp_path: Path
) -> None:
    """An empty file of orders is the same file each time."""
    for service_id in (901, 902):
        done = import_rows(tmp_path, [], catalogue((service_id, f"New {service_id}")))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith("; services added: 1\n")
        assert database.value("SELECT name FROM service WHERE id = $1", service_id) == f"New {service_id}"


@pytest.mark.usefixtures("api")
def test_invalid_services_are_refused_although_the_orders_were_imported_before(
    database: Database, tmp_path: Path
) -> None:
    """All of them are added or none, as with new orders."""
    assert import_sample().returncode == 0
    given = [*catalogue((123, "Survey"), (901, "New"), (902, "TESTING")), {"name": "Nameless"}]
    before = database.counts()
    done = import_rows(tmp_path, SAMPLE_ORDERS.read_text(), given)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "services[3].id: is required",
        "services[0].name: service 123 is called 'Inspection', not 'Survey'",
        "services[2].name: 'TESTING' is the name of service 789",
        "refused: nothing was imported; bad orders: 0, bad services: 3",
    ]
    assert database.counts() == before


@pytest.mark.parametrize(
    ("services", "reason"),
    [
        ([{"id": 123, "name": ""}], "services[0].name: must not be blank"),
        ([{"id": 123, "name": "A"}, {"name": "B"}], "services[1].id: is required"),
        (catalogue((123, "A"), (456, "a")), "services[1].name:"),
        (catalogue((123, "A")), "orders[1].services[0].id: there is no service 789"),
    ],
)
def test_invalid_services_are_named_and_nothing_is_imported(
    database: Database, tmp_path: Path, services: object, reason: str
) -> None:
    """Services and orders are imported together or not at all."""
    done = import_rows(tmp_path, SAMPLE_ORDERS.read_text(), services)
    assert done.returncode == 1
    assert reason in done.stderr
    assert set(database.counts().values()) == {0}


def test_every_service_that_appears_twice_is_named(database: Database, tmp_path: Path) -> None:
    """By its id, or by its name in any case."""
    given = catalogue(
        *((901, "First"), (901, "Second"), (902, "Third"), (903, "THIRD"), (904, "Fourth"), (904, "Fourth"))
    )
    done = import_rows(tmp_path, [], given)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "services[1].id: 901 is the id of services[0] too",
        "services[3].name: 'THIRD' is the name of services[2] too",
        "services[5].id: 904 is the id of services[4] too",
        "services[5].name: 'Fourth' is the name of services[4] too",
        "refused: nothing was imported; bad orders: 0, bad services: 3",
    ]
    assert set(database.counts().values()) == {0}


def test_names_of_imported_services_are_compared_as_postgresql_compares_them(
    database: Database, tmp_path: Path
) -> None:
    """No service that it would refuse is left out silently, and none that it would take is refused."""
    given = catalogue(
        *((900, "ΔΣ"), (901, "δς"), (902, "İx"), (903, "i\u0307x"), (904, "ix")),
        *((905, "Straße"), (906, "STRASSE"), (907, "№ 1"), (908, "no 1"), (909, "\uff26ull"), (910, "full")),
    )
    done = import_rows(tmp_path, [imported(1, services=(901, 903))], given)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "services[1].name: 'δς' is the name of services[0] too",
        "services[3].name: 'i\u0307x' is the name of services[2] too",
        "services[6].name: 'STRASSE' is the name of services[5] too",
        "services[8].name: 'no 1' is the name of services[7] too",
        "services[10].name: 'full' is the name of services[9] too",
        "refused: nothing was imported; bad orders: 0, bad services: 5",
    ]
    assert set(database.counts().values()) == {0}
    done = import_rows(tmp_path, [imported(1, services=(901,))], catalogue((900, "İx"), (901, "ix")))
    assert (done.returncode, done.stderr) == (0, "")
    assert database.value("SELECT count(*) FROM service") == 2


def test_orders_are_blamed_for_archived_services_but_not_for_invalid_ones_of_the_file(
    api: Api, tmp_path: Path
) -> None:
    """An invalid service is reported once, not again for each order of it."""
    api.client.delete("/services/456")
    given = catalogue((456, "Survey"), (901, "TESTING"), (902, "New"), (903, "NEW"))
    done = import_rows(tmp_path, [imported(1, services=(456, 901, 902, 903, 904))], given)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "services[0].name: service 456 is called 'Analysis', not 'Survey'",
        "services[1].name: 'TESTING' is the name of service 789",
        "services[3].name: 'NEW' is the name of services[2] too",
        "orders[0].services[0].id: there is no service 456, or it is archived",
        "orders[0].services[4].id: there is no service 904, or it is archived",
        "refused: nothing was imported; bad orders: 1, bad services: 3",
    ]


@pytest.mark.usefixtures("api")
def test_every_service_that_contradicts_the_catalogue_is_named(database: Database, tmp_path: Path) -> None:
    """A known id with another name, a known name with another id; beside the invalid orders."""
    given = catalogue((123, "Survey"), (456, "analysis"), (901, "New"), (902, "TESTING"))
    before = database.counts()
    done = import_rows(tmp_path, [imported(1, services=(999,))], given)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "services[0].name: service 123 is called 'Inspection', not 'Survey'",
        "services[1].name: service 456 is called 'Analysis', not 'analysis'",
        "services[3].name: 'TESTING' is the name of service 789",
        "orders[0].services[0].id: there is no service 999, or it is archived",
        "refused: nothing was imported; bad orders: 1, bad services: 3",
    ]
    assert database.counts() == before
