"""The console's pages of webhooks, in a real browser, with a real receiver."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.browser import (
    LARGEST_PAGE_BYTES,
    accessibility_faults,
    sideways_scroll,
    tab_through,
    transferred_bytes,
)
from tests.builders import later
from tests.drivers import wait_until
from tests.serving import serving
from tests.webhook_receiver import Answer
from tests.webhook_steps import missed, subscribe

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

    from tests.browser import Browser
    from tests.browser_fixtures import Console
    from tests.webhook_receiver import Receiver

HOSTILE = "<img src=x onerror=alert(1)></pre><script>alert(2)</script>{{ 7 * 7 }}"


def _sound(page: Page) -> None:
    assert accessibility_faults(page) == []
    assert sideways_scroll(page) == 0


def test_a_webhook_is_added_and_its_secret_verifies_a_test(
    page: Page, browser: Browser, receiver: Receiver
) -> None:
    """The secret is shown once, copied, and gone from the page when its dialog is closed."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/console/webhooks")
    expect(page.get_by_text("There is none yet")).to_be_visible()
    expect(page.get_by_role("region", name="Add a webhook with curl")).to_contain_text(
        f"{page.evaluate('location.origin')}/webhooks"
    )
    _sound(page)
    browser.screenshot(page, "empty")
    page.get_by_role("button", name="Add a webhook").click()
    page.get_by_role("textbox", name="URL").fill("http://10.1.2.3/")
    page.get_by_label("order.created").check()
    page.get_by_label("Calendars").fill("crew-7, crew-8")
    browser.expect("422")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("/url")
    browser.screenshot(page, "refused")
    _sound(page)
    page.get_by_role("textbox", name="URL").fill(receiver.url)
    page.get_by_role("button", name="Add", exact=True).click()
    dialog = page.get_by_role("dialog", name="The webhook's secret")
    secret = dialog.get_by_label("The secret").inner_text()
    dialog.get_by_role("button", name="Copy").click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == secret
    browser.screenshot(page, "secret")
    _sound(page)
    dialog.get_by_role("button", name="I have stored it").click()

    page.wait_for_url("/console/webhooks/1")
    expect(page.get_by_text("order.created · on crew-7, crew-8")).to_be_visible()
    assert secret not in page.content()
    stored = "JSON.stringify([localStorage, sessionStorage, history.state, location.href])"
    assert "whsec_" not in page.evaluate(stored)
    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_text("The test was delivered: 204")).to_be_visible()
    assert receiver.received[0].is_signed_with(secret)


def test_each_attempt_appears_with_what_the_endpoint_responded(
    page: Page, browser: Browser, console: Console, receiver: Receiver
) -> None:
    """Good or bad; the list is filtered by status. Then the secret is rotated."""
    secret = subscribe(console.api, receiver.url)["secret"]
    receiver.answer = lambda _: Answer(200, body=b"thank you")
    page.goto("/console/webhooks/1")
    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_text("The test was delivered: 200")).to_be_visible()
    assert receiver.received[0].is_signed_with(secret)
    expect(page.locator("details[open] pre")).to_have_text("thank you")
    receiver.answer = lambda _: Answer(500, body=b"out of order")
    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_text("The test failed")).to_contain_text("answered 500")
    expect(page.locator("details[open] pre").first).to_have_text("out of order")
    _sound(page)
    browser.screenshot(page, "tested")
    tab_through(page)
    page.get_by_label("Status").select_option("delivered")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("details")).to_have_count(1)
    page.get_by_role("button", name="Rotate the secret").click()
    page.get_by_role("button", name="Rotate", exact=True).click()
    dialog = page.get_by_role("dialog", name="The webhook's new secret")
    renewed = dialog.get_by_label("The secret").inner_text()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator("[data-secret]")).to_be_empty()
    assert renewed != secret
    assert "whsec_" not in page.content()

    receiver.answer = lambda _: Answer(410)
    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_text("its endpoint responded with 410 (Gone)")).to_be_visible()


def test_many_webhooks_have_pages_and_a_lost_response_adds_none_twice(
    page: Page, browser: Browser, console: Console
) -> None:
    """The connection breaks after the webhook was stored; the same form again shows its secret."""
    for number in range(25):
        subscribe(console.api, f"http://127.0.0.1:9999/{number}")
    page.goto("/console/webhooks")
    page.get_by_role("button", name="Add a webhook").click()
    page.get_by_role("textbox", name="URL").fill("http://127.0.0.1:9999/last")
    browser.expect("ERR_FAILED")
    page.route("**/console/api/webhooks", _lose_response, times=1)
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("The service can't be reached")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_label("The secret")).to_contain_text("whsec_")
    page.goto("/console/webhooks")
    expect(page.locator("tbody tr")).to_have_count(25)
    page.get_by_role("link", name="Next page").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.get_by_role("link", name="http://127.0.0.1:9999/last")).to_be_visible()


