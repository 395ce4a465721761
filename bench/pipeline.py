"""What follows a commit: the relay and the worker, on the database of this service after the rounds."""

from __future__ import annotations

import asyncio
import bisect
import sys
import time
from typing import TYPE_CHECKING

import asyncpg
import psutil

from bench import works
from bench.contestants import ROOT, service_environment
from bench.databases import execute, fetch
from bench.figures import percentile
from bench.load import send
from bench.processes import BenchError, Server, cpu_seconds, family

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.contestants import Contestant
    from stack.embedded_postgres import EmbeddedPostgres

BACKLOG = 40_000
"""Changes that wait at least when relay and worker are started."""

_IDLE_SECONDS = 5
_LOAD_SECONDS = 6
_POLL_SECONDS = 0.002
_CATCH_UP_SECONDS = 20
_MB = 1024**2

_CHANGE_ALL = """
UPDATE orders SET version = version + 1, totalfee = (id * 31 + version * 7) % 100000 / 100.0
WHERE datetime < '2040-01-01Z'
"""
_STATE = """
SELECT (SELECT count(*) FROM order_change WHERE position IS NULL) AS unassigned, last_position,
    (SELECT min(position) FROM consumer_cursor) AS applied
FROM change_log
"""
COMMITTED = """
SELECT c.position, extract(epoch FROM pg_xact_commit_timestamp(o.xmin))::float8 AS committed_at
FROM order_change AS c JOIN orders AS o ON o.id = c.order_id AND o.version = c.order_version
WHERE c.position > $1 ORDER BY c.position
"""
"""When each change after a position was committed, if its order was not changed again.

The order was written in the change's transaction, and not since.
"""


