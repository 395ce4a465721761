"""A real Chromium that visits pages, and notes all that is wrong with them.

A page fails its test by: an error of its scripts, an error on its console, a violation of its
Content-Security-Policy, or a request to another host. Each visit is a new browser context, without cookies
or cache. Chromium resolves no name and reaches this machine only.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from playwright.sync_api import Browser as Chromium
    from playwright.sync_api import ConsoleMessage, Page, Request

REQUIRED = "ORDERS_TEST_BROWSER"
"""The variable that, as ``required``, makes a missing browser a failure. CI sets it."""

SCREENSHOTS = "ORDERS_TEST_SCREENSHOTS"
"""The variable with the folder for screenshots, which people look at; without it, none are made."""

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 740}

LARGEST_PAGE_BYTES = 150_000

_ARGUMENTS = ("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-dev-shm-usage")

_REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", event => console.error(
    `CSP violated: ${event.effectiveDirective} by ${event.blockedURI} at line ${event.lineNumber}`
));
"""


@cache
def find_chromium() -> str | None:
    """Return the path of the Chromium that is installed, if there is one."""
    # Debian, other distributions, Google's own.
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def chromium_arguments() -> list[str]:
    """Return what it is started with."""
    # Its sandbox does not work for root, which is who runs tests in a container.
    return [*_ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]


def require_chromium() -> str:
    """Return the browser's path; skip the test without one, with a warning, or fail it if required."""
    path = find_chromium()
    if path is None:
        reason = "no Chromium on this machine (Debian's package chromium)"
        if os.environ.get(REQUIRED) == "required":
            pytest.fail(f"{reason}, and {REQUIRED} requires it")
        warnings.warn(f"{reason}: the console's pages are NOT TESTED", stacklevel=1)
        pytest.skip(reason)
    return path


@contextmanager
def running_chromium() -> Iterator[Chromium]:
    """Start Chromium, and stop it after the block."""
    path = require_chromium()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=chromium_arguments())
        yield chromium
        chromium.close()


class Browser:
    """Opens pages for one test, and collects their faults."""

    def __init__(self, chromium: Chromium, test: str) -> None:
        self._chromium = chromium
        self._test = re.sub(r"\W+", "-", test).strip("-")
        self._expected: list[re.Pattern[str]] = []
        self._faults: list[str] = []

    def open(
        self,
        url: str,
        *,
        dark: bool = False,
        phone: bool = False,
        javascript: bool = True,
        zone: str = "Europe/Rome",
        language: str = "en-GB",
        **options: Any,
    ) -> Page:
        """Open an empty page, in which ``page.goto("/orders")`` is a path of the server at ``url``.

        Args:
            url: of the server; requests to any other are faults.
            dark: whether the visitor prefers dark colours.
            phone: whether it is a narrow screen that is touched.
            javascript: whether scripts run.
            zone: the visitor's time zone.
            language: the visitor's language, which numbers and dates are written in.
            options: more of Playwright's ``new_context``.

        """
        context = self._chromium.new_context(
            base_url=url,
            viewport=PHONE if phone else DESKTOP,  # type: ignore[arg-type]  # a TypedDict of these members
            has_touch=phone,
            is_mobile=phone,
            color_scheme="dark" if dark else "light",
            java_script_enabled=javascript,
            timezone_id=zone,
            locale=language,
            **options,
        )
        context.set_default_timeout(10_000)
        context.add_init_script(_REPORT_VIOLATIONS)
        page = context.new_page()
        host = urlsplit(url).netloc
        page.on("pageerror", lambda error: self._note(f"uncaught: {error}"))
        page.on("crash", lambda _: self._note("the page crashed"))
        page.on("console", self._note_message)
        page.on("request", lambda request: self._note_request(request, host))
        return page

    def _note(self, fault: str) -> None:
        self._faults.append(fault)

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._note(f"console: {message.text} ({message.location['url']})")

    def _note_request(self, request: Request, host: str) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.netloc != host:
            self._note(f"request to another host: {request.url}")

    def expect(self, pattern: str) -> None:
        """Ignore faults with this pattern, for instance the browser's own message about a status of 409."""
        self._expected.append(re.compile(pattern))

    @property
    def faults(self) -> list[str]:
        """Everything that was wrong so far and was not expected."""
        known = self._expected
        return [fault for fault in self._faults if not any(pattern.search(fault) for pattern in known)]

    def close(self) -> None:
        """Close all pages."""
        for context in self._chromium.contexts:
            context.close()

    def screenshot(self, page: Page, name: str) -> None:
        """Keep a picture of the whole page, if a folder for them is named."""
        if folder := os.environ.get(SCREENSHOTS):
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(folder) / f"{self._test}-{name}.png", full_page=True)