def _lose_response(route: Route) -> None:
    route.fetch()
    route.abort()


def test_what_a_disabled_webhook_missed_is_listed_with_reasons_and_replayed(
    page: Page, browser: Browser, console: Console, receiver: Receiver
) -> None:
    """Disabled, enabled, replayed and deleted, with the keyboard."""
    subscribe(console.api, receiver.url)
    page.goto("/console/webhooks/1")
    page.get_by_role("button", name="Disable").press("Enter")
    expect(page.get_by_text("by a caller of the API")).to_be_visible()
    expect(page.get_by_role("button", name="Send a test")).to_have_count(0)
    for number in range(3):
        console.api.placed_order(id=str(7 + number), at=later(hours=3 * number))
    wait_until(lambda: len(missed(console.api, {"id": "1"})) == 3, "the changes are in the log")

    def all_disabled() -> bool:
        return set(missed(console.api, {"id": "1"}).values()) == {"disabled"}

    wait_until(all_disabled, "the worker has recorded them")
    page.get_by_role("link", name="Missed").press("Enter")
    expect(page.get_by_text("Of the changes after position 0 up to 3, 0 were acknowledged")).to_be_visible()
    expect(page.locator("tbody tr")).to_have_count(3)
    _sound(page)
    browser.screenshot(page, "missed")
    page.get_by_role("button", name="Enable").press("Enter")
    expect(page.get_by_text("Working")).to_be_visible()
    page.get_by_role("button", name="Replay…").press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Replay").press("Enter")
    expect(page.get_by_text("3 deliveries are due now")).to_be_attached()
    wait_until(lambda: sorted(receiver.positions) == [1, 2, 3], "they were sent")
    wait_until(lambda: missed(console.api, {"id": "1"}) == {}, "they were acknowledged")
    expect(page.get_by_text("Nothing was missed.")).to_be_visible()
    page.get_by_role("button", name="Replay…").click()
    page.get_by_label("everything after a position").check()
    page.get_by_label("After the position").fill("1")
    browser.screenshot(page, "replay")
    page.get_by_role("dialog").get_by_role("button", name="Replay").click()
    wait_until(lambda: sorted(receiver.positions) == [1, 2, 2, 3, 3], "what follows the position is repeated")
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Keep it").click()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("There is none yet")).to_be_visible()


def test_what_endpoints_and_callers_write_stays_text(
    browser: Browser, console: Console, receiver: Receiver
) -> None:
    """Responses, URLs and descriptions, also on a phone, in the dark, and without JavaScript."""
    receiver.answer = lambda _: Answer(500, body=HOSTILE.encode() + b"x" * 5_000)
    url = f"{receiver.url}?<script>alert(3)</script>\"'><b>" + "y" * 300
    subscribe(console.api, url, description=HOSTILE, calendars=["default"])
    page = browser.open(console.url, phone=True, dark=True)
    alerts: list[str] = []
    page.on("dialog", lambda dialog: alerts.append(dialog.message))
    page.goto("/console/webhooks")
    expect(page.get_by_text(HOSTILE)).to_be_visible()
    _sound(page)
    browser.screenshot(page, "list")
    page.get_by_role("link", name=receiver.url).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(url)
    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_text("The test failed")).to_be_visible()
    expect(page.locator("details[open] pre")).to_contain_text(HOSTILE)
    _sound(page)
    browser.screenshot(page, "phone")
    plain = browser.open(console.url, javascript=False)
    plain.goto("/console/webhooks/1?status=exhausted")
    plain.locator("summary").click()
    expect(plain.locator("details pre")).to_contain_text(HOSTILE)
    expect(plain.get_by_role("button", name="Send a test")).to_be_hidden()
    assert sum(transferred_bytes(page, "/console/webhooks/1").values()) < LARGEST_PAGE_BYTES
    assert alerts == []


def test_a_key_that_may_only_read_sees_webhooks_and_no_buttons(
    browser: Browser, console: Console, receiver: Receiver
) -> None:
    """The role read of the deployment's settings; a key of the database without the scope sees no page."""
    subscribe(console.api, receiver.url)
    database, redis = console.pipeline.database.url, console.pipeline.redis_url
    reading = "a-key-of-the-settings-that-may-read-0123456789"
    with serving(
        database=database, redis=redis, OMS_API_KEYS=f"viewer:read:{sha256(reading.encode()).hexdigest()}"
    ) as (api, _):
        page = browser.open(api.url)
        page.goto("/console/webhooks/1")
        page.get_by_label("API key").fill(reading)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("/console/webhooks/1")
        expect(page.get_by_text("Working")).to_be_visible()
        assert page.locator("main button").all_inner_texts() == ["Filter"]
        expect(page.get_by_role("link", name="Keys")).to_have_count(0)
        page.goto("/console/webhooks")
        expect(page.get_by_role("link", name=receiver.url)).to_be_visible()
        assert page.locator("main button, dialog").count() == 0
