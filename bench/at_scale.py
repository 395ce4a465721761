"""``make bench-scale``: what stays the same however many orders there are, and however long the servers run.

    python -m bench.at_scale [--orders 1000000] [--operations 200000] [--rounds 5]

In one PostgreSQL it fills a database with 10,000 orders and one with ORDERS, reads both into PostgreSQL's
memory as far as they fit, and starts an API on each. In each round, each kind of request is sent to both, one
after the other. Then it exports 1,000,000 orders, and sends OPERATIONS requests to a whole system, while it
reads the memory of every process. It prints a table, and writes bench/results/scale.json.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench.contestants import ROOT, service_environment
from bench.databases import execute
from bench.export_memory import measure_export
from bench.large_database import MOST_ORDERS, LargeDatabase
from bench.load import generator, send
from bench.operations_memory import measure_operations
from bench.processes import BenchError, Server, cpu_seconds
from bench.scale_report import GOAL, table
from bench.scale_works import CREATE, REPEATED, ScaleWorks
from bench.system import commit, machine, servers
from bench.works import render
from stack.embedded_valkey import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stack.embedded_postgres import EmbeddedPostgres

RESULTS = Path(__file__).parent / "results" / "scale.json"
SMALL = 10_000
_SECONDS = 1
_CREATES = 8_000 * _SECONDS
"""More than can be stored in that time."""


@dataclass
class Side:
    """One of the two databases, with its API."""

    database: LargeDatabase
    server: Server
    port: int
    works: ScaleWorks
    ms: dict[str, list[float]] = field(default_factory=dict)
    """By work, for each round: milliseconds per request, of all connections together."""
    cpu_ms: dict[str, list[float]] = field(default_factory=dict)
    """The same of processors' time, of PostgreSQL and the API."""


def run(orders: int, operations: int, rounds: int) -> dict[str, Any]:
    """Measure everything, and return the results."""
    # As PostgreSQL's documentation recommends: a quarter of the memory.
    buffers = f"{psutil.virtual_memory().total // 4 // 1024**2}MB"
    # Both databases have just been vacuumed; that it happens again during a measurement would be chance.
    with servers(shared_buffers=buffers, autovacuum="off") as (postgres, valkey, folder):
        with _sides(postgres, valkey.url, folder, orders) as sides:
            compare(sides, postgres, folder, rounds)
            print("export", flush=True)
            export = measure_export(sides[1].database, sides[1].server, sides[1].port)
        print("operations", flush=True)
        memory = measure_operations(sides[0].database.url, valkey.url, folder, operations)
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "machine": machine(folder),
            "generator": generator(),
            "orders": [side.database.orders for side in sides],
            "rounds": rounds,
            "works": {work: _figures(sides, work) for work in sides[0].ms},
            "export": export,
            "memory": memory,
        }


@contextmanager
def _sides(postgres: EmbeddedPostgres, redis_url: str, folder: Path, orders: int) -> Iterator[list[Side]]:
    sides = []
    for name, count in (("small", SMALL), ("large", orders)):
        execute(postgres.url_of("postgres"), f"CREATE DATABASE {name}")
        database = LargeDatabase(postgres.url_of(name), count)
        print(f"filled in {database.fill():.0f} s", flush=True)
        port = free_port()
        environment = service_environment(database.url, redis_url, OMS_PORT=str(port))
        server = Server(name, [sys.executable, "-m", "api.server"], environment, ROOT, folder / f"{name}.log")
        sides.append(Side(database, server, port, ScaleWorks(database, port)))
    try:
        for side in sides:
            side.server.start()
            side.server.wait_for(side.port, "/orders?limit=1")
        yield sides
    finally:
        for side in sides:
            side.server.stop()


def compare(sides: list[Side], postgres: EmbeddedPostgres, folder: Path, rounds: int) -> None:
    """Send each kind of request to both, in each round; one round more comes first and is not counted."""
    reads = {id(side): side.works.reads for side in sides}
    for side in sides:
        for work, path in reads[id(side)].items():
            side.works.check(work, path)
    order = random.Random(5)
    for number in range(rounds + 1):
        for work in (CREATE, *reads[id(sides[0])]):
            for side in order.sample(sides, len(sides)):
                if work == CREATE:
                    requests = side.works.creates(_CREATES)
                else:
                    path = reads[id(side)][work]
                    requests = [render("GET", path()) for _ in range(REPEATED)]
                before = _cpu(side, postgres)
                outcome = send(side.port, requests, folder / "requests", _SECONDS, once=work == CREATE)
                cpu = _cpu(side, postgres) - before
                if number:
                    side.ms.setdefault(work, []).append(1e3 / outcome.rate)
                    side.cpu_ms.setdefault(work, []).append(cpu / outcome.requests * 1e3)
        print(f"  round {number} of {rounds}", flush=True)


def _cpu(side: Side, postgres: EmbeddedPostgres) -> float:
    if postgres.process is None:
        raise BenchError("PostgreSQL does not run")
    return cpu_seconds(side.server.process) + cpu_seconds(psutil.Process(postgres.process.pid))


def _figures(sides: list[Side], work: str) -> dict[str, Any]:
    """Return the medians of both, and the medians of the rounds' ratios, large to small."""
    small, large = sides
    return {
        "ms": [round(statistics.median(side.ms[work]), 4) for side in sides],
        "cpu_ms": [round(statistics.median(side.cpu_ms[work]), 4) for side in sides],
        "ratio": round(_ratio(large.ms[work], small.ms[work]), 3),
        "cpu_ratio": round(_ratio(large.cpu_ms[work], small.cpu_ms[work]), 3),
    }


def _ratio(over: list[float], under: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def main() -> int:
    """Run; the exit status is 0 if all is measured, 2 if it could not be."""
    parser = argparse.ArgumentParser(prog="python -m bench.at_scale")
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--operations", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not SMALL <= options.orders <= MOST_ORDERS:
        parser.error(f"--orders: {SMALL:,} to {MOST_ORDERS:,}")
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all servers are stopped
    try:
        results = run(options.orders, options.operations, options.rounds)
    except BenchError as error:
        print(f"make bench-scale: {error}", file=sys.stderr)
        return 2
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    grown = [work for work, each in results["works"].items() if each["ratio"] > GOAL]
    print(f"more than {GOAL} times as slow with more orders: {', '.join(grown) or 'nothing'}")
    print(f"written to {RESULTS} after {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
