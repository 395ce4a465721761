"""An import's report on files that it refuses: every fault, each with its place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.builders import NOON, later, order_body
from tests.import_steps import (
    SAMPLE_ORDERS,
    catalogue,
    import_files,
    import_rows,
    imported,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers import Api, Database


def test_every_invalid_order_of_a_file_is_named_with_its_place_and_the_reason(
    api: Api, database: Database, tmp_path: Path
) -> None:
    """All in one run, and nothing of the file is stored."""
    before = database.counts()
    done = import_rows(
        tmp_path,
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
        ],
    )
    assert done.returncode == 1
    assert done.stdout == ""
    for place in (
        *("orders[1].totalfee: must be from 0", "orders[2].datetime: must be", "orders[3].id: must be"),
        *("orders[3].services.0.id: must be an id", "orders[4].datetime: is required"),
        *("orders[5].services: must have at least 1", "orders[6].colour: is not a member"),
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


def test_every_order_of_a_file_that_conflicts_with_stored_data_is_named(
    api: Api, database: Database, tmp_path: Path
) -> None:
    """Ids taken now or earlier; unknown or archived services; orders too close."""
    api.placed_order(id=5)
    api.placed_order(id=6, at=later(days=1))
    api.client.delete("/orders/6")
    api.client.delete("/services/456")
    before = database.counts()
    done = import_rows(
        tmp_path,
        [
            imported(5, at=later(days=2)),
            imported(6, at=later(days=1)),
            imported(7, at=later(hours=2)),
            imported(8, at=later(days=3), services=(123, 999)),
            imported(9, at=later(days=4), services=(456,)),
            imported(10, at=NOON, calendar="new"),
        ],
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


def test_invalid_rows_do_not_hide_conflicts_of_the_others(
    api: Api, database: Database, tmp_path: Path
) -> None:
    """Valid rows are compared with stored data in the same run, under their own place in the file."""
    api.placed_order(id=5)
    orders = [
        imported(1, fee=-1),
        imported(5, at=later(days=2)),
        imported(9, at=later(days=4)),
        imported(9, at=later(hours=1)),
        imported(10, at=later(days=5), services=(123, 999)),
        imported(11, at=later(days=6), services=(902,)),
    ]
    before = database.counts()
    done = import_rows(tmp_path, orders, catalogue((902, ""), (123, "Survey")))
    assert done.returncode == 1
    reasons = [
        "orders[0].totalfee: must be",
        "orders[3].id: 9 is the id of orders[2] too",
        "services[0].name: must not be blank",
        "services[1].name: service 123 is called 'Inspection', not 'Survey'",
        "orders[1].id: 5 is, or was, the id of another order",
        "orders[4].services[1].id: there is no service 999",
        "orders[3].datetime: less than three hours from order 5",
        "refused: nothing was imported; bad orders: 4, bad services: 2",
    ]
    said = done.stderr.splitlines()
    assert [line[: len(reason)] for line, reason in zip(said, reasons, strict=True)] == reasons
    assert database.counts() == before


@pytest.mark.usefixtures("api")
def test_a_hopeless_file_is_reported_on_one_page_and_in_full_in_a_file(tmp_path: Path) -> None:
    """The first hundred bad orders, all faults by kind, and the counts; the file has every fault."""
    count = 1_200
    rows = [imported(n, fee=-1, services=()) for n in range(1, count + 1)] + [imported(1), imported(2)]
    report = tmp_path / "faults.json"
    hint = "make import REPORT=faults.json, or --report faults.json"
    runs: list[tuple[list[Path | str], list[str]]] = [([], [hint]), (["--report", report], [])]
    for options, hints in runs:
        done = import_rows(tmp_path, rows, None, *options)
        assert done.returncode == 1
        *said, conclusion = done.stderr.splitlines()
        assert [line.partition(":")[0] for line in said[:200]] == [
            f"orders[{place}].{field}" for place in range(100) for field in ("totalfee", "services")
        ]
        assert said[200:203] == [
            "2,200 more faults are not shown. All faults by kind:",
            "1,200 times orders.totalfee: must be from 0 to 9999999999.99 (first: orders[0])",
            "1,200 times orders.services: must have at least 1 element (first: orders[0])",
        ]
        assert [line.partition(": ")[2] for line in said[203:]] == hints
        assert conclusion == "refused: nothing was imported; bad orders: 1,200, bad services: 0"
    faults = json.loads(report.read_text())
    assert len(faults) == 2_400
    assert faults[-1] == {
        "file": "orders",
        "row": 1_199,
        "line": None,
        "member": ".services",
        "detail": "must have at least 1 element",
        "pointer": "/services",
    }


@pytest.mark.usefixtures("api")
def test_a_row_that_cannot_be_read_is_in_the_report_too(tmp_path: Path) -> None:
    """As a text, like every other fault."""
    report, orders = tmp_path / "faults.json", tmp_path / "orders.ndjson"
    orders.write_text("[")
    assert import_files(orders, "--report", report).returncode == 1
    (fault,) = json.loads(report.read_text())
    assert (fault["line"], fault["member"]) == (1, "")
    assert fault["detail"].startswith("is not JSON")


@pytest.mark.usefixtures("api")
def test_faults_of_one_kind_are_counted_together_although_their_values_differ(tmp_path: Path) -> None:
    """And a row with many faults takes ten lines at most."""
    rows = [imported(n, services=range(1_000, 1_050)) for n in range(1, 152)]
    done = import_rows(tmp_path, rows)
    *said, conclusion = done.stderr.splitlines()
    assert len([line for line in said if line.startswith("orders[0]")]) == 10
    assert len(said) < 1_100
    assert (
        "7,550 times orders.services[…].id: there is no service …, or it is archived (first: orders[0])"
        in said
    )
    assert conclusion == "refused: nothing was imported; bad orders: 151, bad services: 0"


@pytest.mark.usefixtures("api")
def test_a_report_of_an_accepted_file_is_empty_and_one_that_cannot_be_written_is_said(
    database: Database, tmp_path: Path
) -> None:
    """The second in one line, before anything is imported."""
    report = tmp_path / "faults.json"
    assert import_rows(tmp_path, [imported(1)], None, "--report", report).returncode == 0
    assert json.loads(report.read_text()) == []
    done = import_rows(tmp_path, [imported(2, at=later(days=1))], None, "--report", tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert database.value("SELECT count(*) FROM orders") == 1


@pytest.mark.parametrize("suffix", [".csv", ".ndjson"])
@pytest.mark.usefixtures("api")
def test_faults_of_files_with_lines_have_line_numbers(tmp_path: Path, suffix: str) -> None:
    """Those that were found while the file was read, and those found in the database."""
    good = {"id": "1", "datetime": "2030-06-01T12:00:00Z", "totalfee": 1, "services": [{"id": "123"}]}
    lines = [good, {}, "garbage", good | {"id": 2, "totalfee": -1}, good | {"services": [{"id": "999"}]}]
    if suffix == ".ndjson":
        text = "".join("\n" if not v else f"{v if isinstance(v, str) else json.dumps(v)}\n" for v in lines)
    else:
        text = "id,datetime,totalfee,service_ids,service_names\n1,2030-06-01T12:00:00Z,1,123,\n\n"
        text += "garbage\n2,2030-06-01T12:00:00Z,-1,123,\n1,2030-06-01T12:00:00Z,1,999,\n"
    path = tmp_path / f"orders{suffix}"
    path.write_text(text)
    done = import_files(path)
    assert done.returncode == 1
    first = 2 if suffix == ".csv" else 1
    starts = [
        f"orders[1] (line {first + 2}): {'has 1 cells' if suffix == '.csv' else 'is not JSON'}",
        f"orders[2].totalfee (line {first + 3}): must be from 0",
        f"orders[3].id (line {first + 4}): 1 is the id of orders[0] too",
        f"orders[3].services[0].id (line {first + 4}): there is no service 999",
        "refused: nothing was imported; bad orders: 3, bad services: 0",
    ]
    said = done.stderr.splitlines()
    assert [line[: len(start)] for line, start in zip(said, starts, strict=True)] == starts


def test_invalid_rows_are_named_although_the_database_is_away(tmp_path: Path) -> None:
    """And a line says that nothing was compared with stored data."""
    path = tmp_path / "orders.json"
    path.write_text(json.dumps([imported(1, fee=-1)]))
    done = import_files(path, database=f"postgresql://nobody@/orders?host={tmp_path}")
    assert done.returncode == 1
    fault, unseen, conclusion = done.stderr.splitlines()
    assert fault.startswith("orders[0].totalfee: must be")
    assert unseen.startswith("not compared with what is stored")
    assert conclusion == "refused: nothing was imported; bad orders: 1, bad services: 0"


def test_an_import_reports_an_unreachable_database_in_one_line(tmp_path: Path) -> None:
    """Exit status 1: trying again is right."""
    done = import_files(SAMPLE_ORDERS, database=f"postgresql://nobody@/orders?host={tmp_path}")
    assert done.returncode == 1
    assert "try again" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "empty"),
        ("[", "the file is not JSON"),
        ('{"orders": []}', "must be a JSON array"),
        ('[{"id": 1, "id": 2}]', "twice in one object"),
        ("[NaN]", "NaN"),
    ],
)
def test_an_import_reports_a_malformed_file_in_one_line(
    database: Database, content: str, reason: str, tmp_path: Path
) -> None:
    """Exit status 2, to distinguish it from a file with invalid orders."""
    done = import_rows(tmp_path, content)
    assert done.returncode == 2
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert database.value("SELECT count(*) FROM orders") == 0


def test_an_import_reports_a_missing_file_in_one_line(database: Database, tmp_path: Path) -> None:
    """A folder is not a file, and the catalogue must exist too."""
    before = database.counts()
    for arguments in (
        [tmp_path / "missing.json"],
        [tmp_path],
        [SAMPLE_ORDERS, "--services", tmp_path / "missing.json"],
    ):
        done = import_files(*arguments)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
    assert database.counts() == before
