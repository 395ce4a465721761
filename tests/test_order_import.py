"""``python -m api.order_import``: orders that come with a history of their own, all of them or none."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import NOON, later, order_body
from tests.processes import ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.drivers import Api, Database

    Import = Callable[..., subprocess.CompletedProcess[str]]

SAMPLE = ROOT / "sample-data"
SAMPLE_TIME = "2022-11-01T11:11:11.111Z"


def run_process(database_url: str, *arguments: Path | str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process."""
    return subprocess.run(
        [sys.executable, "-m", "api.order_import", *map(str, arguments)],
        check=False,
        cwd=ROOT,
        env=environment(database_url, "redis://127.0.0.1:1/0"),
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.fixture
def import_file(api: Api) -> Import:  # noqa: ARG001 (its clean database)
    """Run the command in this process: it is a second quicker."""
    from api.order_import import main

    def run(*arguments: Path | str) -> subprocess.CompletedProcess[str]:
        with redirect_stdout(io.StringIO()) as output, redirect_stderr(io.StringIO()) as errors:
            status = main([*map(str, arguments)])
        return subprocess.CompletedProcess(arguments, status, output.getvalue(), errors.getvalue())

    return run


@pytest.fixture
def import_sample(api: Api) -> None:  # noqa: ARG001 (its clean database)
    """Load the sample data, as the command does but in this process: it is quicker."""
    from api.order_import import run

    asyncio.run(run(SAMPLE / "orders.json", SAMPLE / "services.json"))


@pytest.fixture
def import_orders(import_file: Import, tmp_path: Path) -> Import:
    """Write orders to a file and load it."""

    def run(orders: object) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "orders.json"
        path.write_text(orders if isinstance(orders, str) else json.dumps(orders))
        return import_file(path)

    return run


def imported(order_id: int | str, **fields: Any) -> dict[str, Any]:
    """Give an order of a file."""
    return order_body(id=order_id, **fields)


# --- the sample data ---------------------------------------------------------------------------------


def test_the_sample_data_loads_exactly_as_given(database: Database, api: Api) -> None:
    """Three orders at one datetime, and the catalogue beside them; nothing goes around the rule."""
    database.clean()
    done = run_process(database.url, SAMPLE / "orders.json", "--services", SAMPLE / "services.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "imported 3 orders" in done.stdout
    names = {service["id"]: service["name"] for service in json.loads((SAMPLE / "services.json").read_text())}
    orders = api.every_order()
    assert [
        {"id": o["id"], "datetime": o["datetime"], "totalfee": o["totalfee"], "services": o["services"]}
        for o in orders
    ] == [
        {**o, "services": [{**s, "name": names[int(s["id"])]} for s in o["services"]]}
        for o in json.loads((SAMPLE / "orders.json").read_text())
    ]
    assert {(o["calendar"], o["version"]) for o in orders} == {("default", 1)}
    services = api.every_item("/services")
    assert {int(service["id"]): service["name"] for service in services} == names


@pytest.mark.usefixtures("import_sample")
def test_every_imported_order_is_a_change(api: Api, database: Database) -> None:
    """Subscribers hear of them like of any others."""
    changes = database.rows("SELECT type, order_id, order_state FROM order_change ORDER BY id")
    assert [(c["type"], c["order_id"]) for c in changes] == [
        ("order.created", 223),
        ("order.created", 224),
        ("order.created", 225),
    ]
    assert changes[0]["order_state"] == api.client.get("/orders/223").text


@pytest.mark.usefixtures("import_sample")
def test_importing_the_same_file_again_is_harmless(
    api: Api, database: Database, import_file: Import, tmp_path: Path
) -> None:
    """Whatever it is called and whatever became of its orders; the command says so."""
    api.client.delete("/orders/224")
    before = database.counts()
    copy = tmp_path / "other-name.json"
    copy.write_bytes((SAMPLE / "orders.json").read_bytes())
    for path in (SAMPLE / "orders.json", copy):
        done = import_file(path)
        assert done.returncode == 0
        assert "was imported before" in done.stdout
    assert database.counts() == before


@pytest.mark.usefixtures("import_sample")
def test_another_file_with_the_same_orders_is_refused(
    api: Api,
    import_orders: Import,
) -> None:
    """Its ids are taken, and its datetimes too."""
    done = import_orders(json.loads((SAMPLE / "orders.json").read_text()))
    assert done.returncode == 1
    for index, order_id in enumerate((223, 224, 225)):
        assert f"orders[{index}].id: {order_id} is, or was, the id of another order" in done.stderr
        assert f"orders[{index}].datetime: less than three hours from order" in done.stderr
    assert len(api.every_order()) == 3


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.usefixtures("import_sample")
def test_the_fee_of_a_sample_order_can_be_changed_without_moving_it(
    api: Api,
    method: str,
) -> None:
    """Although two others stand at its datetime."""
    fields = {"datetime": SAMPLE_TIME, "totalfee": 150, "services": [{"id": "123"}]}
    body = fields if method == "PUT" else {"totalfee": 150}
    for version in (2, 3):
        answer = api.client.request(method, "/orders/223", json=body)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["totalfee"], answer.json()["version"]) == (150, version)
        assert answer.json()["datetime"] == SAMPLE_TIME


@pytest.mark.usefixtures("import_sample")
def test_a_sample_order_that_moved_away_cannot_come_back_near_the_others(
    api: Api,
) -> None:
    """It stands for itself from then on."""
    for at, status in (
        ("2022-11-01T12:11:11.111Z", 409),
        ("2022-11-01T14:11:11.111Z", 200),
        (SAMPLE_TIME, 409),
        ("2022-11-01T14:11:11.110Z", 409),
        ("2022-11-01T08:11:11.111Z", 200),
    ):
        answer = api.client.patch("/orders/223", json={"datetime": at})
        assert answer.status_code == status, answer.text
        if status == 409:
            assert [c["id"] for c in answer.json()["conflicts"]] == ["224", "225"]


@pytest.mark.usefixtures("import_sample")
def test_a_sample_order_that_changed_calendars_cannot_come_back_either(
    api: Api,
) -> None:
    """The same holds for the calendar."""
    assert api.client.patch("/orders/223", json={"calendar": "crew-1"}).status_code == 200
    assert api.client.patch("/orders/223", json={"calendar": None}).status_code == 409
    for sibling in ("224", "225"):
        assert api.client.patch(f"/orders/{sibling}", json={"totalfee": 1}).status_code == 200


@pytest.mark.usefixtures("import_sample")
def test_nothing_else_can_be_placed_near_the_sample_orders(
    api: Api,
) -> None:
    """Until the last of them is gone."""
    for order_id in ("223", "224", "225"):
        assert api.place_order(at="2022-11-01T14:11:11.110Z").status_code == 409
        api.client.delete(f"/orders/{order_id}")
    api.placed_order(at="2022-11-01T14:11:11.110Z")


SAMPLE_IF_EMPTY = (SAMPLE / "orders.json", "--services", SAMPLE / "services.json", "--only-if-empty")


def test_the_sample_data_is_loaded_into_an_empty_database_only_and_once(
    import_file: Import, database: Database
) -> None:
    """As each start of `make run` asks for it."""
    database.clean()
    assert import_file(*SAMPLE_IF_EMPTY).stdout.startswith("imported 3 orders")
    before = database.counts()
    assert before["orders"] == 3
    done = import_file(*SAMPLE_IF_EMPTY)
    assert (done.returncode, done.stderr) == (0, "")
    assert "not imported" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert database.counts() == before


@pytest.mark.parametrize("held", ["a service", "an order", "a deleted order"])
def test_sample_data_never_gets_among_what_is_there(
    api: Api, database: Database, import_file: Import, held: str
) -> None:
    """Whether or not it would fit in; what was deleted has left its changes."""
    if held == "a service":
        database.clean()
        assert api.client.post("/services", json={"id": "1", "name": "Own"}).status_code == 201
    else:
        api.placed_order()
    if held == "a deleted order":
        (order,) = api.every_order()
        api.client.delete(f"/orders/{order['id']}")
        database.rows("DELETE FROM service")
    before = database.counts()
    done = import_file(*SAMPLE_IF_EMPTY)
    assert (done.returncode, done.stderr) == (0, "")
    assert "not imported" in done.stdout
    assert database.counts() == before


# --- other files -------------------------------------------------------------------------------------


def test_orders_of_one_import_may_stand_together_and_nothing_else_near_them(
    api: Api, database: Database, import_orders: Import
) -> None:
    """On several calendars, with ids of their own or the server's."""
    anonymous = order_body(at=later(minutes=10), calendar="crew-1")
    done = import_orders(
        [imported(1), imported(2, at=later(hours=1)), imported(3, calendar="crew-1"), anonymous]
    )
    assert done.returncode == 0, done.stderr
    assert [order["id"] for order in api.every_order()] == ["1", "3", "1000000000000", "2"]
    assert api.place_order(at=later(hours=3)).status_code == 409
    api.placed_order(at=later(hours=4))
    assert database.too_close_pairs() == []


def test_imports_keep_their_distance_from_each_other(import_orders: Import) -> None:
    """An import is no way around the rule: only within one file are the times history."""
    assert import_orders([imported(1)]).returncode == 0
    done = import_orders([imported(2, at=later(hours=3)), imported(3, at=later(hours=2))])
    assert done.returncode == 1
    assert "orders[1].datetime: less than three hours from order 1 at 2030-06-01T12:00:00.000Z" in done.stderr
    assert "orders[0]" not in done.stderr
    assert import_orders([imported(2, at=later(hours=3)), imported(3, at=later(hours=4))]).returncode == 0


def test_every_bad_order_is_named_with_its_place_and_the_reason(
    api: Api, database: Database, import_orders: Import
) -> None:
    """All at once, and nothing of the file is stored."""
    before = database.counts()
    done = import_orders(
        [
            imported(1),
            imported(2, fee=-1),
            imported(3, at="2030-02-30T12:00:00Z"),
            imported("abc", services=("x",)),
            order_body(at=None),
            imported(6, services=()),
            imported(7, colour="red"),
            "order",
            imported(9),
            imported(9),
        ]
    )
    assert done.returncode == 1
    assert done.stdout == ""
    for place in (
        *("orders[1].totalfee: must be from 0", "orders[2].datetime: must be", "orders[3].id: must be"),
        *("orders[3].services.0.id: must be an id", "orders[4].datetime: is required"),
        *("orders[5].services: must have at least 1", "orders[6].colour: is not a field"),
        *(
            "orders[7]: must be a JSON object",
            "orders[9].id: 9 is the id of orders[8] too",
            "nothing was imported",
        ),
    ):
        assert place in done.stderr
    assert "orders[0]" not in done.stderr
    assert not any(line.startswith("orders[8]") for line in done.stderr.splitlines())
    assert database.counts() == before
    assert api.every_order() == []


def test_orders_that_do_not_fit_what_is_stored_are_all_named_too(
    api: Api, database: Database, import_orders: Import
) -> None:
    """Ids taken, now or ever; services unknown or archived; other orders near."""
    api.placed_order(id=5)
    api.placed_order(id=6, at=later(days=1))
    api.client.delete("/orders/6")
    api.client.delete("/services/456")
    before = database.counts()
    done = import_orders(
        [
            imported(5, at=later(days=2)),
            imported(6, at=later(days=1)),
            imported(7, at=later(hours=2)),
            imported(8, at=later(days=3), services=(123, 999)),
            imported(9, at=later(days=4), services=(456,)),
            imported(10, at=NOON, calendar="new"),
        ]
    )
    assert done.returncode == 1
    for reason in (
        "orders[0].id: 5 is, or was",
        "orders[1].id: 6 is, or was",
        "orders[2].datetime: less than three hours from order 5",
        "orders[3].services[1].id: there is no service 999",
        "orders[4].services[0].id: there is no service 456",
    ):
        assert reason in done.stderr
    assert "orders[5]" not in done.stderr
    assert database.counts() == before


def test_bad_rows_hide_nothing_of_the_others(
    api: Api, database: Database, import_file: Import, tmp_path: Path
) -> None:
    """What can be read is compared with what is stored in the same run, under its own place in the file."""
    api.placed_order(id=5)
    orders, catalogue = tmp_path / "orders.json", tmp_path / "services.json"
    given = [
        imported(1, fee=-1),
        imported(5, at=later(days=2)),
        imported(9, at=later(days=4)),
        imported(9, at=later(hours=1)),
        imported(10, at=later(days=5), services=(123, 999)),
        imported(11, at=later(days=6), services=(902,)),
    ]
    orders.write_text(json.dumps(given))
    catalogue.write_text(json.dumps([{"id": 902, "name": ""}, {"id": 123, "name": "Survey"}]))
    before = database.counts()
    done = import_file(orders, "--services", catalogue)
    assert done.returncode == 1
    reasons = [
        "orders[0].totalfee: must be",
        "orders[3].id: 9 is the id of orders[2] too",
        "services[0].name: must be",
        "services[1].name: service 123 is called 'Inspection', not 'Survey'",
        "orders[1].id: 5 is, or was, the id of another order",
        "orders[4].services[1].id: there is no service 999",
        "orders[3].datetime: less than three hours from order 5",
        "refused: nothing was imported",
    ]
    said = done.stderr.splitlines()
    assert [line[: len(reason)] for line, reason in zip(said, reasons, strict=True)] == reasons
    assert database.counts() == before


def test_bad_rows_are_named_while_the_database_is_away(tmp_path: Path) -> None:
    """With what could not be looked at."""
    path = tmp_path / "orders.json"
    path.write_text(json.dumps([imported(1, fee=-1)]))
    done = run_process(f"postgresql://nobody@/orders?host={tmp_path}", path)
    assert done.returncode == 1
    fault, unseen, conclusion = done.stderr.splitlines()
    assert fault.startswith("orders[0].totalfee: must be")
    assert unseen.startswith("not compared with what is stored")
    assert conclusion == "refused: nothing was imported"


@pytest.mark.usefixtures("import_sample")
def test_services_of_a_file_that_was_imported_before_are_not_dropped_silently(
    import_file: Import, database: Database, tmp_path: Path
) -> None:
    """The orders need nothing; what the catalogue doesn't hold as given is named."""
    catalogue = tmp_path / "services.json"
    given = ((123, "Survey"), (901, "New"), (456, "Analysis"), (902, "TESTING"))
    catalogue.write_text(json.dumps([{"id": service, "name": name} for service, name in given]))
    before = database.counts()
    done = import_file(SAMPLE / "orders.json", "--services", catalogue)
    assert done.returncode == 0
    assert "was imported before" in done.stdout
    assert done.stderr.splitlines() == [
        "services[0].name: service 123 is called 'Inspection', not 'Survey'",
        "services[1]: there is no service 901 'New'",
        "services[3].name: 'TESTING' is the name of service 789",
        "services not added: the file of orders was imported before",
    ]
    assert database.counts() == before
    done = import_file(SAMPLE / "orders.json", "--services", SAMPLE / "services.json")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "empty"),
        ("[", "the file is not JSON"),
        ('{"orders": []}', "must be a JSON array"),
        ('[{"id": 1, "id": 2}]', "stands twice"),
        ("[NaN]", "NaN"),
    ],
)
def test_a_file_that_cannot_be_read_is_said_in_one_line(
    import_orders: Import, database: Database, content: str, reason: str
) -> None:
    """Exit status 2, to tell it from a file with bad orders."""
    done = import_orders(content)
    assert done.returncode == 2
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert database.value("SELECT count(*) FROM orders") == 0


