"""Reports of fee summaries as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Coroutine
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from tests.builders import later
from tests.fee_summary_history import History
from tests.fee_summary_model import Query, report
from tests.steps import apply_every_change, place

if TYPE_CHECKING:
    from tests.drivers import Api, Database

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


def test_a_csv_report_has_the_rows_of_all_pages_and_the_totals_last(run: Run, api: Api) -> None:
    """Each line names the position that it is exact for."""
    history = History(26)
    run(history.write(40))
    run(apply_every_change())
    query = Query(
        by=("service", "calendar"), group_by="month", fill=True, first=date(2030, 5, 1), end=date(2030, 9, 1)
    )
    answer = api.client.get(
        f"/fee-summaries/export?{urlencode(query.parameters())}", headers={"Accept": "text/csv"}
    )
    assert answer.headers["content-type"].startswith("text/csv")
    *lines, total = csv.DictReader(io.StringIO(answer.text))
    rows, totals = report(history.now.values(), query)
    assert len(lines) == len(rows)
    for line in [*lines, total]:
        name = (line["period"], line["service_id"] or None, line["calendar"] or None)
        expected = totals if line is total else rows[name]
        figures = (line["orders"], line["totalfee"], line["averagefee"], line["minfee"], line["maxfee"])
        assert figures == tuple(
            "" if value is None else f"{value:.2f}" if isinstance(value, Decimal) else str(value)
            for value in expected
        )
        assert (line["position"], line["time_zone"]) == ("40", "UTC")
    assert total["period"] == "total"
    again = api.client.get(
        f"/fee-summaries/export?{urlencode(query.parameters())}",
        headers={"Accept": "text/csv", "If-None-Match": answer.headers["etag"]},
    )
    assert (again.status_code, again.text) == (304, "")


def test_no_cell_of_a_csv_report_is_executed_as_a_formula(run: Run, api: Api, database: Database) -> None:
    """The name of a service may be any text."""
    database.rows("UPDATE service SET name = '=1+1' WHERE id = 123")
    run(place(later(days=1)))
    run(apply_every_change())
    answer = api.client.get("/fee-summaries/export?by=service", headers={"Accept": "text/csv"})
    assert "'=1+1" in answer.text
    assert ",=1+1" not in answer.text
    assert ',"123","\'=1+1",,1,' in answer.text
