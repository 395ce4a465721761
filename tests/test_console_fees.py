"""The console's page Fees, in a real browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.browser import LARGEST_PAGE_BYTES, accessibility_faults, sideways_scroll, transferred_bytes
from tests.drivers import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser import Browser
    from tests.browser_fixtures import Console

HOSTILE = "\"><img src=x onerror=alert(1)>{{7*7}}</script>'"


def _as_admin(console: Console) -> dict[str, str]:
    # An API that asks for no keys takes any.
    return {"Authorization": f"Bearer {console.key('admin')}"}


def _place(console: Console, at: str, fee: str, *services: str) -> str:
    body = {"datetime": at, "totalfee": float(fee), "services": [{"id": id_} for id_ in services or ("123",)]}
    answer = console.api.client.post("/orders", json=body, headers=_as_admin(console))
    assert answer.status_code == 201, answer.text
    order_id: str = answer.json()["id"]
    return order_id


def _summarised(console: Console, position: int) -> None:
    def is_reached() -> bool:
        report = console.api.client.get("/fee-summaries?limit=1", headers=_as_admin(console)).json()
        return bool(report["as_of"]["position"] >= position)

    wait_until(is_reached, f"the figures include position {position}")


def test_each_figure_opens_the_orders_behind_it(console: Console, page: Page, browser: Browser) -> None:
    """Chart, table and totals have the same figures, and hostile names are text."""
    console.pipeline.database.rows("UPDATE service SET name = $1 WHERE id = 456", HOSTILE)
    first = _place(console, "2030-01-01T12:00:00Z", "100.01", "123", "456")
    _place(console, "2030-02-01T12:00:00Z", "20")
    _summarised(console, 2)
    page.goto("/console/fees?by=service")
    expect(page.get_by_role("heading", level=1)).to_have_text("Fees")
    expect(page.locator(".totals")).to_contain_text("120.01")
    expect(page.locator("tbody tr")).to_have_count(3)
    expect(page.locator("tbody")).to_contain_text(HOSTILE)
    width = page.locator(".chart img").evaluate("image => image.decode().then(() => image.naturalWidth)")
    assert width == 960
    assert accessibility_faults(page) == []
    browser.screenshot(page, "light")
    chart = page.locator(".chart img").get_attribute("src") or ""
    shown = page.request.get(chart)
    path = chart.removeprefix("/console/api")
    assert shown.body() == console.api.client.get(path, headers={"Accept": "image/svg+xml"}).content
    csv = page.get_by_role("link", name="CSV").get_attribute("href") or ""
    assert '"total"' in page.request.get(csv, headers={"Accept": "text/csv"}).text()
    page.get_by_role("row", name=re.compile("onerror")).get_by_role("link", name="50.00").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Orders behind a figure")
    expect(page.get_by_role("link", name=first, exact=True)).to_have_attribute(
        "href", f"/console/orders/{first}"
    )
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody")).to_contain_text(HOSTILE)
    assert accessibility_faults(page) == []
    assert sum(transferred_bytes(page, "/console/fees").values()) <= LARGEST_PAGE_BYTES


def test_an_open_page_follows_changes_and_waits_for_versions(console: Console, page: Page) -> None:
    """Newer figures replace those shown; a version that does not exist is said in the API's words."""
    page.goto("/console/fees")
    expect(page.get_by_text("No orders in these days")).to_be_visible()
    expect(page.locator("#live")).to_have_text("Live")
    order = _place(console, "2030-01-01T12:00:00Z", "50")
    expect(page.locator(".totals")).to_contain_text("50.00")
    expect(page.locator("#age")).to_contain_text("ago")
    page.get_by_label("Order", exact=True).fill(order)
    page.get_by_role("button", name="Wait").click()
    expect(page.get_by_text(f"Version 1 of order {order} is included.")).to_be_visible()
    page.get_by_label("Order", exact=True).fill(order)
    page.get_by_label("Version", exact=True).fill("7")
    page.get_by_role("button", name="Wait").click()
    expect(page.get_by_role("alert")).to_contain_text("version 7")
    expect(page.locator(".totals")).to_contain_text("50.00")


def test_fees_can_be_read_by_finance_without_javascript(guarded_console: Console, browser: Browser) -> None:
    """With the one scope that finance has; filters and pages work; what can't be read is said."""
    for day in range(1, 4):
        _place(guarded_console, f"2030-01-0{day}T12:00:00Z", "10")
    _summarised(guarded_console, 3)
    browser.expect("status of 400")
    page = browser.open(guarded_console.url, javascript=False, dark=True)
    page.goto("/console/sign-in?next=/console/fees")
    page.get_by_label("API key").fill(guarded_console.key("finance"))
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("From").fill("2030-01-02")
    page.get_by_role("combobox").select_option("day")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody tr")).to_have_count(2)
    expect(page.get_by_role("row", name=re.compile("2030-01-03"))).to_contain_text("10.00")
    browser.screenshot(page, "dark")
    page.goto("/console/fees?from=2031-01-01&to=2030-01-01")
    expect(page.get_by_role("alert")).to_contain_text("must not be later than to")


def test_fees_fit_on_a_phone(console: Console, browser: Browser) -> None:
    """Only chart and table scroll sideways, each by itself; dark colours have contrast."""
    _place(console, "2030-01-01T12:00:00Z", "10")
    _summarised(console, 1)
    page = browser.open(console.url, phone=True, dark=True)
    page.goto("/console/fees?by=service&by=calendar")
    assert sideways_scroll(page) == 0
    assert accessibility_faults(page) == []
    browser.screenshot(page, "phone-dark")