def test_a_file_that_is_not_there_is_said_in_one_line(
    import_file: Import, database: Database, tmp_path: Path
) -> None:
    """A folder is none either, and the catalogue is asked for as strictly."""
    before = database.counts()
    for arguments in (
        [tmp_path / "missing.json"],
        [tmp_path],
        [SAMPLE / "orders.json", "--services", tmp_path / "missing.json"],
    ):
        done = import_file(*arguments)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
    assert database.counts() == before


def test_bad_services_are_named_and_nothing_is_imported(
    import_file: Import, database: Database, tmp_path: Path
) -> None:
    """The catalogue is part of the same all or nothing."""
    database.clean()
    catalogue = tmp_path / "services.json"
    for services, reason in (
        ([{"id": 123, "name": ""}], "services[0].name: must be"),
        ([{"id": 123, "name": "A"}, {"name": "B"}], "services[1].id: is required"),
        ([{"id": 123, "name": "A"}, {"id": 456, "name": "a"}], "services[1].name:"),
        ([{"id": 123, "name": "A"}], "orders[1].services[0].id: there is no service 789"),
    ):
        catalogue.write_text(json.dumps(services))
        done = import_file(SAMPLE / "orders.json", "--services", catalogue)
        assert done.returncode == 1
        assert reason in done.stderr
        assert set(database.counts().values()) == {0}


