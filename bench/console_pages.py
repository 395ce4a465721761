"""Pages of the console in a real Chromium, that follow changes and show each in the document."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from playwright.async_api import async_playwright

from bench.processes import BenchError
from tests.browser import chromium_arguments, find_chromium

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, CDPSession, Page

_CHANGES = "/console/changes"

# `shown` has the position of each change and when the document had it, in milliseconds since 1970. It grows,
# so only the last is kept while memory is measured.
_OBSERVE = """([after, keep]) => {
    window.shown = [];
    window.last = after;
    new MutationObserver((records) => {
        const now = performance.timeOrigin + performance.now();
        for (const item of records.flatMap((record) => [...record.addedNodes])) {
            if (!item.dataset?.position) continue;
            window.last = Number(item.dataset.position);
            if (keep) window.shown.push([window.last, now]);
        }
    }).observe(document.getElementById("main"), { childList: true, subtree: true });
}"""


class OpenPage:
    """One page, in a browser profile of its own."""

    def __init__(self, page: Page, session: CDPSession) -> None:
        self._page = page
        self._session = session

    async def follow(self, after: int, *, keep: bool = True) -> None:
        """Follow what comes after a position.

        Args:
            after: the position.
            keep: whether to keep what was shown when; if not, only the last position.

        """
        await self._page.goto(_CHANGES)
        await self._page.evaluate(_OBSERVE, [after, keep])
        await self._page.wait_for_selector("#live[data-state=live]")

    async def shown(self) -> list[tuple[int, float]]:
        """Return the position of each change that was shown, and when, in seconds since 1970."""
        pairs = await self._page.evaluate("window.shown")
        return [(position, milliseconds / 1e3) for position, milliseconds in pairs]

    async def last(self) -> int:
        """Return the last position that was shown."""
        position: int = await self._page.evaluate("window.last")
        return position

    async def wait_for(self, position: int, seconds: float = 60) -> None:
        """Wait until a position was shown.

        Raises:
            BenchError: it takes too long.

        """
        deadline = time.monotonic() + seconds
        while await self.last() < position:
            if time.monotonic() > deadline:
                raise BenchError(f"a page did not show change {position} within {seconds:.0f} s")
            await asyncio.sleep(0.05)

    async def memory(self) -> dict[str, float]:
        """Return what is left after garbage collection: MB of JavaScript's heap, nodes, event listeners."""
        await self._session.send("HeapProfiler.collectGarbage")
        heap = await self._session.send("Runtime.getHeapUsage")
        counters = await self._session.send("Memory.getDOMCounters")
        return {
            "heap_mb": round(heap["usedSize"] / 1024**2, 3),
            "nodes": counters["nodes"],
            "listeners": counters["jsEventListeners"],
        }

    async def close(self) -> None:
        """Close it."""
        await self._page.context.close()


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser | None]:
    """Start Chromium for the length of the block; None if there is none on this machine."""
    path = find_chromium()
    if path is None:
        print("SKIPPED: pages in a browser, since there is no Chromium on this machine", flush=True)
        yield None
        return
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=chromium_arguments())
        yield browser
        await browser.close()


async def open_page(browser: Browser, port: int) -> OpenPage:
    """Open an empty page."""
    context = await browser.new_context(base_url=f"http://127.0.0.1:{port}")
    page = await context.new_page()
    return OpenPage(page, await context.new_cdp_session(page))
