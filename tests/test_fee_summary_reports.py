"""Reports of fee summaries: compared with plain Python, at every position, in every form."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Coroutine
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from contract.document import load
from contract.har import TrafficCheck
from contract.recording import Exchange, Message
from tests.builders import later
from tests.fee_summary_history import CALENDARS, SERVICES, History
from tests.fee_summary_model import Query, counted_orders, report, shown_figures, shown_row
from tests.steps import apply_every_change, assign_all, place

if TYPE_CHECKING:
    import httpx

    from tests.drivers import Api, Database

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


def exactly(answer: httpx.Response) -> dict[str, Any]:
    """Read an answer, its numbers exactly."""
    assert answer.status_code == 200, answer.text
    read: dict[str, Any] = json.loads(answer.text, parse_float=Decimal)
    return read


def pages(api: Api, query: Query, **more: str) -> list[dict[str, Any]]:
    """Read a report, page by page."""
    following = f"/fee-summaries?{urlencode([*query.parameters(), *more.items()])}"
    found = []
    while following:
        found.append(exactly(api.client.get(following)))
        following = found[-1]["next"]
    return found


def random_query(history: History) -> Query:
    """Ask for some report."""
    chance = history.chance
    first = date(2030, chance.randint(5, 10), chance.randint(1, 28))
    end = date(2030, chance.randint(6, 11), chance.randint(1, 28))
    bounded = chance.random() < 0.6 and first < end
    return Query(
        group_by=chance.choice(("day", "week", "month", "quarter", "year")),
        by=tuple(chance.sample(("service", "calendar"), chance.randint(0, 2))),
        services=tuple(chance.sample(SERVICES, chance.choice((0, 0, 1, 2)))),
        calendars=tuple(chance.sample(CALENDARS, chance.choice((0, 0, 1, 2)))),
        first=first if bounded else None,
        end=end if bounded else None,
        fill=bounded and chance.random() < 0.5,
    )


@pytest.mark.parametrize("seed", [21, 22])
def test_at_every_position_a_report_is_what_plain_python_says(run: Run, api: Api, seed: int) -> None:
    """Random histories, random reports, pages of random length."""
    history = History(seed)
    run(history.write(60))
    assert run(apply_every_change(at_once=7)) == 60
    for position in range(61):
        orders = list(history.at(position))
        query = random_query(history)
        limit = str(history.chance.choice((3, 10, 100)))
        found = pages(api, query, position=str(position), limit=limit)
        rows, totals = report(orders, query)
        shown = [item for page in found for item in page["items"]]
        expected = sorted(rows.items(), key=lambda row: (row[0][0], int(row[0][1] or 0), row[0][2] or ""))
        assert [(shown_row(item), shown_figures(item)) for item in shown] == expected, (position, query)
        for page in found:
            assert page["as_of"] == found[0]["as_of"]
            assert page["as_of"]["position"] == position
            assert shown_figures(page["totals"]) == totals, (position, query)


def test_the_orders_behind_a_row_are_those_that_make_it_up(run: Run, api: Api) -> None:
    """Their number, the sum of what they bring, the least and the greatest."""
    history = History(23)
    run(history.write(40))
    run(apply_every_change())
    for position in range(0, 41, 4):
        query = Query(
            by=tuple(history.chance.sample(("service", "calendar"), history.chance.randint(0, 2))),
            group_by=history.chance.choice(("day", "week", "quarter")),
            services=tuple(history.chance.sample(SERVICES, history.chance.choice((0, 1, 2)))),
            first=date(2030, 6, 10) if history.chance.random() < 0.5 else None,
        )
        for item in (
            item for page in pages(api, query, position=str(position)) for item in page["items"][:4]
        ):
            behind = exactly(api.client.get(f"{item['counted_orders']}&limit=100"))
            assert behind["as_of"]["position"] == position
            counted = [order["counted"] for order in behind["items"]]
            assert sum(counted) == item["totalfee"]
            if item["orders"] is not None:
                assert (len(counted), min(counted), max(counted)) == (
                    item["orders"],
                    item["minfee"],
                    item["maxfee"],
                )
            for order in behind["items"]:
                assert sum(service["share"] for service in order["services"]) == order["totalfee"]
        everything = api.every_item(f"/fee-summaries/orders?position={position}&limit=7")
        assert [item["id"] for item in everything] == [
            order_id for order_id, _ in counted_orders(history.at(position), Query())
        ]


def test_a_report_in_pages_shows_one_position_while_orders_are_written_and_summed(run: Run, api: Api) -> None:
    """Figures and orders alike."""
    history = History(24)
    run(history.write(30))
    position = run(apply_every_change())
    query = Query(by=("service", "calendar"))
    shown: dict[str, list[dict[str, Any]]] = {
        f"/fee-summaries?{urlencode(query.parameters())}&limit=5": [],
        "/fee-summaries/orders?limit=3": [],
    }
    for start, items in shown.items():
        following = start
        while following:
            page = exactly(api.client.get(following))
            assert page["as_of"]["position"] == position
            items.extend(page["items"])
            following = page["next"]
            run(history.write(3))
            run(assign_all())  # recorded, and not summed yet
            if len(items) > 10:
                run(apply_every_change())
            run(history.write(1))  # without a position
        figures, orders = shown.values()
        position = run(apply_every_change()) if items is figures else position
        if items is figures:
            rows, _ = report(history.at(30), query)
            assert {shown_row(item): shown_figures(item) for item in figures} == rows
        else:
            expected = counted_orders(history.at(position), Query())
            assert [(item["id"], item["counted"]) for item in orders] == expected


def test_what_is_recorded_and_not_summed_yet_is_in_neither_figures_nor_orders(run: Run, api: Api) -> None:
    """With and without a position."""
    history = History(25)
    run(history.write(20))
    assert run(apply_every_change()) == 20
    run(history.write(10))
    run(assign_all())
    run(history.write(10))  # these have no position yet
    found = exactly(api.client.get("/fee-summaries?group_by=year"))
    rows, totals = report(history.at(20), Query(group_by="year"))
    assert shown_figures(found["totals"]) == totals
    assert [item["id"] for item in api.every_item("/fee-summaries/orders")] == [
        order_id for order_id, _ in counted_orders(history.at(20), Query())
    ]
    assert rows


def test_a_whole_report_as_csv_has_the_rows_of_the_pages_and_the_totals_last(run: Run, api: Api) -> None:
    """Each line says what it is exact for."""
    history = History(26)
    run(history.write(40))
    run(apply_every_change())
    query = Query(
        by=("service", "calendar"), group_by="month", fill=True, first=date(2030, 5, 1), end=date(2030, 9, 1)
    )
    answer = api.client.get(f"/fee-summaries?{urlencode(query.parameters())}", headers={"Accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    *lines, total = csv.DictReader(io.StringIO(answer.text))
    rows, totals = report(history.now.values(), query)
    assert len(lines) == len(rows)
    for line in [*lines, total]:
        name = (line["period"], line["service_id"] or None, line["calendar"] or None)
        expected = totals if line is total else rows[name]
        figures = (line["orders"], line["totalfee"], line["averagefee"], line["minfee"], line["maxfee"])
        assert figures == tuple("" if value is None else str(value) for value in expected)
        assert (line["position"], line["time_zone"]) == ("40", "UTC")
    assert total["period"] == "total"
    again = api.client.get(
        f"/fee-summaries?{urlencode(query.parameters())}",
        headers={"Accept": "text/csv", "If-None-Match": answer.headers["etag"]},
    )
    assert (again.status_code, again.text) == (304, "")


def test_no_cell_of_a_csv_report_is_run_by_a_spreadsheet(run: Run, api: Api, database: Database) -> None:
    """A service's name is whatever somebody typed."""
    database.rows("UPDATE service SET name = '=1+1' WHERE id = 123")
    run(place(later(days=1)))
    run(apply_every_change())
    answer = api.client.get("/fee-summaries?by=service", headers={"Accept": "text/csv"})
    assert "'=1+1" in answer.text
    assert ",=1+1" not in answer.text


