"""The browser that other tests use: it misses no fault of a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import browser as browsers
from tests.browser import accessibility_faults, sideways_scroll, tab_through, transferred_bytes
from tests.local_server import LocalHandler, LocalServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from tests.browser import Browser
    from tests.browser_fixtures import Console

FAULTY = """<!doctype html><html><head><title>Faulty</title><style>p { color: #aaa }</style></head>
<body><p>pale</p><img src="https://example.com/x.png"><div tabindex="0"></div>
<script src="/script.js"></script><script>document.title = "inline"</script></body></html>"""


STRICT = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"
SOUND = """<!doctype html><html lang="en"><head><title>Sound</title></head>
<body><main><h1>Sound</h1></main></body></html>"""


class _Faulty(LocalHandler):
    def respond(self) -> None:
        if self.path == "/sound":
            policy = {"Content-Security-Policy": STRICT, "Content-Type": "text/html"}
            self.answer_with(200, SOUND.encode(), policy)
        elif self.path == "/":
            policy = {"Content-Security-Policy": "default-src 'self'; img-src *", "Content-Type": "text/html"}
            self.answer_with(200, FAULTY.encode(), policy)
        elif self.path == "/script.js":
            self.answer_with(200, b"noSuchFunction()", {"Content-Type": "text/javascript"})
        else:  # the icon, which browsers ask for
            self.answer_with(204)


@pytest.fixture
def faulty_url() -> Iterator[str]:
    """A server whose page has every fault."""
    server = LocalServer(_Faulty)
    server.start()
    yield server.url
    server.stop()


def test_every_fault_of_a_page_is_noted(browser: Browser, faulty_url: str) -> None:
    """Inline scripts and styles that its policy forbids, other hosts, failing scripts, failing requests."""
    page = browser.open(faulty_url)
    page.goto("/")
    assert page.title() == "Faulty"
    faults = "\n".join(browser.faults)
    for fault in (
        "CSP violated: script-src",
        "CSP violated: style-src",
        "request to another host: https://example.com/x.png",
        "ERR_NAME_NOT_RESOLVED",
        "uncaught: noSuchFunction is not defined",
    ):
        assert fault in faults, faults
    with pytest.raises(AssertionError, match="nothing can be seen"):
        tab_through(page)
    named = "\n".join(accessibility_faults(page))
    assert "image-alt (critical)" in named
    assert "html-has-lang" in named
    browser.expect("")
    assert browser.faults == []


def test_axe_needs_no_exception_from_a_strict_policy(browser: Browser, faulty_url: str) -> None:
    """It looks at a page under a policy that allows nothing inline, and violates nothing itself."""
    page = browser.open(faulty_url)
    page.goto("/sound")
    assert accessibility_faults(page) == []
    assert browser.faults == []


def test_a_page_of_the_documentation_has_no_fault(page: Page, browser: Browser) -> None:
    """Loaded, measured, tabbed through, and looked at by axe under its policy."""
    sizes = transferred_bytes(page, "/docs/tour")
    assert any(address.endswith("pages.css") for address in sizes)
    assert 2_000 < sum(sizes.values()) < 150_000, sizes
    assert "OpenAPI" in tab_through(page)
    assert sideways_scroll(page) == 0
    assert isinstance(accessibility_faults(page), list)
    browser.screenshot(page, "tour")


def test_keys_are_asked_for_where_a_deployment_has_some(guarded_console: Console) -> None:
    """The same relay and worker serve a system with keys and one without."""
    for name in ("reader", "dispatcher", "admin"):
        headers = {"Authorization": f"Bearer {guarded_console.key(name)}"}
        caller = guarded_console.api.client.get("/caller", headers=headers).json()
        assert (caller["name"], caller["keys_required"]) == (name, True)
    assert guarded_console.api.client.get("/orders").status_code == 401


def test_a_missing_browser_skips_the_test_with_a_warning_and_fails_it_in_ci(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CI says that it is required."""
    monkeypatch.setattr(browsers, "find_chromium", lambda: None)
    monkeypatch.delenv(browsers.REQUIRED, raising=False)
    with pytest.warns(UserWarning, match="NOT TESTED"), pytest.raises(pytest.skip.Exception):
        browsers.require_chromium()
    monkeypatch.setenv(browsers.REQUIRED, "required")
    with pytest.raises(pytest.fail.Exception, match="no Chromium"):
        browsers.require_chromium()
