"""Charts of fee summaries: the figures of the JSON answer as a picture."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Coroutine
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import pytest

from api.pictures.bar_chart import BarChart, Series, draw
from api.pictures.svg import LARGEST_PICTURE_BYTES, shorten
from tests.builders import later
from tests.fee_summary_history import History
from tests.fee_summary_model import Query
from tests.steps import apply_every_change, place

if TYPE_CHECKING:
    from tests.drivers import Api, Database

Run = Callable[[Coroutine[Any, Any, Any]], Any]

SVG = "image/svg+xml"
ACCEPT_OF_AN_IMG_ELEMENT = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
NAMESPACE = "{http://www.w3.org/2000/svg}"
ALLOWED = {"svg", "rect", "text", "g", "path", "title"}


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


def picture_of(text: str) -> ET.Element:
    """Parse a picture; it may contain nothing that could run or load anything."""
    root = ET.fromstring(text)  # noqa: S314 (this service made it)
    assert {node.tag.removeprefix(NAMESPACE) for node in root.iter()} <= ALLOWED
    for node in root.iter():
        for name, value in node.attrib.items():
            assert not name.startswith("on")
            assert "href" not in name
            assert "url(" not in value or name.startswith("aria")
    assert "<!--" not in text
    assert len(text.encode()) < LARGEST_PICTURE_BYTES
    return root


def amounts_of(root: ET.Element) -> dict[tuple[str, str], Decimal]:
    """Return the amounts that a picture shows, by the names of series and period."""
    amounts = {}
    for series in root.iter(f"{NAMESPACE}g"):
        if series.get("class") == "series":
            for title in series.iter(f"{NAMESPACE}title"):
                period, _, amount = (title.text or "").partition(": ")
                amounts[series.get("aria-label", ""), period] = Decimal(amount.replace(",", ""))
    return amounts


def text_of(root: ET.Element) -> str:
    """Return all texts of a picture."""
    return " | ".join(node.text or "" for node in root.iter(f"{NAMESPACE}text"))


def draw_chart(api: Api, parameters: object = (), **headers: str) -> ET.Element:
    """Request a chart and parse it."""
    answer = api.client.get(f"/fee-summaries?{urlencode(parameters)}", headers={"Accept": SVG, **headers})  # type: ignore[arg-type]  # pairs or a mapping
    assert answer.status_code == 200, answer.text
    return picture_of(answer.text)


@pytest.mark.parametrize(
    "query",
    [
        Query(first=date(2030, 5, 1), end=date(2030, 9, 1)),
        Query(group_by="week", by=("service",)),
        Query(group_by="month", by=("calendar",), services=(123,)),
        Query(group_by="quarter", by=("service", "calendar")),
        Query(group_by="year", services=(123, 456)),
    ],
    ids=str,
)
def test_a_chart_has_the_figures_of_the_report(run: Run, api: Api, query: Query) -> None:
    """Its bars are the items, its subtitle the totals; position and time are in the picture."""
    history = History(18)
    run(history.write(60))
    run(apply_every_change())
    with_names = query.parameters()
    report = api.client.get(f"/fee-summaries?{urlencode([*with_names, ('limit', '100')])}").json()
    items = report["items"]
    while report["next"]:
        report = api.client.get(report["next"]).json()
        items += report["items"]
    expected: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for item in items:
        first = date.fromisoformat(item["period"])
        period = {
            "month": f"{first:%Y-%m}",
            "quarter": f"{first.year} Q{(first.month + 2) // 3}",
            "year": str(first.year),
        }.get(query.group_by, item["period"])
        names = [(item["service"] or {}).get("name"), item["calendar"]]
        expected[" · ".join(filter(None, names)), period] += Decimal(str(item["totalfee"]))
    root = draw_chart(api, with_names)
    shown = amounts_of(root)
    named = {name for name, _ in shown if not name.startswith("others")}
    others: dict[str, Decimal] = defaultdict(Decimal)
    for (name, period), amount in expected.items():
        if name in named:
            assert shown.pop((name, period), Decimal()) == amount
        else:
            others[period] += amount
    assert {period: amount for (_, period), amount in shown.items()} == {
        period: amount for period, amount in others.items() if amount
    }
    assert f"Total {Decimal(str(report['totals']['totalfee'])):,.2f}" in text_of(root)
    assert f"Exact for position {report['as_of']['position']}, as of " in text_of(root)
    assert report["as_of"]["time"][:19].replace("T", " ") + " (UTC)" in text_of(root)


def test_an_img_element_gets_the_chart_with_headers_that_keep_it_harmless(run: Run, api: Api) -> None:
    """The same request at the same position has the same bytes and tag, and 304 for who has them."""
    run(place(later(days=1)))
    run(apply_every_change())
    by_accept = api.client.get("/fee-summaries?by=service", headers={"Accept": ACCEPT_OF_AN_IMG_ELEMENT})
    assert by_accept.headers["content-type"] == SVG
    policy = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    assert by_accept.headers["content-security-policy"] == policy
    assert by_accept.headers["vary"] == "Accept"
    by_format = api.client.get("/fee-summaries?by=service&format=svg", headers={"Accept": "*/*"})
    again = api.client.get("/fee-summaries?by=service&position=1", headers={"Accept": SVG})
    assert by_accept.content == by_format.content == again.content
    known = {"Accept": SVG, "If-None-Match": by_accept.headers["etag"]}
    assert api.client.get("/fee-summaries?by=service", headers=known).status_code == 304
    report = api.client.get("/fee-summaries?by=service", headers={"Accept": "*/*"})
    assert report.headers["content-type"] == "application/json"
    assert report.headers["vary"] == "Accept"
    assert report.headers["etag"] != by_accept.headers["etag"]
    head = api.client.head("/fee-summaries?by=service", headers={"Accept": SVG})
    assert (head.headers["etag"], head.content) == (by_accept.headers["etag"], b"")
    refused = api.client.get("/fee-summaries?format=svg", headers={"Accept": "application/json"})
    assert refused.status_code == 406


def test_a_chart_has_no_pages(api: Api) -> None:
    """It is of the whole report, so the parameters of pages are refused, each by name."""
    answer = api.client.get("/fee-summaries?format=svg&limit=5&cursor=start")
    assert answer.status_code == 400
    assert answer.json()["errors"] == [
        {"parameter": "limit", "detail": "has no meaning with image/svg+xml"},
        {"parameter": "cursor", "detail": "has no meaning with image/svg+xml"},
    ]


@pytest.mark.parametrize("query", ["", "?from=1970-01-01&to=2200-01-01", "?from=2030-01-01&to=2030-01-01"])
def test_a_chart_without_orders_says_so(api: Api, query: str) -> None:
    """It still has its position."""
    answer = api.client.get(f"/fee-summaries{query}", headers={"Accept": SVG})
    text = text_of(picture_of(answer.text))
    assert "No orders in this range" in text
    assert "Exact for position 0, as of " in text


def test_the_axis_has_no_gaps(run: Run, api: Api) -> None:
    """Periods without orders have their place between the others."""
    run(place("2030-01-01T12:00:00Z", "10"))
    run(place("2030-01-05T12:00:00Z", "20"))
    run(apply_every_change())
    root = draw_chart(api)
    assert amounts_of(root) == {("", "2030-01-01"): 10, ("", "2030-01-05"): 20}
    labels = [text for text in text_of(root).split(" | ") if text.startswith("2030-")]
    assert labels == [f"2030-01-0{day}" for day in range(1, 6)]


def test_a_chart_says_which_periods_it_leaves_out_and_their_sum(run: Run, api: Api) -> None:
    """The latest 240 are drawn; a requested range that is too long is cut to the days with orders first."""
    for days, fee in ((0, "1.25"), (10, "2.50"), (400, "4"), (639, "8")):
        run(place((later(days=0) + timedelta(days=days)), fee))
    run(apply_every_change())
    first = later(days=0).date()
    for parameters in ({}, {"from": "1970-01-01", "to": "2200-01-01"}):
        root = draw_chart(api, parameters)
        shown_first, last = first + timedelta(days=400), first + timedelta(days=639)
        assert amounts_of(root) == {("", str(shown_first)): 4, ("", str(last)): 8}
        assert (
            f"Shown: {shown_first} to {last}. Left out: from {first} to the day before, 3.75 in all."
        ) in text_of(root)
        assert "Total 15.75 · 4 orders" in text_of(root)


def test_the_eight_largest_series_have_their_own_colour_and_the_others_are_together(
    run: Run, api: Api
) -> None:
    """Nothing is lost: the others are counted, and their sum is drawn."""
    for number in range(11):
        run(place("2030-01-01T12:00:00Z", str(10 + number), calendar=f"calendar-{number:02}"))
    run(apply_every_change())
    amounts = amounts_of(draw_chart(api, {"by": "calendar"}))
    assert amounts == {
        **{(f"calendar-{number:02}", "2030-01-01"): 10 + number for number in range(3, 11)},
        ("others (3)", "2030-01-01"): 10 + 11 + 12,
    }


@pytest.mark.parametrize(
    "name",
    [
        "</text><script>alert(1)</script>",
        "\" onload='alert(1)' ]]> --> <!--",
        "&lt;b&gt; &#0; \u05d0evil",
        "{{ 7 * 7 }} %s {0} $name url(https://example.org/x)",
        "name " * 12,
    ],
)
def test_the_name_of_a_service_is_text(run: Run, api: Api, database: Database, name: str) -> None:
    """Whatever a name has in it, a picture shows it and does nothing else."""
    database.rows("UPDATE service SET name = $1 WHERE id = 123", name.strip())
    run(place("2030-01-01T12:00:00Z", "10", services=[123, 456]))
    run(apply_every_change())
    root = draw_chart(api, {"by": "service"})
    shown = shorten(name.strip(), 28)
    assert amounts_of(root)[shown, "2030-01-01"] == 5
    assert shown in text_of(root).split(" | ")


def test_the_largest_chart_is_smaller_than_100_kb_and_the_same_each_time() -> None:
    """Its bars have as many parts as they may have, with long names of characters that take four bytes."""
    periods = [f"2030-01-{number:02}" for number in range(100)]
    amounts = dict.fromkeys(periods, Decimal("123456789.01"))
    series = [Series("\U0001f4a9\x00<" * 30, amounts) for _ in range(9)]
    chart = BarChart("Heading", ["detail " * 99], periods, series, ["note " * 99], "")
    drawn = draw(chart)
    assert drawn == draw(chart)
    assert len(amounts_of(picture_of(drawn.decode()))) == 100  # all series have the same name
    assert drawn.count(b"<title>") == 900


def test_a_process_that_draws_no_chart_does_not_import_pygal() -> None:
    """It takes time and memory that most processes have no use for."""
    code = "import sys, api.app; assert not {'pygal', 'xml.etree.ElementTree'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