class Pipeline:
    """Relay and worker with their default settings."""

    def __init__(
        self, contestant: Contestant, postgres: EmbeddedPostgres, redis_url: str, folder: Path
    ) -> None:
        self._contestant = contestant
        self._url = contestant.database_url
        self._folder = folder
        self._postgres = postgres
        environment = service_environment(self._url, redis_url)
        self._relay, self._worker = (
            Server(name, [sys.executable, "-m", module], environment, ROOT, folder / f"{name}.log")
            for name, module in (("relay", "api.relay.main"), ("worker", "worker.main"))
        )

    def measure(self, create_rate: float) -> dict[str, float]:
        """Measure all; ``create_rate`` is how many creates per second the API alone can store."""
        measured = self._measure_backlog()
        try:
            time.sleep(1)
            measured |= self._measure_idle()
            measured |= asyncio.run(self._measure_latency(create_rate / 2))
            measured |= self._measure_create()
            self._relay.wait_until(self._is_done)
            measured |= self._measure_memory()
        finally:
            self._relay.stop()
            self._worker.stop()
        return measured

    def _measure_backlog(self) -> dict[str, float]:
        """From the first position that is assigned to the last change that both consumers have applied."""
        while self._state()["unassigned"] < BACKLOG:
            execute(self._url, _CHANGE_ALL)
        execute(self._url, "VACUUM ANALYZE orders", "VACUUM ANALYZE order_change")
        waiting = self._state()["unassigned"]
        self._worker.start()
        # The worker takes longer to start.
        self._worker.wait_until(lambda: len(family(self._worker.process)) > 1)
        time.sleep(2)
        self._relay.start()
        began, ended = asyncio.run(self._watch_backlog())
        return {"backlog_changes": waiting, "backlog_per_second": waiting / (ended - began)}

    async def _watch_backlog(self) -> tuple[float, float]:
        connection = await asyncpg.connect(self._url)
        began = 0.0
        try:
            while True:
                last = await connection.fetchval("SELECT last_position FROM change_log")
                began = began or (time.monotonic() if last else 0.0)
                if last:
                    (state,) = await connection.fetch(_STATE)
                    if state["unassigned"] == 0 and state["applied"] == state["last_position"]:
                        return began, time.monotonic()
                _ = self._relay.process, self._worker.process
                await asyncio.sleep(0.02)
        finally:
            await connection.close()

    def _measure_idle(self) -> dict[str, float]:
        """CPU without any request, in percent of one core."""
        processes = {
            "relay": self._relay.process,
            "worker": self._worker.process,
            "api": self._contestant.server.process,
        }
        if self._postgres.process is not None:
            processes["postgres"] = psutil.Process(self._postgres.process.pid)
        before = {name: cpu_seconds(process) for name, process in processes.items()}
        time.sleep(_IDLE_SECONDS)
        percent = {
            name: (cpu_seconds(process) - before[name]) / _IDLE_SECONDS * 100
            for name, process in processes.items()
        }
        return {
            "idle_percent": percent["relay"] + percent["worker"],
            **{f"idle_{name}_percent": value for name, value in percent.items()},
        }

    async def _measure_latency(self, rate: float) -> dict[str, float]:
        """From each commit to the moment when the summaries' cursor was seen to have passed it."""
        requests = works.Places(10_000_000).creates(int(rate * _LOAD_SECONDS * 1.2) + 100)
        times, positions = [0.0], [0]
        connection = await asyncpg.connect(self._url)
        start = await connection.fetchval("SELECT last_position FROM change_log")
        cursor = await connection.prepare(
            "SELECT position FROM consumer_cursor WHERE consumer = 'fee_summaries'"
        )
        load = asyncio.create_task(
            asyncio.to_thread(
                send,
                self._contestant.port,
                requests,
                self._folder / "requests",
                _LOAD_SECONDS,
                once=True,
                rate=rate,
            )
        )
        deadline = time.monotonic() + _LOAD_SECONDS + _CATCH_UP_SECONDS
        while not load.done() or not await self._is_applied(connection, positions[-1]):
            positions.append(await cursor.fetchval())
            times.append(time.time())
            if time.monotonic() > deadline:
                raise BenchError("the summaries do not keep up with half the rate of creates")
            await asyncio.sleep(_POLL_SECONDS)
        committed = await connection.fetch(COMMITTED, start)
        await connection.close()
        latencies = _latencies(committed, positions, times)
        return {
            "half_load_per_second": (await load).rate,
            "visible_changes": len(latencies),
            "visible_p50_ms": percentile(latencies, 50) * 1e3,
            "visible_p99_ms": percentile(latencies, 99) * 1e3,
        }

    def _measure_create(self) -> dict[str, float]:
        requests = works.Places(20_000_000).creates(8_000 * 3)
        outcome = send(self._contestant.port, requests, self._folder / "requests", 3, once=True)
        return {"create_per_second": outcome.rate}

    def _measure_memory(self) -> dict[str, float]:
        """The largest resident set of each kind of process."""
        api, worker = family(self._contestant.server.process), family(self._worker.process)
        workers = [process for process in api if _is_listening(process)]
        return {
            "api_process_mb": max(process.memory_info().rss for process in workers) / _MB,
            "worker_child_mb": max(process.memory_info().rss for process in worker[1:]) / _MB,
        }

    async def _is_applied(self, connection: asyncpg.Connection, position: int) -> bool:
        (state,) = await connection.fetch(_STATE)
        return bool(state["unassigned"] == 0 and position >= state["last_position"])

    def _state(self) -> asyncpg.Record:
        return fetch(self._url, _STATE)[0]

    def _is_done(self) -> bool:
        state = self._state()
        return bool(state["unassigned"] == 0 and state["applied"] == state["last_position"])


def _is_listening(process: psutil.Process) -> bool:
    return any(c.status == psutil.CONN_LISTEN for c in process.net_connections("tcp"))


def _latencies(
    committed: Sequence[asyncpg.Record], positions: Sequence[int], times: Sequence[float]
) -> list[float]:
    """Return the seconds from each commit to the first look that found its position applied."""
    return [times[bisect.bisect_left(positions, row["position"])] - row["committed_at"] for row in committed]
