"""``make bench-capacity``: what one primary takes, as processors' time, bytes and rates of one order.

    python -m bench.capacity [--orders 1000000] [--operations 5000] [--rounds 3]

It fills a database with ORDERS orders, which tells their size on disk, and starts an API, a relay and a
worker on it. In each round it sends OPERATIONS creates, as many updates and as many cancellations while
relay and worker are suspended; then the relay assigns all positions, and then the worker brings the
summaries up to date. Beside them it inserts as many bare rows: the least that a service could store. It
prints the tables of docs/scaling.md, and writes bench/results/capacity.json.

Before each step is a checkpoint, after which the first change of each page writes the whole page to the
WAL: these bytes are counted apart from the records. PostgreSQL vacuums nothing meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import statistics
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import psutil

from bench.capacity_report import document
from bench.contestants import ROOT, service_environment
from bench.databases import execute, fetch
from bench.large_database import FIRST_ID, MOST_ORDERS, LargeDatabase
from bench.load import generator, send
from bench.operations_memory import BEHIND
from bench.processes import BenchError, Server, cpu_seconds, family
from bench.scale_works import ScaleWorks
from bench.system import commit, machine, servers
from bench.works import render
from stack.embedded_valkey import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stack.embedded_postgres import EmbeddedPostgres

RESULTS = Path(__file__).parent / "results" / "capacity.json"
STEPS = ("reference", "create", "update", "cancel", "positions", "summaries")
_SECONDS = 120
_CONNECTIONS = 16
_POLL_SECONDS = 0.01

_ROW = "x" * 400
"""As long as the text of an order with two services."""

_UNASSIGNED = "SELECT EXISTS (SELECT FROM order_change WHERE position IS NULL) AS behind"
_SIZES = """
SELECT relname::text AS name, pg_table_size(oid) AS heap, pg_indexes_size(oid) AS indexes FROM pg_class
WHERE relname IN ('orders', 'ordered_service', 'order_change', 'fee_summary') AND relkind = 'r'
"""
_WAL = """
SELECT coalesce(sum(record_size), 0)::bigint AS records, coalesce(sum(fpi_size), 0)::bigint AS pages
FROM pg_get_wal_stats($1::text::pg_lsn, $2::text::pg_lsn)
"""
_FLUSHED = "SELECT pg_current_wal_flush_lsn()::text AS lsn"


@dataclass(frozen=True)
class Step:
    """What one step of one round took, for each order, change or row."""

    seconds: float
    """On this machine, with everything on it."""
    postgres_cpu: float
    """Seconds of processors' time, of all of PostgreSQL's processes."""
    service_cpu: float
    """The same of the API, the relay or the worker, as the step is theirs."""
    wal_records: float
    """Bytes, without images of whole pages."""
    wal_pages: float
    """Bytes of images of whole pages, right after a checkpoint."""


class Capacity:
    """The whole system on one database, step by step."""

    def __init__(
        self, database: LargeDatabase, postgres: EmbeddedPostgres, redis_url: str, folder: Path
    ) -> None:
        self._url = database.url
        self._postgres = postgres
        self._file = folder / "requests"
        port = free_port()
        environment = service_environment(database.url, redis_url, OMS_PORT=str(port))
        self._api, self._relay, self._worker = (
            Server(name, [sys.executable, "-m", module], environment, ROOT, folder / f"{name}.log")
            for name, module in (
                ("api", "api.server"),
                ("relay", "api.relay.main"),
                ("worker", "worker.main"),
            )
        )
        self._port = port
        self._works = ScaleWorks(database, port)
        ids = list(range(FIRST_ID, FIRST_ID + database.orders))
        random.Random(11).shuffle(ids)
        self._ids = iter(ids)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start all processes, and stop them."""
        started = (self._api, self._relay, self._worker)
        try:
            for server in started:
                server.start()
            self._api.wait_for(self._port, "/orders?limit=1")
            self._worker.wait_until(lambda: len(family(self._worker.process)) > 1)
            yield
        finally:
            for server in started:
                server.stop()

    def run_round(self, operations: int) -> dict[str, Step]:
        """Take every step once: as many orders, updates and cancellations, and then all their changes."""
        self._wait(BEHIND)
        changed = [next(self._ids) for _ in range(operations)]
        _suspend(self._relay)
        _suspend(self._worker)
        steps = {"reference": self._take(operations, lambda: asyncio.run(self._insert_rows(operations)))}
        for name, requests in (
            ("create", self._works.creates(operations)),
            ("update", [_update(each) for each in changed]),
            ("cancel", [render("POST", f"/orders/{each}/cancel") for each in changed]),
        ):
            steps[name] = self._take(operations, partial(self._send, requests), self._api)
        for name, server, behind in (
            ("positions", self._relay, _UNASSIGNED),
            ("summaries", self._worker, BEHIND),
        ):
            steps[name] = self._take(3 * operations, partial(self._resume, server, behind), server)
        return steps

    def _take(self, count: int, work: Callable[[], None], server: Server | None = None) -> Step:
        if self._postgres.process is None:
            raise BenchError("PostgreSQL does not run")
        postgres = psutil.Process(self._postgres.process.pid)
        execute(self._url, "CHECKPOINT")
        (before,) = fetch(self._url, _FLUSHED)
        cpu = cpu_seconds(postgres), cpu_seconds(server.process) if server else 0.0
        began = time.perf_counter()
        work()
        seconds = time.perf_counter() - began
        of_postgres = cpu_seconds(postgres) - cpu[0]
        of_service = cpu_seconds(server.process) - cpu[1] if server else 0.0
        (after,) = fetch(self._url, _FLUSHED)
        (wal,) = fetch(self._url, _WAL, before["lsn"], after["lsn"])
        values = (seconds, of_postgres, of_service, wal["records"], wal["pages"])
        return Step(*(value / count for value in values))

    def _send(self, requests: list[bytes]) -> None:
        outcome = send(self._port, requests, self._file, _SECONDS, all_of_them=True)
        if outcome.requests != len(requests):
            raise BenchError(f"{outcome.requests} of {len(requests)} were answered in {_SECONDS} s")

    async def _insert_rows(self, count: int) -> None:
        numbers = iter(range(count))

        async def insert() -> None:
            connection = await asyncpg.connect(self._url)
            statement = await connection.prepare("INSERT INTO bare_row (body) VALUES ($1)")
            for _ in numbers:
                await statement.fetch(_ROW)
            await connection.close()

        await asyncio.gather(*(insert() for _ in range(_CONNECTIONS)))

    def _resume(self, server: Server, behind: str) -> None:
        for process in family(server.process):
            process.resume()
        self._wait(behind)

    def _wait(self, query: str) -> None:
        deadline = time.monotonic() + _SECONDS
        while fetch(self._url, query)[0]["behind"]:
            _ = self._relay.process, self._worker.process
            if time.monotonic() > deadline:
                raise BenchError(f"relay or worker took more than {_SECONDS} s")
            time.sleep(_POLL_SECONDS)


