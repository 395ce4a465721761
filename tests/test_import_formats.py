"""What goes out comes in: the files that an import reads, this service's own exports among them."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import later
from tests.import_steps import import_files, import_rows, imported

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers import Api, Database

NAMES = [
    "=1+1",
    "'=1+1",
    "a; b",
    "a;=b",
    'say "hi", or not',
    "Überprüfung",
    "\uff1d1",
    "O'Neill - son",
    "[x]",
]
SERVICES = [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)]


def write_history(api: Api) -> None:
    """Store orders, change some, rename a service, so that every member differs from its default."""
    draw = random.Random(42)
    for service in SERVICES:
        assert api.client.post("/services", json=service).status_code == 201
    for n in range(30):
        services = draw.sample(range(1, len(NAMES) + 1), k=draw.randint(1, 4))
        fields = {"id": 500 + n} if n % 3 == 0 else {}
        order = api.placed_order(
            at=later(hours=3 * n),
            fee=n / 4,
            services=services,
            calendar=draw.choice(["default", "crew-1"]),
            **fields,
        )
        for _ in range(n % 4):
            assert api.client.patch(f"/orders/{order['id']}", json={"totalfee": n}).status_code == 200
    assert api.client.put("/services/3", json={"name": "renamed since"}).status_code == 200
    assert api.client.delete(f"/orders/{api.every_order()[-1]['id']}").status_code == 204


def start_afresh(api: Api, database: Database) -> None:
    """Empty the database, and add the services as they are called now."""
    database.clean()
    for service in SERVICES:
        assert api.client.post("/services", json=service).status_code == 201


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("orders.csv", "format=csv"),
        ("orders.csv", "format=csv&bom=yes"),
        ("orders.ndjson", "format=ndjson"),
        ("orders.json", "format=ndjson"),
        ("orders.txt", "format=csv"),
        ("orders.txt", "format=ndjson&sort=-id"),
    ],
)
def test_an_export_that_is_imported_is_exported_again_byte_for_byte(
    api: Api, database: Database, tmp_path: Path, name: str, query: str
) -> None:
    """With ids, versions, times and the services' names of then; in the other format too."""
    write_history(api)
    exports = {
        q: api.client.get(f"/orders/export?{q}").content for q in (query, "format=csv", "format=ndjson")
    }
    path = tmp_path / name
    path.write_bytes(exports[query])
    start_afresh(api, database)
    done = import_files(path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "imported 29 orders" in done.stdout
    for q, content in exports.items():
        assert api.client.get(f"/orders/export?{q}").content == content
    changes = database.rows("SELECT order_id, order_version, type FROM order_change")
    assert {(c["order_id"], c["order_version"], c["type"]) for c in changes} == {
        (int(order["id"]), order["version"], "order.created") for order in api.every_order()
    }


def test_archived_services_come_back_archived_and_their_orders_too(
    api: Api, database: Database, tmp_path: Path
) -> None:
    """Also where another service has the name by now; as JSON and as CSV."""
    for service in ({"id": 900, "name": "Survey"}, {"id": 901, "name": "Paint"}):
        assert api.client.post("/services", json=service).status_code == 201
    for n in (900, 901):
        api.placed_order(at=later(days=n), services=[n, 123])
    assert api.client.delete("/services/900").status_code == 204
    assert api.client.post("/services", json={"id": 902, "name": "SURVEY"}).status_code == 201
    api.placed_order(at=later(days=1), services=[902])
    services = api.every_item("/services?include_archived=true")
    export = api.client.get("/orders/export?format=ndjson").content
    orders_path, json_path, csv_path = (tmp_path / name for name in ("o.ndjson", "s.json", "s.csv"))
    orders_path.write_bytes(export)
    json_path.write_text(json.dumps(services))
    lines = [",".join(str(value or "") for value in service.values()) for service in services]
    csv_path.write_text("\n".join([",".join(services[0]), *lines]))
    for path in (json_path, csv_path):
        database.clean()
        database.run_script("DELETE FROM service")
        done = import_files(orders_path, "--services", path)
        assert (done.returncode, done.stderr) == (0, "")
        assert api.client.get("/orders/export?format=ndjson").content == export
        assert api.every_item("/services?include_archived=true") == services


def test_an_order_may_have_a_service_that_was_archived_after_it_only(api: Api, tmp_path: Path) -> None:
    """In a catalogue that has the service; without a time of its own, the order is made now."""
    api.client.delete("/services/456")
    archived_at = api.client.get("/services/456").json()["archived_at"]
    times = [archived_at, "2199-01-01T00:00:00Z", None]
    rows = [
        imported(n, at=later(days=n), services=(456,)) | {"created_at": created_at}
        for n, created_at in enumerate(times, start=1)
    ]
    done = import_rows(tmp_path, rows)
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == [
        "orders[1].services[0].id",
        "orders[2].services[0].id",
        "refused",
    ]
    assert import_rows(tmp_path, rows[:1]).returncode == 0


@pytest.mark.usefixtures("api")
def test_names_that_orders_keep_from_before_a_rule_for_names_come_back(
    database: Database, tmp_path: Path
) -> None:
    """Such a name can't be given to a service any more, but orders still show it."""
    name = "\U0001f469\u200d\U0001f527 \u3164x"
    row = imported(1) | {"services": [{"id": 123, "name": name}]}
    done = import_rows(tmp_path, [row])
    assert (done.returncode, done.stderr) == (0, "")
    assert database.value("SELECT service_names[1] FROM orders") == name
    for wrong in ("", " x", "x\u3000", "a\nb", "x" * 101):
        done = import_rows(tmp_path, [imported(2) | {"services": [{"id": 123, "name": wrong}]}])
        assert "orders[0].services.0.name: must be a string of 1 to 100" in done.stderr, repr(wrong)


@pytest.mark.usefixtures("api")
def test_rows_without_anything_are_skipped(tmp_path: Path) -> None:
    """Above the columns, between rows and after them; what is wrong has the line that an editor shows."""
    path = tmp_path / "orders.csv"
    path.write_text(
        "\r\n;;\r\ndatetime;totalfee;service_ids\r\n;;\r\n2030-06-01T12:00:00Z;1;123\r\n"
        " \r\n;;\r\nyesterday;1;123\r\n;;;;;\r\n"
    )
    done = import_files(path)
    assert done.stderr.startswith("orders[1].datetime (line 8): ")
    assert done.stderr.count("\n") == 2
    path.write_text(path.read_text().replace("yesterday", "2030-06-02T12:00:00Z"))
    assert import_files(path).stdout.startswith("imported 2 orders")


def test_orders_of_an_import_keep_the_servers_ids_and_new_ones_get_others(api: Api, tmp_path: Path) -> None:
    """Also where the file has ids that the server would have given next."""
    first = int(api.placed_order(at=later(days=-1))["id"])
    rows = [imported(first + n, at=later(hours=3 * n)) for n in range(1, 6)]
    rows += [imported(10**17 - 1, at=later(days=20)), imported(7, at=later(days=30))]
    assert import_rows(tmp_path, rows).returncode == 0
    for n in range(5):
        assert int(api.placed_order(at=later(days=40 + n))["id"]) > 10**17
    done = import_rows(tmp_path, [imported(first), imported(10**17, at=later(days=50))])
    assert f"orders[0].id: {first} is, or was, the id of another order" in done.stderr
    assert "orders[1].id: must be a whole number from 1 to 99999999999999999" in done.stderr


def test_a_deleted_orders_id_is_refused_whoever_chose_it(api: Api, tmp_path: Path) -> None:
    """Unless the order was imported, it is never used again."""
    ids = [api.placed_order(at=later(days=n), **fields)["id"] for n, fields in enumerate(({"id": 6}, {}))]
    for order_id in ids:
        assert api.client.delete(f"/orders/{order_id}").status_code == 204
    done = import_rows(tmp_path, [imported(order_id, at=later(days=n)) for n, order_id in enumerate(ids)])
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == [
        "orders[0].id",
        "orders[1].id",
        "refused",
    ]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("kind", ["json", "ndjson", "csv", "semicolons", "tabs"])
def test_files_are_read_with_either_line_end_and_with_a_byte_order_mark_or_without(
    api: Api, tmp_path: Path, mark: bytes, end: bytes, kind: str
) -> None:
    """As a person, a spreadsheet or another system writes them; services likewise."""
    at = "2030-06-01T12:00:00Z"
    row: dict[str, Any] = {"id": "1", "datetime": at, "totalfee": 99.5, "services": [{"id": "900"}]}
    content = {
        "json": json.dumps([row, row | {"id": 2}], indent=1),
        "ndjson": f"{json.dumps(row)}\n\n{json.dumps(row | {'id': 2})}",
        # Quoted line ends within a row.
        "csv": "id,datetime,totalfee,service_ids,service_names\n"
        f'1,{at},99.5,900,\n2,"{at}",99.50,"[\n""900""\n]","[""New line""\n]"',
        "semicolons": '"totalfee";"service_ids";"id";"datetime"\n'
        f'99.5;[900];1;{at}\n99.50;"[""900""]";2;{at}\n\n',
        "tabs": f"datetime\ttotalfee\tservice_ids\tid\n{at}\t99.5\t900\t1\n{at}\t99.5\t900\t2",
    }[kind]
    services = "id,name\n900,New line" if "json" not in kind else '[{"id": 900, "name": "New line"}]'
    path, services_path = tmp_path / "orders", tmp_path / "services"
    path.write_bytes(mark + content.encode().replace(b"\n", end))
    services_path.write_bytes(mark + services.encode().replace(b"\n", end))
    done = import_files(path, "--services", services_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [(order["id"], order["totalfee"], order["services"]) for order in api.every_order()] == [
        (order_id, 99.5, [{"id": "900", "name": "New line"}]) for order_id in ("1", "2")
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"", "the column datetime is missing"),
        (
            "a.csv",
            b"id,datetime,colour\n",
            "line 1: 'colour' is not a column; the column totalfee is missing",
        ),
        ("a.csv", b"id,id,datetime,totalfee,service_ids\n", "the column id appears twice"),
        (
            "a.csv",
            b"datetime,totalfee,service_ids\n\xfc,1,1\n",
            "line 2 is not UTF-8; save it as CSV in UTF-8",
        ),
        ("a.csv", b'datetime,totalfee,service_ids\n"a"b,1,1\n', "line 2 is not CSV"),
        ("a.csv", b'datetime,totalfee,service_ids\n1,1,"1\n', "is not CSV"),
        ("a.json", b'{"orders": []}', "must be a JSON array"),
        ("a.json", b'{\n"orders": []\n}', "must be a JSON array"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_one_line(
    database: Database, tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    """Exit status 2, with the line and what to do."""
    path = tmp_path / name
    path.write_bytes(content)
    done = import_files(path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert reason in done.stderr
    assert database.value("SELECT count(*) FROM orders") == 0


@pytest.mark.usefixtures("api")
def test_cells_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """Fees as some countries write them, lists that are none, names that do not fit."""
    path = tmp_path / "orders.csv"
    path.write_text(
        "datetime,totalfee,service_ids,service_names,version\n"
        '2030-06-01T12:00:00Z,"1,00",123,,\n2030-06-01T12:00:00Z,1,"[123",,\n'
        '2030-06-01T12:00:00Z,1,"[123]","[""a"",""b""]",\n2030-06-01T12:00:00Z,1,,,1.5\n'
    )
    done = import_files(path)
    starts = (
        "orders[0].totalfee (line 2): must be a number such as",
        "orders[1] (line 3): has services that are no JSON array",
        "orders[2] (line 4): has 1 service_ids and 2 service_names",
        "orders[3].services (line 5): must have at least 1",
        "orders[3].version (line 5): must be a whole number",
        "refused",
    )
    said = done.stderr.splitlines()
    assert [line[: len(start)] for line, start in zip(said, starts, strict=True)] == list(starts)


def test_times_and_version_of_a_file_are_kept_as_far_as_they_are_given(api: Api, tmp_path: Path) -> None:
    """An order that was never updated was updated when it was created; null is not given."""
    early, late = "2001-02-03T04:05:06.000Z", "2020-02-03T04:05:06.789Z"
    rows = [
        imported(1) | {"created_at": early},
        imported(2) | {"updated_at": late, "version": 7},
        imported(3) | {"created_at": early, "updated_at": late, "version": None},
        imported(4) | {"created_at": late, "updated_at": early},
        imported(5) | {"version": 0},
    ]
    done = import_rows(tmp_path, rows)
    assert "orders[3]: must not have an updated_at before its created_at" in done.stderr
    assert "orders[4].version: must be a whole number from 1" in done.stderr
    assert import_rows(tmp_path, rows[:3]).returncode == 0
    orders = {order["id"]: order for order in api.every_order()}
    times = {i: (order["created_at"], order["updated_at"], order["version"]) for i, order in orders.items()}
    assert times == {"1": (early, early, 1), "2": (late, late, 7), "3": (early, late, 1)}
