"""The system that the console is measured on: 1,000 calendars with orders, and what is written there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

import asyncpg

from bench import works
from bench.contestants import ROOT, service_environment
from bench.databases import CALENDARS, ORDERS, create_ours, fetch, stored_orders
from bench.operations_memory import BEHIND
from bench.processes import Server
from stack.embedded_valkey import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from stack.embedded_postgres import EmbeddedPostgres

RATE = 20
"""Writes per second."""

MOST_SECONDS = ORDERS // RATE
"""How long that may go on: each order is changed once."""

_ALL_CALENDARS = 1_000
_READY = "/orders?limit=1"
_LAST = "SELECT last_position FROM change_log"
_CHANGE = """
UPDATE orders SET version = version + 1, totalfee = (id * 31 + version * 7) % 100000 / 100.0
WHERE id IN (SELECT id FROM orders ORDER BY id OFFSET $1 LIMIT $2)
"""


class ConsoleSystem:
    """API, relay and worker with their default settings."""

    def __init__(self, postgres: EmbeddedPostgres, redis_url: str, folder: Path) -> None:
        create_ours(
            postgres.url_of("postgres"),
            "console",
            postgres.url_of("console"),
            more_calendars=_ALL_CALENDARS - CALENDARS,
        )
        self.url = postgres.url_of("console")
        self.port = free_port()
        self.folder = folder
        environment = service_environment(self.url, redis_url, OMS_PORT=str(self.port))
        self.api, self.relay, self.worker = (
            Server(name, [sys.executable, "-m", module], environment, ROOT, folder / f"console-{name}.log")
            for name, module in (
                ("api", "api.server"),
                ("relay", "api.relay.main"),
                ("worker", "worker.main"),
            )
        )

    def start(self) -> None:
        """Start all, and wait until every change has a position and was applied."""
        for server in (self.api, self.relay, self.worker):
            server.start()
        self.wait_for_api()
        self._wait_for_relay()

    def stop(self) -> None:
        """Stop all that runs."""
        for server in (self.api, self.relay, self.worker):
            server.stop()

    def wait_for_api(self) -> None:
        """Wait until the API answers."""
        self.api.wait_for(self.port, _READY)

    def kill_api(self) -> None:
        """Kill all processes of the API at once."""
        os.killpg(self.api.process.pid, signal.SIGKILL)
        self.api.stop()

    def _wait_for_relay(self) -> None:
        self.relay.wait_until(lambda: not fetch(self.url, BEHIND)[0]["behind"])

    async def last_position(self) -> int:
        """Return the last position, when all changes have one."""
        await asyncio.to_thread(self._wait_for_relay)
        rows = await asyncio.to_thread(fetch, self.url, _LAST)
        last: int = rows[0]["last_position"]
        return last

    def writes(self, count: int) -> list[bytes]:
        """Return requests that create or change orders on all calendars, half of each, shuffled."""
        names = [f"c{number}" for number in range(CALENDARS)]
        names += [f"p{number}" for number in range(_ALL_CALENDARS - CALENDARS)]
        requests = list(islice(works.patches(stored_orders(self.url, ours=True)), count // 2))
        for number in range(count // 2):
            at = works.PLACES_FROM + number // len(names) * timedelta(hours=3)
            requests.append(works.render("POST", "/orders", works.order_at(at, names[number % len(names)])))
        random.Random(18).shuffle(requests)
        return requests

    async def change_orders(self, offset: int, count: int) -> None:
        """Change some of the first orders without the API."""
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(_CHANGE, offset, count)
        finally:
            await connection.close()

    @contextlib.asynccontextmanager
    async def changing_orders(self) -> AsyncIterator[None]:
        """Change ``RATE`` orders per second without the API, for the length of the block."""
        task = asyncio.create_task(self._change_orders_on_and_on())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _change_orders_on_and_on(self) -> None:
        rng = random.Random(19)
        while True:
            await self.change_orders(rng.randrange(ORDERS), 1)
            await asyncio.sleep(1 / RATE)
