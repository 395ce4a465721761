"""The console's page of imports, in a real browser."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.browser import accessibility_faults

if TYPE_CHECKING:
    from playwright.sync_api import FilePayload, Page

    from tests.browser import Browser
    from tests.browser_fixtures import Console

ORDER = {"datetime": "2031-05-01T09:00:00Z", "totalfee": 80, "services": [{"id": "123"}]}


def _choose(page: Page, name: str, content: str) -> None:
    file: FilePayload = {"name": name, "mimeType": "", "buffer": content.encode()}
    page.get_by_label("File of orders").set_input_files(file)


def test_a_file_is_checked_and_its_faults_are_listed_as_text(
    browser: Browser, page: Page, console: Console
) -> None:
    """With their places; nothing is stored."""
    browser.expect("422")
    page.goto("/console/imports")
    _choose(page, "<b>shop</b>.json", json.dumps([ORDER, {**ORDER, "totalfee": -1, "<img src=x>": 1}]))
    page.get_by_role("button", name="Check only").click()
    faults = page.get_by_role("region", name="Faults")
    expect(faults).to_contain_text("#/1/totalfee")
    expect(faults).to_contain_text("#/1/%3Cimg%20src=x%3E")
    assert page.locator("main img").count() == 0
    assert page.get_by_role("link", name="Keep this report").get_attribute("download") == "faults.json"
    assert accessibility_faults(page) == []
    assert console.api.client.get("/orders").json()["items"] == []
    browser.screenshot(page, "faults")


def test_a_file_is_checked_imported_and_listed_by_keyboard_alone(page: Page, console: Console) -> None:
    """The reason is in the changes; the same file again stores nothing."""
    page.goto("/console/imports")
    _choose(page, "shop.csv", "datetime,totalfee,service_ids\n2031-05-01T09:00:00Z,80,123\n")
    page.get_by_role("button", name="Check only").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_contain_text("1 order can be imported. Nothing was stored yet.")
    page.get_by_label("Reason").fill("Übernahme")
    page.get_by_label("Reason").press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_contain_text("Imported 1 order.")
    expect(page.get_by_role("row").filter(has_text="shop.csv")).to_have_count(1)
    (order,) = console.api.client.get("/orders").json()["items"]
    console.pipeline.wait_until_summed()
    (change,) = console.api.client.get(f"/orders/{order['id']}/changes").json()["items"]
    assert change["reason"] == "Übernahme"
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.locator("#result")).to_contain_text("imported before")


def test_a_reader_sees_the_list_and_no_form(browser: Browser, guarded_console: Console) -> None:
    """Whoever may not import has no button."""
    page = browser.open(guarded_console.url)
    page.goto("/console/sign-in?next=/console/imports")
    page.get_by_label("API key").fill(guarded_console.key("reader"))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("/console/imports")
    expect(page.get_by_text("No file was imported yet")).to_be_visible()
    assert page.locator("main button, main form").count() == 0
