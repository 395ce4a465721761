"""Reports of fee summaries: compared with plain Python, at every position."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from contract.checks.har import TrafficCheck
from contract.checks.recording import Exchange, Message
from tests.builders import later
from tests.contract_schemas import CONTRACT
from tests.fee_summary_history import SERVICES, History
from tests.fee_summary_model import Query, counted_orders, report, shown_figures, shown_row
from tests.fee_summary_steps import exactly, pages, random_query
from tests.random_rounds import seeds
from tests.steps import apply_every_change, assign_all, place

if TYPE_CHECKING:
    from tests.drivers import Api, Database

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


@pytest.mark.parametrize("seed", seeds(21))
def test_at_every_position_a_report_equals_the_model_in_plain_python(run: Run, api: Api, seed: int) -> None:
    """Random histories, random reports, pages of random length."""
    history = History(seed)
    run(history.write(60))
    assert run(apply_every_change(at_once=7)) == 60
    for position in range(61):
        orders = list(history.at(position))
        query = random_query(history)
        limit = str(history.rng.choice((3, 10, 100)))
        every_page = pages(api, query, position=str(position), limit=limit)
        rows, totals = report(orders, query)
        shown = [item for page in every_page for item in page["items"]]
        expected = sorted(rows.items(), key=lambda row: (row[0][0], int(row[0][1] or 0), row[0][2] or ""))
        assert [(shown_row(item), shown_figures(item)) for item in shown] == expected, (position, query)
        for page in every_page:
            assert page["as_of"] == every_page[0]["as_of"]
            assert page["as_of"]["position"] == position
            assert shown_figures(page["totals"]) == totals, (position, query)


def test_changes_that_are_not_summed_yet_are_in_neither_figures_nor_orders(run: Run, api: Api) -> None:
    """It holds for the current position and for a given one."""
    history = History(25)
    run(history.write(20))
    assert run(apply_every_change()) == 20
    run(history.write(10))
    run(assign_all())
    run(history.write(10))  # these have no position yet
    answer = exactly(api.client.get("/fee-summaries?group_by=year"))
    rows, totals = report(history.at(20), Query(group_by="year"))
    assert shown_figures(answer["totals"]) == totals
    assert [item["id"] for item in api.every_item("/fee-summaries/orders")] == [
        order_id for order_id, _ in counted_orders(history.at(20), Query())
    ]
    assert rows


def test_averages_of_reports_are_rounded_half_to_even_to_the_cent(run: Run, api: Api) -> None:
    """0.015 and 0.025 are both 0.02."""
    for number, fee in enumerate(("0.01", "0.02", "0.01", "0.04")):
        run(place(later(days=number // 2, hours=3 * (number % 2)), fee=fee))
    run(apply_every_change())
    answer = exactly(api.client.get("/fee-summaries"))
    averages = [(item["totalfee"], item["averagefee"]) for item in answer["items"]]
    assert averages == [(Decimal("0.03"), Decimal("0.02")), (Decimal("0.05"), Decimal("0.02"))]
    assert (answer["totals"]["totalfee"], answer["totals"]["averagefee"]) == (
        Decimal("0.08"),
        Decimal("0.02"),
    )


def test_weeks_of_reports_are_those_of_iso_8601(run: Run, api: Api) -> None:
    """They begin on Monday, also across the new year."""
    for at in (
        "2029-12-30T12:00:00Z",
        "2029-12-31T12:00:00Z",
        "2030-01-06T23:59:59Z",
        "2030-01-07T12:00:00Z",
    ):
        run(place(at))
    run(apply_every_change())
    items = exactly(api.client.get("/fee-summaries?group_by=week"))["items"]
    assert [(item["period"], item["orders"]) for item in items] == [
        ("2029-12-24", 1),
        ("2029-12-31", 2),
        ("2030-01-07", 1),
    ]


def test_a_period_cut_by_the_range_contains_only_the_days_inside(run: Run, api: Api) -> None:
    """So do the orders listed for it."""
    for day in (1, 15, 30):
        run(place(f"2030-06-{day:02}T12:00:00Z"))
    run(apply_every_change())
    answer = exactly(api.client.get("/fee-summaries?group_by=quarter&from=2030-06-02&to=2030-06-30"))
    (item,) = answer["items"]
    assert (item["period"], item["orders"], answer["totals"]["orders"]) == ("2030-04-01", 1, 1)
    behind = exactly(api.client.get(item["counted_orders"]))["items"]
    assert [order["day"] for order in behind] == ["2030-06-15"]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("from=2030-06-02&to=2030-06-01", "from"),
        ("service=1&service=1", "service"),
        ("service=x", "service"),
        ("group_by=hour", "group_by"),
        ("by=hour", "by"),
        ("from=2030-06-02&from=2030-06-03", "from"),
        ("fill=one", "fill"),
        ("position=01", "position"),
        ("min_position=-1", "min_position"),
        ("position=1&min_position=1", "position"),
        ("wait=11", "wait"),
        ("after_version=223", "after_version"),
        ("after_version=223:0", "after_version"),
        ("after_version=223:1000000000", "after_version"),
        ("&".join(f"service={n}" for n in range(1, 22)), "service"),
        ("fill=zero&from=1970-01-01&to=2200-01-01&by=service&service=123&service=456&service=789", "fill"),
    ],
)
def test_an_invalid_report_query_is_refused_with_the_parameter_named(
    api: Api, query: str, parameter: str
) -> None:
    """Every fault is reported with its place."""
    answer = api.client.get(f"/fee-summaries?{query}")
    assert answer.status_code == 400
    assert parameter in {fault["parameter"] for fault in answer.json()["errors"]}


def test_report_answers_match_the_contract(run: Run, api: Api) -> None:
    """Checked by the tool that checks recordings."""
    history = History(27)
    run(history.write(25))
    run(apply_every_change())
    run(place(later(days=400)))
    check = TrafficCheck(CONTRACT)
    tag = api.client.get("/fee-summaries").headers["etag"]
    queries = [random_query(history).parameters() for _ in range(25)]
    cases = [
        *(("/fee-summaries?" + urlencode(query), {}) for query in queries),
        *(("/fee-summaries/export?" + urlencode(query), {"Accept": "text/csv"}) for query in queries[:5]),
        *((f"/fee-summaries/orders?limit=3&service={service}", {}) for service in SERVICES),
        ("/fee-summaries", {"If-None-Match": tag}),
        ("/fee-summaries?limit=1&by=service&by=calendar&by=none&position=20", {}),
        ("/fee-summaries/orders?position=20&calendar=a&calendar=B", {}),
        ("/fee-summaries?min_position=26&wait=0", {}),
        (f"/fee-summaries?after_version={10**15}:1", {}),
        ("/fee-summaries?after_version=999:1", {}),
        ("/fee-summaries/proof", {}),
        ("/metrics", {}),
    ]
    deviations = []
    statuses = set()
    for number, (path, headers) in enumerate(cases, start=1):
        answer = api.client.get(path, headers=headers)
        statuses.add(answer.status_code)
        kind = answer.headers.get("content-type", "").partition(";")[0]
        shown = Message(
            {name.lower(): value for name, value in answer.headers.items()}, kind, answer.text or None
        )
        address, _, query = path.partition("?")
        exchange = Exchange(
            number, "GET", address, query, Message(headers, "", None), shown, answer.status_code
        )
        deviations += check.deviations(exchange)
    assert [str(deviation) for deviation in deviations] == []
    assert statuses == {200, 304, 404, 503}
