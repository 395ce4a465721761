"""Reports of fee summaries in pages: one position for all pages, and 304 for unchanged reports."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from tests.builders import later
from tests.fee_summary_history import History
from tests.fee_summary_model import Query, counted_orders, report, shown_figures, shown_row
from tests.fee_summary_steps import exactly
from tests.steps import apply_every_change, assign_all, place
from worker.fee_summaries.rebuild import rebuild

if TYPE_CHECKING:
    from tests.drivers import Api, Database

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


def test_all_pages_of_a_report_show_one_position_despite_writes_and_rebuilds(run: Run, api: Api) -> None:
    """Figures and orders; all rows are replaced between two pages."""
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
            run(rebuild())  # the next page reads rows of another generation
            run(history.write(1))  # without a position
        figures, orders = shown.values()
        position = run(apply_every_change()) if items is figures else position
        if items is figures:
            rows, _ = report(history.at(30), query)
            assert {shown_row(item): shown_figures(item) for item in figures} == rows
        else:
            expected = counted_orders(history.at(position), Query())
            assert [(item["id"], item["counted"]) for item in orders] == expected


def test_a_cursor_of_a_report_is_valid_for_that_report_only(run: Run, api: Api) -> None:
    """Every value of a repeated parameter counts."""
    for day in range(3):
        run(place(later(days=day)))
    run(apply_every_change())
    following = api.client.get("/fee-summaries?limit=1&by=service&service=123&service=456").json()["next"]
    assert api.client.get(following).json()["items"][0]["period"] == "2030-06-02"
    other = following.replace("service=456", "service=789")
    assert api.client.get(other).json()["type"] == "/problems/invalid-cursor"


def test_a_report_at_a_new_position_is_sent_again_although_its_figures_are_equal(run: Run, api: Api) -> None:
    """It names the position that it is exact for, and that has changed."""
    run(place(later(days=1)))
    run(apply_every_change())
    for path in ("/fee-summaries?to=2031-01-01", "/fee-summaries/orders?to=2031-01-01"):
        first = api.client.get(path)
        run(place(later(days=400, hours=len(path))))
        run(apply_every_change())
        again = api.client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert again.status_code == 200
        assert again.json()["as_of"]["position"] == first.json()["as_of"]["position"] + 1
        assert again.json()["items"][0]["totalfee"] == first.json()["items"][0]["totalfee"]


def test_an_unchanged_report_is_answered_304(run: Run, api: Api, database: Database) -> None:
    """A new position, service name or query makes it another one."""
    run(place(later(days=1)))
    run(apply_every_change())

    def status(tag: str, path: str = "/fee-summaries?by=service") -> int:
        return api.client.get(path, headers={"If-None-Match": tag}).status_code

    first = api.client.get("/fee-summaries?by=service")
    tag = first.headers["etag"]
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
