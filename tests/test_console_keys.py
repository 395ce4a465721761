"""The console's page of keys, in a real browser."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.browser import accessibility_faults, sideways_scroll
from tests.drivers import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser import Browser
    from tests.browser_fixtures import Console


def _sign_in(page: Page, key: str, path: str = "/console/keys") -> None:
    page.goto(path)
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(path)


def _wait_until_signed_out(page: Page) -> None:
    def signed_out() -> bool:
        page.goto("/console/health")
        return "/console/sign-in" in page.url

    wait_until(signed_out, "the session ended with its key", pause=0.2)


def _wait_until_refused(console: Console, key: str) -> None:
    def refused() -> bool:
        headers = {"Authorization": f"Bearer {key}"}
        return console.api.client.get("/caller", headers=headers).status_code == 401

    wait_until(refused, "the leaked secret opens nothing")


def _sound(page: Page) -> None:
    assert accessibility_faults(page) == []
    assert sideways_scroll(page) == 0


def test_where_no_keys_are_asked_for_the_page_says_what_the_first_one_means(
    page: Page, browser: Browser
) -> None:
    """It can't be made there: the operator makes it. Then the page asks for it."""
    page.goto("/console/keys")
    expect(page.get_by_text("oms key make admin --scopes all")).to_be_visible()
    expect(page.get_by_text("every client without one gets")).to_be_visible()
    assert page.locator("main button").count() == 0
    _sound(page)
    browser.screenshot(page, "open")


def test_a_key_is_made_and_opens_what_its_scopes_say(browser: Browser, guarded_console: Console) -> None:
    """Shown once, with a curl that works. The key signs somebody in, who sees no page of keys."""
    database = guarded_console.pipeline.database
    database.rows("UPDATE api_key SET expires_at = now() WHERE name = 'finance'")
    page = browser.open(guarded_console.url)
    _sign_in(page, guarded_console.key("admin"))
    expect(page.get_by_role("row", name="finance")).to_contain_text("expired")
    expect(page.get_by_role("row", name="admin")).to_contain_text("this session")
    _sound(page)
    browser.screenshot(page, "list")
    page.get_by_role("button", name="Make a key").click()
    dialog = page.get_by_role("dialog", name="Make a key")
    dialog.get_by_label("Name").fill("reader")
    dialog.get_by_label("orders:read").check()
    dialog.get_by_label("Expires").fill("2199-12-31T12:00")
    browser.expect("409")
    dialog.get_by_role("button", name="Make", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("Another key is called reader.")
    _sound(page)
    browser.screenshot(page, "make")
    dialog.get_by_label("Name").fill("shop")
    dialog.get_by_role("button", name="Make", exact=True).click()
    shown = page.get_by_role("dialog", name="The new key")
    key = shown.get_by_label("The secret").inner_text()
    curl = shown.locator("pre").inner_text()
    _sound(page)
    browser.screenshot(page, "shown")
    shown.get_by_role("button", name="I have stored it").click()
    expect(page.get_by_role("row", name="shop")).to_contain_text("31 Dec 2199")
    assert key not in page.content()
    said = subprocess.run(["/bin/sh", "-c", curl], check=True, capture_output=True, text=True).stdout
    assert '"name":"shop","scopes":["orders:read"]' in re.sub(r"\s", "", said)

    other = browser.open(guarded_console.url, phone=True, dark=True)
    _sign_in(other, key, "/console/health")
    expect(other.get_by_role("link", name="Keys")).to_have_count(0)
    browser.expect("403")
    other.goto("/console/keys")
    expect(other.get_by_role("alert")).to_contain_text("keys:manage")


def test_a_session_ends_with_its_key_or_its_secret(browser: Browser, guarded_console: Console) -> None:
    """A key is rotated without overlap, as after a leak, and used with its new secret until it is revoked."""
    page, other = browser.open(guarded_console.url), browser.open(guarded_console.url)
    browser.expect("401")
    _sign_in(page, guarded_console.key("admin"))
    key = guarded_console.key("reader")
    _sign_in(other, key, "/console/health")
    page.get_by_role("button", name="Rotate reader").click()
    page.get_by_label("The old secret is also accepted").select_option("no longer: it leaked")
    page.get_by_role("button", name="Rotate", exact=True).click()
    shown = page.get_by_role("dialog", name="The key's new secret")
    renewed = shown.get_by_label("The secret").inner_text()
    shown.get_by_role("button", name="I have stored it").click()
    _wait_until_refused(guarded_console, key)
    _wait_until_signed_out(other)
    _sign_in(other, renewed, "/console/health")
    page.get_by_role("button", name="Revoke reader").click()
    page.get_by_role("button", name="Keep it").click()
    page.get_by_role("button", name="Revoke reader").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("row", name="reader")).to_have_count(0)
    _wait_until_signed_out(other)


def test_revoking_the_key_of_the_own_session_says_so_and_signs_out(
    browser: Browser, guarded_console: Console
) -> None:
    """On a phone, in the dark."""
    page = browser.open(guarded_console.url, phone=True, dark=True)
    _sign_in(page, guarded_console.key("admin"))
    _sound(page)
    browser.screenshot(page, "phone")
    page.get_by_role("button", name="Rotate admin").click()
    expect(page.get_by_text("your session ends when its old secret does")).to_be_visible()
    page.get_by_label("The old secret is also accepted").select_option("no longer: it leaked")
    page.get_by_role("button", name="Rotate", exact=True).click()
    shown = page.get_by_role("dialog", name="The key's new secret")
    renewed = shown.get_by_label("The secret").inner_text()
    _wait_until_refused(guarded_console, guarded_console.key("admin"))
    browser.expect("401")
    page.get_by_role("button", name="I have stored it").click()
    page.wait_for_url("/console/sign-in?**")
    _sign_in(page, renewed)
    page.get_by_role("button", name="Revoke finance").click()
    expect(page.get_by_text("revoking it signs you out")).to_be_hidden()
    page.get_by_role("button", name="Keep it").click()
    page.get_by_role("button", name="Revoke admin").click()
    expect(page.get_by_text("revoking it signs you out")).to_be_visible()
    browser.screenshot(page, "revoke")
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    page.wait_for_url("/console/sign-in")
    assert page.context.cookies() == [] or "session" not in str(page.context.cookies())


def test_a_key_gives_no_scope_that_it_lacks_and_a_lost_response_is_explained(
    browser: Browser, guarded_console: Console
) -> None:
    """A key that may only manage keys. Of one whose response was lost, only the hash is left."""
    admin = {"Authorization": f"Bearer {guarded_console.key('admin')}"}
    new = {"name": "keeper", "scopes": ["keys:manage"]}
    keeper = guarded_console.api.client.post("/keys", json=new, headers=admin).json()["key"]
    page = browser.open(guarded_console.url)
    _sign_in(page, keeper)
    expect(page.get_by_role("button", name="Rotate keeper")).to_be_visible()
    expect(page.get_by_role("button", name="Rotate admin")).to_have_count(0)
    expect(page.get_by_role("link", name="Webhooks")).to_have_count(0)
    page.get_by_role("button", name="Make a key").click()
    assert page.get_by_role("checkbox").count() == 1
    page.get_by_label("Name").fill("second")
    page.get_by_label("keys:manage").check()
    browser.expect("ERR_FAILED")
    page.route("**/console/api/keys", lambda route: (route.fetch(), route.abort()), times=1)
    page.get_by_role("button", name="Make", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("The service can't be reached")
    page.get_by_role("button", name="Make", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("second was stored, but the response with its secret")
    page.reload()
    expect(page.get_by_role("row", name="second")).to_have_count(1)
