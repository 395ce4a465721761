"""The console's pages Changes, of an order with its history, and of the search, in a real browser."""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import expect

from tests.browser import LARGEST_PAGE_BYTES, accessibility_faults, sideways_scroll, transferred_bytes
from tests.builders import later, text_of
from tests.drivers import Api, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Locator, Page

    from tests.browser import Browser
    from tests.browser_fixtures import Console

HOSTILE = "\"><img src=x onerror=alert(1)>{{7*7}}</script>'"

NOTHING = "\N{EN DASH}"

MERGE_PATCH = "application/merge-patch+json"

_NOTE_DELAYS = """
window.delays = [];
const add = EventSource.prototype.addEventListener;
EventSource.prototype.addEventListener = function (type, listener) {
    add.call(this, type, (event) => { window.arrived = performance.now(); listener.call(this, event); });
};
addEventListener("DOMContentLoaded", () => new MutationObserver((changes) => {
    const isAddition = changes.some((change) => change.addedNodes.length);
    if (isAddition) window.delays.push(performance.now() - window.arrived);
}).observe(document.getElementById("changes"), { childList: true }));
"""


@pytest.fixture
def admin(guarded_console: Console) -> Iterator[Api]:
    """A caller who may do everything, of the API that asks for keys."""
    with Api(urlsplit(guarded_console.url).port or 0) as api:
        api.client.headers["Authorization"] = f"Bearer {guarded_console.key('admin')}"
        yield api


def _patch(api: Api, order: dict[str, Any], reason: str | None = None, **members: Any) -> None:
    headers = {"Content-Type": MERGE_PATCH} | ({"Change-Reason": quote(reason)} if reason else {})
    answer = api.client.patch(f"/orders/{order['id']}", json=members, headers=headers)
    assert answer.status_code == 200, answer.text


def _log_has(console: Console, changes: int) -> None:
    """Wait until so many changes have their positions."""
    latest = "/order-changes/latest"
    wait_until(lambda: console.api.client.get(latest).json()["position"] == changes, "positions are assigned")


def _sound(page: Page) -> None:
    assert accessibility_faults(page) == []
    assert sideways_scroll(page) == 0


def _sign_in(page: Page, key: str, path: str) -> None:
    page.goto(path)
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(path)


def _words(rows: Locator) -> list[str]:
    return [" ".join(text.split()) for text in rows.all_inner_texts()]


def test_a_change_appears_on_an_open_page_with_who_and_why_as_it_reads_later(
    browser: Browser, console: Console
) -> None:
    """Within 50 ms of its event. Each kind reads the same live and after the page was loaded again."""
    page = browser.open(console.url)
    page.goto("/console/changes")
    expect(page.locator("#empty")).to_contain_text(f"curl -s {console.url}/orders")
    _sound(page)
    page.add_init_script(_NOTE_DELAYS)
    page.reload()
    order = console.api.placed_order(services=(123, 789), reference="PO-1", metadata={"floor": "2", "a": "b"})
    row = page.locator("#changes > li").first
    expect(row).to_contain_text("created")
    expect(row).to_contain_text("PO-1")
    expect(page.locator("#empty")).to_have_count(0)
    _patch(
        console.api,
        order,
        "The customer, encore une fois à 9 h",
        totalfee=9999999999.99,
        datetime=text_of(later(days=1)),
        services=[{"id": 123}, {"id": 456}],
        reference=None,
        metadata={"floor": "3", "a": None, "note": "x" * 300},
    )
    expect(row).to_contain_text("The customer, encore une fois à 9 h")
    expect(row).to_contain_text("anyone")
    expect(row).to_contain_text("Fee 100.00 → 9,999,999,999.99")
    _patch(console.api, order, calendar="crew-7")
    for action in ("cancel", "reinstate"):
        assert console.api.client.post(f"/orders/{order['id']}/{action}").status_code == 200
    assert console.api.client.delete(f"/orders/{order['id']}").status_code == 204
    expect(page.locator("#changes > li")).to_have_count(6)
    live = _words(page.locator("#changes > li"))
    assert [re.findall(r"created|updated|cancelled|reinstated|deleted", text)[0] for text in live] == [
        *("deleted", "reinstated", "cancelled", "updated", "updated", "created")
    ]
    delays = page.evaluate("window.delays")
    assert len(delays) == 6
    assert max(delays) <= 50, delays
    expect(page.locator("#changes > li.fresh")).to_have_count(0)
    links = [a.get_attribute("href") for a in page.locator("#changes a").all()]
    _sound(page)
    browser.screenshot(page, "live")
    page.reload()
    assert _words(page.locator("#changes > li")) == live
    assert [a.get_attribute("href") for a in page.locator("#changes a").all()] == links
    sizes = transferred_bytes(page, "/console/changes")
    assert sum(sizes.values()) <= LARGEST_PAGE_BYTES, sizes