def _suspend(server: Server) -> None:
    for process in family(server.process):
        process.suspend()


def _update(order_id: int) -> bytes:
    fee = {"totalfee": order_id * 31 % 100_000 / 100}
    return render("PATCH", f"/orders/{order_id}", fee, **{"Content-Type": "application/merge-patch+json"})


def run(orders: int, operations: int, rounds: int) -> dict[str, Any]:
    """Measure everything, and return the results."""
    memory = psutil.virtual_memory().total
    with servers(shared_buffers=f"{memory // 4 // 1024**2}MB", autovacuum="off", max_wal_size="16GB") as (
        postgres,
        valkey,
        folder,
    ):
        execute(postgres.url_of("postgres"), "CREATE DATABASE capacity")
        database = LargeDatabase(postgres.url_of("capacity"), orders)
        print(f"filled in {database.fill():.0f} s", flush=True)
        sizes = {row["name"]: [row["heap"], row["indexes"]] for row in fetch(database.url, _SIZES)}
        execute(
            database.url,
            "CREATE EXTENSION pg_walinspect",
            "CREATE TABLE bare_row (id bigserial PRIMARY KEY, body text NOT NULL)",
        )
        capacity = Capacity(database, postgres, valkey.url, folder)
        taken: list[dict[str, Step]] = []
        with capacity.running():
            for number in range(rounds + 1):  # one round more comes first and is not counted
                steps = capacity.run_round(operations)
                taken += [steps] if number else []
                print(f"  round {number} of {rounds}", flush=True)
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "machine": machine(folder),
            "generator": generator(),
            "orders": orders,
            "operations": operations,
            "rounds": rounds,
            "bytes_per_order": {
                name: [round(size / orders, 1) for size in each] for name, each in sorted(sizes.items())
            },
            "steps": {name: _medians([each[name] for each in taken]) for name in STEPS},
        }


def _medians(steps: list[Step]) -> dict[str, float]:
    """Return the medians: microseconds of time, bytes of WAL."""

    def median(name: str) -> float:
        return statistics.median(float(getattr(step, name)) for step in steps)

    return {
        **{f"{n}_us": round(median(n) * 1e6, 2) for n in ("seconds", "postgres_cpu", "service_cpu")},
        **{n: round(median(n), 1) for n in ("wal_records", "wal_pages")},
    }


def main() -> int:
    """Run; the exit status is 0 if all is measured, 2 if it could not be."""
    parser = argparse.ArgumentParser(prog="python -m bench.capacity")
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--operations", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not 2 * options.operations * (options.rounds + 1) <= options.orders <= MOST_ORDERS:
        parser.error(f"--orders: twice as many as there are operations in all, at most {MOST_ORDERS:,}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all servers are stopped
    try:
        results = run(options.orders, options.operations, options.rounds)
    except BenchError as error:
        print(f"make bench-capacity: {error}", file=sys.stderr)
        return 2
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(document(results))
    print(f"written to {RESULTS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
