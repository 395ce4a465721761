"""Every page of the console, with hostile texts in whatever callers choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from console.rendering import PAGES
from tests.browser import accessibility_faults, sideways_scroll, transferred_bytes

if TYPE_CHECKING:
    from tests.browser import Browser
    from tests.browser_fixtures import Console

MOST_BYTES = 150_000
HOSTILE = "<img src=x onerror=alert(1)>\"'</script>&amp;{{ 7*7 }}"
ADDRESSES = [
    *(address for address, _, _ in PAGES),
    "/console/orders/{order}",
    "/console/search?q=nothing",
    "/console/nothing",
]


@dataclass(frozen=True)
class Filled:
    """The console of a system whose callers chose hostile texts."""

    console: Console
    order: str

    def address(self, template: str) -> str:
        """Return a page's address."""
        return template.format(order=self.order)


@pytest.fixture
def filled(console: Console) -> Filled:
    """Orders, a service, a webhook and a reason with hostile texts."""
    client = console.api.client
    service = client.post("/services", json={"name": HOSTILE}).json()["id"]
    body = {
        "totalfee": 12.5,
        "services": [{"id": service}],
        "calendar": "crew-1",
        "metadata": {HOSTILE[:40]: HOSTILE},
    }
    orders = [
        client.post(
            "/orders", json={**body, "datetime": f"2031-03-0{day}T09:00:00Z", "reference": f"<b>{day}</b>"}
        )
        for day in range(1, 6)
    ]
    order = orders[0].json()["id"]
    cancelled = client.post(f"/orders/{order}/cancel", json={"reason": HOSTILE})
    webhook = client.post("/webhooks", json={"url": "https://example.com/?a=<b>", "description": HOSTILE})
    assert [answer.status_code for answer in (*orders, cancelled, webhook)] == [201] * 5 + [200, 201]
    console.pipeline.wait_until_summed()
    return Filled(console, order)


@pytest.mark.parametrize("template", ADDRESSES)
def test_a_page_is_small_accessible_and_lets_no_text_become_markup(
    browser: Browser, filled: Filled, template: str
) -> None:
    """In light and dark, on a wide screen and a phone; the fixture fails on errors and foreign requests."""
    if template == "/console/nothing":
        browser.expect("404")
    address = filled.address(template)
    for dark, phone in ((False, False), (True, True)):
        page = browser.open(filled.console.url, dark=dark, phone=phone)
        page.goto("/console/health")  # the first page of a visitor loads twice, to learn the time zone
        loaded = transferred_bytes(page, address)
        assert sum(loaded.values()) <= MOST_BYTES, loaded
        assert page.get_by_role("heading", level=1).count() == 1
        assert accessibility_faults(page) == []
        assert sideways_scroll(page) == 0
        assert page.locator("main b, main img[src=x]").count() == 0
        browser.screenshot(page, f"{template.strip('/').replace('/', '-')}-{'dark' if dark else 'light'}")
        page.close()


@pytest.mark.parametrize("template", ADDRESSES)
def test_a_page_can_be_read_without_javascript(browser: Browser, filled: Filled, template: str) -> None:
    """Only what changes something needs it."""
    if template == "/console/nothing":
        browser.expect("404")
    page = browser.open(filled.console.url, javascript=False)
    page.goto(filled.address(template))
    assert page.get_by_role("heading", level=1).is_visible()
    assert len(page.inner_text("main")) > 20