def test_an_unchanged_report_is_not_sent_again(run: Run, api: Api, database: Database) -> None:
    """A new position, name or query makes it another one."""
    run(place(later(days=1)))
    run(apply_every_change())

    def status(tag: str, path: str = "/fee-summaries?by=service") -> int:
        return api.client.get(path, headers={"If-None-Match": tag}).status_code

    first = api.client.get("/fee-summaries?by=service")
    tag = first.headers["etag"]
    assert first.headers["vary"] == "Accept"
    assert status(tag) == status(f"W/{tag}") == status("*") == 304
    assert status(tag, "/fee-summaries?by=calendar") == 200
    database.rows("UPDATE service SET name = 'Another', updated_at = now() WHERE id = 123")
    assert status(tag) == 200
    tag = api.client.get("/fee-summaries?by=service").headers["etag"]
    run(place(later(days=2)))
    run(assign_all())
    assert status(tag) == 304
    run(apply_every_change())
    assert status(tag) == 200
    orders = api.client.get("/fee-summaries/orders")
    assert status(orders.headers["etag"], "/fee-summaries/orders") == 304
    # A position's figures stay what they were.
    pinned = api.client.get("/fee-summaries?position=1")
    run(place(later(days=3)))
    run(apply_every_change())
    again = api.client.get("/fee-summaries?position=1")
    assert (again.headers["etag"], again.text) == (pinned.headers["etag"], pinned.text)


