"""``make bench-console``: how soon a change is on every open page of the console, and what a page keeps.

    python -m bench.console_live [--streams 200] [--pages 2] [--changes 20000]

It starts a system of its own with 1,000 calendars: PostgreSQL, a Redis-compatible server, API, relay and
worker. STREAMS connections follow the changes as a page's EventSource does, and PAGES pages in a Chromium
show them, while orders are created and changed, 20 a second, for BENCH_SECONDS (60). Then the API is stopped
and started, and killed and started, and all have to receive what they missed. Then one page stays open for
CHANGES changes. It prints a table, and writes bench/results/console.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from bench.console_pages import chromium, open_page
from bench.console_report import table
from bench.console_system import MOST_SECONDS, RATE, ConsoleSystem
from bench.databases import ORDERS, fetch
from bench.event_followers import check_complete, following, wait_until
from bench.figures import percentile
from bench.load import send
from bench.pipeline import COMMITTED
from bench.processes import BenchError
from bench.system import commit, machine, servers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from playwright.async_api import Browser

    from bench.console_pages import OpenPage
    from bench.event_followers import Follower

RESULTS = Path(__file__).parent / "results" / "console.json"

_DEFAULT_SECONDS = 60
_AROUND_RESTART_SECONDS = 2
_STEP = 500
"""Changes that are stored at once while a page is left open."""
_SETTLE_SECONDS = 4
"""Before memory is read: a page marks new rows for some seconds, and keeps them until then."""


def run(streams: int, pages: int, changes: int, seconds: int) -> dict[str, Any]:
    """Measure everything, and return the results.

    Raises:
        BenchError: a change did not arrive exactly once, or nothing could be measured.

    """
    load = os.getloadavg()[0]
    with servers() as (postgres, valkey, folder):
        system = ConsoleSystem(postgres, valkey.url, folder)
        try:
            system.start()
            measured = uvloop.run(_measure(system, streams, pages, changes, seconds))
        finally:
            system.stop()
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "machine": {**machine(folder), "load_before": round(load, 2)},
            "streams": streams,
            "writes_per_second": RATE,
            "seconds": seconds,
            **measured,
        }


async def _measure(
    system: ConsoleSystem, streams: int, pages: int, changes: int, seconds: int
) -> dict[str, Any]:
    async with chromium() as browser:
        measured = await _measure_followers(system, browser, streams, pages, seconds)
        if browser is not None:
            print(f"a page left open for {changes:,} changes", flush=True)
            measured["memory"] = await _measure_memory(system, browser, changes)
    return measured


async def _measure_followers(
    system: ConsoleSystem, browser: Browser | None, streams: int, page_count: int, seconds: int
) -> dict[str, Any]:
    before = await system.last_position()
    pages = [await open_page(browser, system.port) for _ in range(page_count)] if browser else []
    async with following(system.port, streams, before) as followers:
        for page in pages:
            await page.follow(before)
        print(f"{streams} streams and {len(pages)} pages, {seconds} s", flush=True)
        latency = await _measure_latency(system, followers, pages, before, seconds)
        restarts = {}
        for name in ("stopped", "killed"):
            print(f"API {name} and started", flush=True)
            restarts[name] = await _measure_restart(system, followers, name)
        last = await _wait_for_all(system, followers, pages)
        for follower in followers:
            check_complete("a stream", follower.positions, before + 1, last)
        for page in pages:
            check_complete("a page", [position for position, _ in await page.shown()], before + 1, last)
            await page.close()
    return {"latency": latency, "restarts": restarts, "changes": last - before}


async def _wait_for_all(
    system: ConsoleSystem, followers: Sequence[Follower], pages: Iterable[OpenPage]
) -> int:
    last = await system.last_position()
    await wait_until(
        lambda: all(each.last >= last for each in followers), f"all streams had sent change {last}"
    )
    for page in pages:
        await page.wait_for(last)
    return last


async def _measure_latency(
    system: ConsoleSystem,
    followers: Sequence[Follower],
    pages: Sequence[OpenPage],
    before: int,
    seconds: int,
) -> dict[str, dict[str, float]]:
    """From each commit, by PostgreSQL's clock, to its arrival on each connection and in each document."""
    requests = await asyncio.to_thread(system.writes, RATE * seconds)
    file = system.folder / "requests"
    outcome = await asyncio.to_thread(send, system.port, requests, file, seconds, once=True, rate=RATE)
    await _wait_for_all(system, followers, pages)
    rows = await asyncio.to_thread(fetch, system.url, COMMITTED, before)
    committed = {row["position"]: row["committed_at"] for row in rows}
    print(f"  {outcome.requests:,.0f} writes, answered after {outcome.p50_ms:.1f} ms (median)", flush=True)
    arrivals = {
        "streams": [list(zip(each.positions, each.arrived, strict=True)) for each in followers],
        "pages": [await page.shown() for page in pages],
    }
    return {
        name: _figures([(at - committed[position]) * 1e3 for each in of_all for position, at in each])
        for name, of_all in arrivals.items()
        if of_all
    }


