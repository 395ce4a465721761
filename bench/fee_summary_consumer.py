"""How long the consumer of fee summaries takes per change, after a short history and after a long one.

    python -m bench.fee_summary_consumer [ORDERS]

It creates two databases, with 1,000 and ORDERS (100,000) orders in the summaries. They take turns in applying
batches of 500 changes of the same kinds (updates that move an order or change its fee): first of orders
spread over the whole history, then of neighbouring orders, such as those of the coming weeks. The medians and
their ratios are printed. Then, on the large database: how long a page of a report takes at the current
position and up to 49,500 changes back, and how long a proof and a rebuild take.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from stack.embedded_postgres import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

SMALL, BATCH, ROUNDS = 1_000, 500, 15

_FILL = """
INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
SELECT at, (n * 7919 % 1000000) / 100.0, ARRAY[123, 456, 789],
    ARRAY['a', 'b', 'c'], c.id
FROM (
    SELECT n, timestamptz '2030-01-01Z' + (n / 20) * interval '4 hours' AS at, 'c' || (n % 20) AS name
    FROM generate_series(0, $1::int - 1) AS n
) AS o JOIN calendar AS c USING (name)
"""
_ORDERS = {
    "spread": "SELECT id FROM orders ORDER BY hashint8(id + $1) LIMIT $2",
    "neighbours": """
        SELECT id FROM orders
        WHERE id >= (SELECT min(id) + $1::bigint * 7919 % (count(*) - $2::bigint + 1) FROM orders)
        ORDER BY id LIMIT $2
    """,
}
"""Which orders a batch changes; their ids are in the order of their datetimes."""

_UPDATE_CHOSEN = """
UPDATE orders SET version = version + 1, totalfee = (id * 31 + $1) % 100000 / 100.0,
    datetime = datetime + interval '1 minute' * ($1 % 2 * 2 - 1)
WHERE id IN (SELECT id FROM chosen)
"""

_CHANGE = {which: f"WITH chosen AS ({orders}) {_UPDATE_CHOSEN}" for which, orders in _ORDERS.items()}


async def _fill(url: str, orders: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("INSERT INTO service (id, name) VALUES (123, 'a'), (456, 'b'), (789, 'c')")
        await connection.execute(
            "INSERT INTO calendar (name) SELECT 'c' || n FROM generate_series(0, 19) AS n"
        )
        await connection.execute(_FILL, orders)
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()


def _run(url: str, coroutine: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a step on one of the databases, with its own connections and event loop."""
    from shared.database import engine as database

    database.DB.config["dsn"] = url

    async def step() -> Any:
        await database.DB.start(size=2)
        try:
            return await coroutine()
        finally:
            await database.DB.stop()

    return asyncio.run(step())


async def _catch_up() -> list[float]:
    """Apply all waiting changes; return the seconds that each batch took."""
    from shared.change_log import FEE_SUMMARIES, assign_positions, cursor_of, last_position
    from worker.fee_summaries.consumer import apply_changes

    while await assign_positions():
        pass
    took = []
    last = await last_position()
    while (position := (await cursor_of(FEE_SUMMARIES)).position) < last:
        began = time.perf_counter()
        await apply_changes(min(last, position + BATCH))
        took.append(time.perf_counter() - began)
    return took


async def _measure(which: str, number: int, rounds: int) -> list[float]:
    from shared.database.statements import execute

    took = []
    for index in range(rounds):
        await execute(_CHANGE[which], number * 100 + index, BATCH)
        took += await _catch_up()
    return took


async def _report(position: int | None) -> float:
    from api.fee_summaries.reports import ReportQuery
    from shared.database.engine import DB

    statement, arguments = ReportQuery(group_by="month", by=frozenset({"calendar"})).statement(
        position, None, 50
    )
    await DB.fetch(statement, *arguments)
    began = time.perf_counter()
    await DB.fetch(statement, *arguments)
    return time.perf_counter() - began


async def _large(orders: int) -> None:
    from shared.change_log import FEE_SUMMARIES, cursor_of
    from shared.database.statements import execute
    from worker.fee_summaries.proof import prove
    from worker.fee_summaries.rebuild import rebuild

    print(f"a page of months by calendar, {orders:,} orders: {await _report(None) * 1e3:.0f} ms")
    while True:
        position = (await cursor_of(FEE_SUMMARIES)).position
        if position >= orders + 50_000 + 2 * 3 * ROUNDS * BATCH:
            break
        await execute(_CHANGE["spread"], position, 10_000)
        await _catch_up()
    for back in (100, 5_000, 49_500):
        print(f"the same {back:,} changes back: {await _report(position - back) * 1e3:.0f} ms")
    proof = await prove()
    print(f"proof: {proof.seconds:.1f} s, {proof.differing} differing")
    print(f"rebuild: {(await rebuild()).seconds:.1f} s")
    proof = await prove()
    print(f"proof after it: {proof.seconds:.1f} s, {proof.differing} differing")


def main() -> None:
    """Measure and print."""
    orders = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with (
        tempfile.TemporaryDirectory(prefix="oms-") as folder,
        EmbeddedPostgres(Path(folder) / "postgres", durable=False) as postgres,
    ):
        os.environ["OMS_REDIS_URL"] = "redis://127.0.0.1:1/0"
        urls = {}
        for name, size in (("small", SMALL), ("large", orders)):
            asyncio.run(_create(postgres.url_of("postgres"), name))
            urls[name] = postgres.url_of(name)
            os.environ["OMS_DATABASE_URL"] = urls[name]
            _migrate(urls[name])
            asyncio.run(_fill(urls[name], size))
            _run(urls[name], _catch_up)
        for which in _ORDERS:
            _compare(which, urls)
        _run(urls["large"], lambda: _large(orders))


def _compare(which: str, urls: dict[str, str]) -> None:
    took: dict[str, list[float]] = {name: [] for name in urls}
    for number in range(ROUNDS):
        for name, url in urls.items():
            # The first batch on a connection is not counted: it prepares the statements.
            took[name] += _run(url, partial(_measure, which, number, 3))[1:]
    medians = {name: statistics.median(values) / BATCH * 1e6 for name, values in took.items()}
    for name, value in medians.items():
        print(f"{which}, {name}: {value:.1f} µs per change (median of {len(took[name])} batches of {BATCH})")
    print(f"{which}: ratio large to small: {medians['large'] / medians['small']:.2f}", flush=True)


async def _create(url: str, name: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()


def _migrate(url: str) -> None:
    """Run the migrations as a deployment does."""
    subprocess.run(
        [sys.executable, "-m", "shared.database.migrate"],
        check=True,
        env={**os.environ, "OMS_DATABASE_URL": url},
        stdout=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    main()