def test_a_page_that_is_left_open_keeps_a_bounded_number_of_changes(page: Page, console: Console) -> None:
    """What it drops is on the older page, whose address moves with it."""
    page.goto("/console/changes")
    expect(page.locator("#changes")).to_have_attribute("data-rows", "200")
    page.evaluate("document.getElementById('changes').dataset.rows = 5")
    order = console.api.placed_order()
    for fee in range(1, 9):
        _patch(console.api, order, totalfee=fee)
    rows = page.locator("#changes > li")
    expect(rows.first).to_contain_text("7.00 → 8.00")
    expect(rows).to_have_count(5)
    shown = [row.get_attribute("data-position") for row in rows.all()]
    assert shown == ["9", "8", "7", "6", "5"]
    expect(page.locator("nav.pager")).to_contain_text("to 9 of 9")
    page.get_by_role("link", name="Older").click()
    expect(rows).to_have_count(4)
    assert [row.get_attribute("data-position") for row in rows.all()] == ["4", "3", "2", "1"]


def test_filters_and_pages_need_no_javascript_and_show_each_change_once(
    browser: Browser, console: Console
) -> None:
    """Going back from the newest to the beginning, and forth again."""
    busy = console.api.placed_order(calendar="busy")
    seldom = console.api.placed_order(calendar="seldom")
    for fee in range(1, 80):
        _patch(console.api, busy, totalfee=fee)
        if fee % 20 == 0:
            _patch(console.api, seldom, totalfee=fee)
    _log_has(console, 84)
    page = browser.open(console.url, javascript=False)

    def pages(query: str) -> list[list[int]]:
        page.goto(f"/console/changes?{query}")
        shown = []
        while True:
            rows = page.locator("#changes > li").all()
            shown.append([int(row.get_attribute("data-position") or 0) for row in rows])
            older = page.get_by_role("link", name="Older")
            if not older.count():
                return shown
            older.click()

    def positions(query: str) -> list[int]:
        items = console.api.client.get(f"/order-changes?limit=100&{query}").json()["items"]
        return [int(item["sequence"]) for item in items][::-1]

    for query in ("", "calendar=seldom", "calendar=busy&type=order.updated", f"order={seldom['id']}"):
        assert list(chain.from_iterable(pages(query))) == positions(query), query
    assert [len(each) for each in pages("")] == [50, 34]
    page.get_by_role("link", name="Newer").click()
    assert page.locator("#changes > li").count() == 50
    expect(page.get_by_role("link", name="Newer")).to_have_count(0)
    page.get_by_label("Calendar").fill("seldom")
    page.get_by_label("What").select_option("updated")
    page.get_by_role("button", name="Filter").click()
    assert page.locator("#changes > li").count() == 3
    expect(page.locator("#changes > li").first).to_contain_text("60.00")
    page.get_by_role("link", name=f"Order {seldom['id']}").first.click()
    expect(page.get_by_role("heading", name="Version 4")).to_be_visible()
    browser.expect("400")
    page.goto("/console/changes?order=abc")
    expect(page.get_by_role("alert")).to_contain_text("must be an id")
    expect(page.get_by_role("textbox", name="Order")).to_have_value("abc")