def accessibility_faults(page: Page, *, only: Sequence[str] = ()) -> list[str]:
    """Return what axe finds in the page as it is now, one line for each element.

    Its script is evaluated by the browser's debugger, which the page's policy neither forbids nor notices.

    Args:
        page: any page with JavaScript.
        only: CSS selectors of the parts to look at; the whole page without any.

    """
    report = Axe().run(page, context=list(only) or None)
    return [
        f"{violation['id']} ({violation['impact']}): {violation['help']}: {node['html'][:200]}\n"
        f"    {node['failureSummary']}"
        for violation in report.response["violations"]
        for node in violation["nodes"]
    ]


def transferred_bytes(page: Page, path: str) -> dict[str, int]:
    """Load a page without a cache, and return how many bytes each request of it received, with its headers.

    A live stream counts with what came until the page had loaded.
    """
    session = page.context.new_cdp_session(page)
    addresses: dict[str, str] = {}
    received: dict[str, int] = {}
    totals: dict[str, int] = {}

    def add(event: dict[str, Any], size: float) -> None:
        received[event["requestId"]] = received.get(event["requestId"], 0) + int(size)

    def note(event: dict[str, Any]) -> None:
        addresses[event["requestId"]] = event["request"]["url"]

    session.on("Network.requestWillBeSent", note)

    def finish(event: dict[str, Any]) -> None:
        # What came with the headers is in both events before; this is the sum, each byte once.
        totals[event["requestId"]] = int(event["encodedDataLength"])

    session.on("Network.responseReceived", lambda e: add(e, e["response"]["encodedDataLength"]))
    session.on("Network.dataReceived", lambda e: add(e, e["encodedDataLength"] or e["dataLength"]))
    session.on("Network.loadingFinished", finish)
    session.send("Network.enable")
    session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    page.goto(path, wait_until="load")
    page.wait_for_timeout(300)  # what scripts ask for after that
    session.detach()
    sizes: dict[str, int] = {}
    for request, size in (received | totals).items():
        address = addresses.get(request, "?")
        sizes[address] = sizes.get(address, 0) + size
    return sizes


def sideways_scroll(page: Page) -> int:
    """Return by how many pixels the page is wider than the screen."""
    width: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return width


def tab_through(page: Page, most: int = 300) -> list[str]:
    """Press Tab from the page's beginning until the focus comes back; return what had it, as text or label.

    Raises:
        AssertionError: the focus is trapped, or an element that has it can't be seen.

    """
    page.evaluate("document.activeElement?.blur(); getSelection().removeAllRanges(); scrollTo(0, 0)")
    names: list[str] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        focused = page.evaluate(_FOCUSED)
        if focused is None or focused["seen"]:
            return names
        assert focused["visible"], f"the focus is where nothing can be seen: {focused['name']!r}"
        names.append(focused["name"])
    raise AssertionError(f"the focus was on {most} elements and never came back: {names[-10:]}")


_FOCUSED = """() => {
    const element = document.activeElement;
    if (!element || element === document.body) return null;
    window.hadFocus ??= new WeakSet();
    const seen = window.hadFocus.has(element);
    window.hadFocus.add(element);
    const box = element.getBoundingClientRect();
    const label = element.ariaLabel || element.labels?.[0]?.textContent || element.textContent;
    const name = label || element.name || element.id || element.tagName;
    return {
        seen,
        visible: box.width > 0 && box.height > 0 && getComputedStyle(element).visibility === "visible",
        name: name.trim().replace(/\\s+/g, " ").slice(0, 80),
    };
}"""