def test_every_service_that_stands_twice_is_named(
    import_file: Import, database: Database, tmp_path: Path
) -> None:
    """By its id or by its name, in whatever case; the one that would have been dropped most of all."""
    database.clean()
    orders, catalogue = tmp_path / "orders.json", tmp_path / "services.json"
    orders.write_text("[]")
    given = (
        (901, "First"),
        (901, "Second"),
        (902, "Third"),
        (903, "THIRD"),
        (904, "Fourth"),
        (904, "Fourth"),
    )
    catalogue.write_text(json.dumps([{"id": service, "name": name} for service, name in given]))
    done = import_file(orders, "--services", catalogue)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "services[1].id: 901 is the id of services[0] too",
        "services[3].name: 'THIRD' is the name of services[2] too",
        "services[5].id: 904 is the id of services[4] too",
        "services[5].name: 'Fourth' is the name of services[4] too",
        "refused: nothing was imported",
    ]
    assert set(database.counts().values()) == {0}


@pytest.mark.usefixtures("api")
def test_every_service_that_is_another_one_in_the_catalogue_is_named(
    import_file: Import, database: Database, tmp_path: Path
) -> None:
    """A known id under another name, a known name under another id; beside the bad orders."""
    orders, catalogue = tmp_path / "orders.json", tmp_path / "services.json"
    orders.write_text(json.dumps([imported(1, services=(999,))]))
    given = ((123, "Survey"), (456, "analysis"), (901, "New"), (902, "TESTING"))
    catalogue.write_text(json.dumps([{"id": service, "name": name} for service, name in given]))
    before = database.counts()
    done = import_file(orders, "--services", catalogue)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "services[0].name: service 123 is called 'Inspection', not 'Survey'",
        "services[1].name: service 456 is called 'Analysis', not 'analysis'",
        "services[3].name: 'TESTING' is the name of service 789",
        "orders[0].services[0].id: there is no service 999, or it is archived",
        "refused: nothing was imported",
    ]
    assert database.counts() == before