def test_a_page_with_filters_shows_only_matching_changes_live(page: Page, console: Console) -> None:
    """A calendar's are those of orders that came from it too."""
    order = console.api.placed_order(calendar="north")
    _log_has(console, 1)
    page.goto("/console/changes?calendar=north&type=order.updated")
    expect(page.locator("#empty")).to_contain_text("No change matches")
    console.api.placed_order(calendar="north", at=later(days=2))
    _patch(console.api, console.api.placed_order(calendar="south"), totalfee=1)
    _patch(console.api, order, totalfee=7)
    _patch(console.api, order, calendar="south", datetime=text_of(later(days=3)))
    rows = page.locator("#changes > li")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("Calendar north → south")
    expect(rows.last).to_contain_text("Fee 100.00 → 7.00")


def test_an_order_s_history_is_a_readable_diff_that_grows_while_it_is_open(
    browser: Browser, guarded_console: Console, admin: Api
) -> None:
    """Whoever may write edits, cancels and reinstates the order there; a stale version is refused."""
    console, api = guarded_console, admin
    order = api.placed_order(reference="PO-7", services=(123, 789), metadata={"floor": "2", "door": "left"})
    page = browser.open(console.url)
    path = f"/console/orders/{order['id']}"
    _sign_in(page, console.key("dispatcher"), path)
    newest = page.locator(".versions > li").first
    page.get_by_role("button", name="Edit").click()
    dialog = page.get_by_role("dialog", name="Edit order")
    expect(dialog.get_by_label("Reference")).to_have_value("PO-7")
    dialog.get_by_label("Fee").fill("180.50")
    dialog.get_by_label("Reason").fill("Agrément")
    _sound(page)
    browser.screenshot(page, "edit")
    dialog.get_by_role("button", name="Save").click()
    expect(newest).to_contain_text("Version 2")
    expect(newest.locator(".actor")).to_have_text("dispatcher")
    expect(newest.locator(".reason")).to_have_text("Agrément")
    assert _words(newest.locator("tbody tr")) == ["Fee 100.00 180.50"]

    _patch(api, order, services=[{"id": 123}, {"id": 456}], metadata={"floor": "3", "door": None})
    expect(newest).to_contain_text("Version 3")
    assert _words(newest.locator("tbody tr")) == [
        f"Service 789 Testing {NOTHING}",
        f"Service 456 {NOTHING} Analysis",
        f"Metadata door left {NOTHING}",
        "Metadata floor 2 3",
    ]
    expect(page.locator("dl.facts")).to_contain_text("Analysis")

    page.get_by_role("button", name="Cancel order").click()
    dialog = page.get_by_role("dialog", name="Cancel order")
    dialog.get_by_label("Reason").fill("The customer is ill.")
    _patch(api, order, totalfee=1)
    expect(newest).to_contain_text("Version 4")  # behind the dialog, which stays
    browser.expect("412")
    dialog.get_by_role("button", name="Cancel order").click()
    expect(dialog.get_by_role("alert")).to_contain_text("version")
    dialog.get_by_role("button", name="Keep it").click()
    page.get_by_role("button", name="Cancel order").click()
    expect(dialog.get_by_label("Reason")).to_have_value("The customer is ill.")
    dialog.get_by_role("button", name="Cancel order").click()
    expect(newest).to_contain_text("cancelled")
    expect(newest).to_contain_text("The customer is ill.")
    page.get_by_role("button", name="Reinstate").click()
    page.get_by_role("dialog").get_by_role("button", name="Reinstate").click()
    expect(newest).to_contain_text("reinstated")
    expect(page.get_by_role("link", name="Schedule of that day")).to_have_attribute(
        "href", "/console/schedule?view=day&date=2030-06-01&calendar=default"
    )
    _sound(page)
    browser.screenshot(page, "order")

    reader = browser.open(console.url, phone=True, dark=True)
    _sign_in(reader, console.key("reader"), path)
    expect(reader.get_by_role("heading", name="Version 6")).to_be_visible()
    assert reader.locator("main button, dialog").count() == 0
    _sound(reader)
    browser.screenshot(reader, "phone")