def _figures(latencies: Sequence[float]) -> dict[str, float]:
    return {
        "events": len(latencies),
        **{f"p{percent}_ms": round(percentile(latencies, percent), 1) for percent in (50, 95, 99)},
        "max_ms": round(max(latencies), 1),
    }


async def _measure_restart(
    system: ConsoleSystem, followers: Sequence[Follower], name: str
) -> dict[str, float]:
    """From the end of the API to the moment when every follower is connected again, while orders change."""
    async with system.changing_orders():
        await asyncio.sleep(_AROUND_RESTART_SECONDS)
        ended = time.time()
        await asyncio.to_thread(system.kill_api if name == "killed" else system.api.stop)
        system.api.start()  # in the main thread: the process ends with the thread that started it
        await asyncio.to_thread(system.wait_for_api)
        ready = time.time()
        await wait_until(
            lambda: all(each.opened > ended for each in followers), "all streams were open again"
        )
        back = time.time()
        await asyncio.sleep(_AROUND_RESTART_SECONDS)
    return {"ready_seconds": round(ready - ended, 2), "all_back_seconds": round(back - ended, 2)}


async def _measure_memory(system: ConsoleSystem, browser: Browser, changes: int) -> dict[str, Any]:
    """What a page keeps: at its start, after half of the changes, and after all."""
    page = await open_page(browser, system.port)
    await page.follow(await system.last_position(), keep=False)
    measured = {"0": await page.memory()}
    for stored in range(_STEP, changes + 1, _STEP):
        await system.change_orders((stored - _STEP) % ORDERS, _STEP)
        await page.wait_for(await system.last_position())
        if stored in (changes // 2 // _STEP * _STEP, changes):
            await asyncio.sleep(_SETTLE_SECONDS)
            measured[str(stored)] = await page.memory()
    await page.close()
    return measured


def main() -> int:
    """Run; the exit status is 0 if all is measured, 2 if it could not be or a change did not arrive once."""
    parser = argparse.ArgumentParser(prog="python -m bench.console_live")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--pages", type=int, default=2)
    parser.add_argument("--changes", type=int, default=20_000)
    options = parser.parse_args()
    seconds = int(os.environ.get("BENCH_SECONDS") or _DEFAULT_SECONDS)
    if not 1 <= seconds <= MOST_SECONDS:
        parser.error(f"BENCH_SECONDS: 1 to {MOST_SECONDS}")
    if options.changes % _STEP:
        parser.error(f"--changes: a multiple of {_STEP}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all servers are stopped
    try:
        results = run(options.streams, options.pages, options.changes, seconds)
    except BenchError as error:
        print(f"make bench-console: {error}", file=sys.stderr)
        return 2
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    print(f"written to {RESULTS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