def test_a_catalogue_adds_what_is_missing_and_leaves_what_is_there(
    api: Api, import_file: Import, tmp_path: Path
) -> None:
    """What is there under the same name, archived or not."""
    api.client.delete("/services/456")
    catalogue = tmp_path / "services.json"
    given = ((123, "Inspection"), (456, "Analysis"), (789, "Testing"), (901, "New"))
    catalogue.write_text(json.dumps([{"id": service, "name": name} for service, name in given]))
    orders = tmp_path / "orders.json"
    orders.write_text(json.dumps([imported(1, services=(901,))]))
    done = import_file(orders, "--services", catalogue)
    assert done.returncode == 0, done.stderr
    services = api.every_item("/services?include_archived=true")
    assert [(int(service["id"]), service["name"]) for service in services] == list(given)
    assert services[1]["archived_at"]
    assert import_file(orders, "--services", catalogue).returncode == 0


def test_an_empty_file_of_orders_is_an_import_of_none(import_orders: Import) -> None:
    """Nothing to do is no error."""
    assert import_orders([]).returncode == 0


def test_thousands_of_orders_are_imported_at_once(api: Api, import_orders: Import) -> None:
    """Across the chunks in which they are stored, and each with its change."""
    count = 2_500
    done = import_orders([imported(n, at=later(minutes=n % 7), fee=n / 100) for n in range(1, count + 1)])
    assert done.returncode == 0, done.stderr
    assert f"imported {count:,} orders" in done.stdout
    orders = api.every_item("/orders?sort=id&limit=100")
    assert [int(order["id"]) for order in orders] == list(range(1, count + 1))
    assert [order["totalfee"] for order in orders] == [n / 100 for n in range(1, count + 1)]


def test_a_database_that_is_away_is_said_in_one_line(tmp_path: Path) -> None:
    """Exit status 1: trying again is right."""
    done = run_process(f"postgresql://nobody@/orders?host={tmp_path}", SAMPLE / "orders.json")
    assert done.returncode == 1
    assert "try again" in done.stderr
    assert "Traceback" not in done.stderr