def test_who_may_not_read_changes_sees_the_order_and_is_told_why_it_has_no_history(
    browser: Browser, guarded_console: Console, admin: Api
) -> None:
    """The key lacks changes:read, so nothing of the log is shown, nor followed."""
    console = guarded_console
    order = admin.placed_order(reference="PO-8")
    body = {"name": "shop", "scopes": ["orders:read"]}
    made = admin.client.post("/keys", json=body)
    assert made.status_code == 201, made.text
    page = browser.open(console.url)
    _sign_in(page, made.json()["key"], f"/console/orders/{order['id']}")
    expect(page.get_by_text("PO-8")).to_be_visible()
    expect(page.get_by_text("changes:read")).to_be_visible()
    assert page.locator(".versions").count() == 0
    expect(page.get_by_role("link", name="Changes")).to_have_count(0)
    browser.expect("403")
    page.goto("/console/changes")
    expect(page.get_by_role("alert")).to_contain_text("changes:read")


def test_search_leads_to_an_order_by_id_or_reference_and_to_a_deleted_one_s_history(
    page: Page, browser: Browser, console: Console
) -> None:
    """Several matches are listed, and if there is none, the page says what can be searched."""
    one = console.api.placed_order(reference="PO-2026/1 ä")
    other = console.api.placed_order(at=later(days=1), reference=one["id"])
    gone = console.api.placed_order(at=later(days=2), metadata={"door": "left"})
    headers = {"Change-Reason": "entered twice"}
    assert console.api.client.delete(f"/orders/{gone['id']}", headers=headers).status_code == 204
    _log_has(console, 4)
    page.goto("/console/changes")

    def search(text: str) -> None:
        box = page.get_by_role("searchbox")
        box.fill(text)
        box.press("Enter")

    search(" PO-2026/1 ä ")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Order {one['id']}")
    search(other["id"])
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Order {other['id']}")
    search(one["id"])
    assert page.locator("main a").all_inner_texts() == [f"Order {one['id']}", f"Order {other['id']}"]
    _sound(page)
    search(gone["id"])
    expect(page.locator(".headline").first).to_contain_text("deleted")
    expect(page.locator("dl.facts")).to_contain_text("left")
    expect(page.get_by_text("entered twice")).to_be_visible()
    search(HOSTILE)
    expect(page.get_by_text("No order has the id or the reference")).to_contain_text(HOSTILE)
    _sound(page)
    browser.screenshot(page, "none")
    browser.expect("404")
    page.goto("/console/orders/999")
    expect(page.get_by_role("alert")).to_contain_text("There is no order 999.")


def test_texts_of_callers_are_shown_as_texts(page: Page, browser: Browser, console: Console) -> None:
    """Live and from the server, on both pages: in references, metadata, reasons, names of services."""
    ran: list[str] = []
    page.on("dialog", lambda dialog: ran.append(dialog.message))
    service = console.api.client.post("/services", json={"name": HOSTILE})
    assert service.status_code == 201, service.text
    order = console.api.placed_order(services=(service.json()["id"],), reference=HOSTILE)
    _log_has(console, 1)
    page.goto("/console/changes")
    members = {"metadata": {HOSTILE[:40]: HOSTILE + "\u202egnp\n" + "w" * 400}, "reference": HOSTILE[:-1]}
    _patch(console.api, order, HOSTILE, **members)
    rows = page.locator("#changes > li")
    expect(rows).to_have_count(2)
    for _ in ("live", "from the server"):
        expect(rows.first.locator(".reason")).to_have_text(HOSTILE)
        expect(rows.first.locator("del").first).to_have_text(HOSTILE)
        expect(rows.last).to_contain_text(HOSTILE)
        assert page.locator("main img").count() == 0
        _sound(page)
        page.reload()
    browser.screenshot(page, "changes")
    page.goto(f"/console/orders/{order['id']}")
    _patch(console.api, order, totalfee=5)
    expect(page.get_by_role("heading", name="Version 3")).to_be_visible()
    assert page.locator("main img").count() == 0
    expect(page.locator("dl.facts")).to_contain_text("{{7*7}}")
    page.set_viewport_size({"width": 360, "height": 740})
    _sound(page)
    browser.screenshot(page, "order")
    assert ran == []