def test_an_average_is_rounded_to_the_cent_a_half_to_the_even_one(run: Run, api: Api) -> None:
    """0.015 and 0.025 are both 0.02."""
    for number, fee in enumerate(("0.01", "0.02", "0.01", "0.04")):
        run(place(later(days=number // 2, hours=3 * (number % 2)), fee=fee))
    run(apply_every_change())
    found = exactly(api.client.get("/fee-summaries"))
    averages = [(item["totalfee"], item["averagefee"]) for item in found["items"]]
    assert averages == [(Decimal("0.03"), Decimal("0.02")), (Decimal("0.05"), Decimal("0.02"))]
    assert (found["totals"]["totalfee"], found["totals"]["averagefee"]) == (Decimal("0.08"), Decimal("0.02"))


def test_weeks_are_those_of_iso_8601(run: Run, api: Api) -> None:
    """They begin on Monday, also across the new year."""
    for at in (
        "2029-12-30T12:00:00Z",
        "2029-12-31T12:00:00Z",
        "2030-01-06T23:59:59Z",
        "2030-01-07T12:00:00Z",
    ):
        run(place(at))  # type: ignore[arg-type]
    run(apply_every_change())
    items = exactly(api.client.get("/fee-summaries?group_by=week"))["items"]
    assert [(item["period"], item["orders"]) for item in items] == [
        ("2029-12-24", 1),
        ("2029-12-31", 2),
        ("2030-01-07", 1),
    ]


def test_a_period_that_the_range_cuts_holds_only_the_days_inside(run: Run, api: Api) -> None:
    """So do the orders behind it."""
    for day in (1, 15, 30):
        run(place(f"2030-06-{day:02}T12:00:00Z"))  # type: ignore[arg-type]
    run(apply_every_change())
    found = exactly(api.client.get("/fee-summaries?group_by=quarter&from=2030-06-02&to=2030-06-30"))
    (item,) = found["items"]
    assert (item["period"], item["orders"], found["totals"]["orders"]) == ("2030-04-01", 1, 1)
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
def test_a_report_that_can_not_be_is_refused_with_the_parameter_named(
    api: Api, query: str, parameter: str
) -> None:
    """Each fault with its place."""
    answer = api.client.get(f"/fee-summaries?{query}")
    assert answer.status_code == 400
    assert parameter in {fault["parameter"] for fault in answer.json()["errors"]}


def test_a_cursor_is_good_for_the_report_it_was_made_for(run: Run, api: Api) -> None:
    """Every value of a repeated parameter counts."""
    for day in range(3):
        run(place(later(days=day)))
    run(apply_every_change())
    following = api.client.get("/fee-summaries?limit=1&by=service&service=123&service=456").json()["next"]
    assert api.client.get(following).json()["items"][0]["period"] == "2030-06-02"
    other = following.replace("service=456", "service=789")
    assert api.client.get(other).json()["type"] == "/problems/invalid-cursor"


def test_what_is_answered_is_what_the_contract_promises(run: Run, api: Api) -> None:
    """Checked by the tool that checks recordings."""
    history = History(27)
    run(history.write(25))
    run(apply_every_change())
    run(place(later(days=400)))
    check = TrafficCheck(load())
    tag = api.client.get("/fee-summaries").headers["etag"]
    queries = [random_query(history).parameters() for _ in range(25)]
    cases = [
        *(("/fee-summaries?" + urlencode(query), {}) for query in queries),
        *(("/fee-summaries?" + urlencode(query), {"Accept": "text/csv"}) for query in queries[:5]),
        *((f"/fee-summaries/orders?limit=3&service={service}", {}) for service in SERVICES),
        ("/fee-summaries", {"If-None-Match": tag}),
        ("/fee-summaries?limit=1&by=service&by=calendar&by=none&position=20", {}),
        ("/fee-summaries/orders?position=20&calendar=a&calendar=B", {}),
        ("/fee-summaries?min_position=26&wait=0", {}),
        (f"/fee-summaries?after_version={10**12}:1", {}),
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
