"""Databases with this service's schema and any number of orders, filled with statements for many rows.

While one is filled, only the trigger that renders orders is on; what the others would write is written here.
Indexes and constraints are removed before and created again after, so that PostgreSQL checks all rows.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg

from bench.contestants import ROOT, service_environment
from bench.databases import SERVICES as OTHER_SERVICES
from bench.databases import execute
from bench.processes import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST_ID = 1_000_000_000_000_000
"""The ids are the server's own, so no row of claimed ids is needed."""

CALENDARS = 200
"""Each has an order a day, so a day's orders do not become more with the number of all orders."""

SERVICES = 20
FIRST_SERVICE = 100
FIRST_DAY = datetime(2000, 1, 1, 12, tzinfo=UTC)
MOST_ORDERS = 14_000_000
"""Then the days end in 2191; the service takes times until 2199."""

_AT_ONCE = 250_000
_WRITERS = 2
"""As many as most machines that run this have cores."""

_ORDERS = f"""
INSERT INTO orders (id, datetime, totalfee, service_ids, service_names, calendar_id)
SELECT {FIRST_ID} + n, timestamptz '{FIRST_DAY.isoformat()}' + n / {CALENDARS} * interval '24 hours',
    (n * 7919 % 100000) / 100.0, ARRAY[a, b], ARRAY['Service ' || a, 'Service ' || b], c.id
FROM (
    SELECT n, n % {CALENDARS} AS calendar,
        {FIRST_SERVICE} + n / {CALENDARS} % {SERVICES // 2} AS a,
        {FIRST_SERVICE + SERVICES // 2} + n / 7 % {SERVICES // 2} AS b
    FROM generate_series($1::bigint, $2::bigint - 1) AS n
) AS o JOIN calendar AS c ON c.name = 'c' || o.calendar
"""
_ORDERED_SERVICES = f"""
INSERT INTO ordered_service (service_id, order_id, datetime)
SELECT s.id, o.id, o.datetime FROM orders AS o, unnest(o.service_ids) AS s (id)
WHERE o.id >= {FIRST_ID} + $1::bigint AND o.id < {FIRST_ID} + $2::bigint
"""
_CHANGES = f"""
INSERT INTO order_change
    (id, position, type, order_id, order_version, calendar_id, recorded_at, order_state)
SELECT o.id - {FIRST_ID} + 1, o.id - {FIRST_ID} + 1, 'order.created', o.id, o.version, o.calendar_id,
    o.created_at, o.rendered
FROM orders AS o WHERE o.id >= {FIRST_ID} + $1::bigint AND o.id < {FIRST_ID} + $2::bigint
"""
_FILLED = ("orders", "ordered_service", "order_change")

# The primary key of orders is kept: the statements above find their rows by it.
_CONSTRAINTS = """
SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) AS drop,
    format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
        AS create
FROM pg_constraint
WHERE conrelid = ANY ($1::text[]::regclass[]) AND contype IN ('p', 'u', 'x') AND conname <> 'orders_pkey'
"""
_INDEXES = """
SELECT format('DROP INDEX %s', indexrelid::regclass) AS drop, pg_get_indexdef(indexrelid) AS create
FROM pg_index AS i
WHERE indrelid = ANY ($1::text[]::regclass[])
    AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.indexrelid)
"""


# Otherwise the first requests would measure how pages are read, most of all in the large database.
_READ_ALL = """
SELECT count(pg_prewarm(oid)) FROM pg_class
WHERE relkind IN ('r', 'i') AND relnamespace = 'public'::regnamespace
"""


@dataclass(frozen=True)
class LargeDatabase:
    """A database that was filled."""

    url: str
    orders: int

    @property
    def days(self) -> int:
        """How many days have orders; the last may have fewer."""
        return self.orders // CALENDARS

    def fill(self) -> float:
        """Migrate it, and fill it; return the seconds that it took.

        Raises:
            BenchError: the fee summaries do not match the orders then.

        """
        began = time.monotonic()
        _run(self.url, "shared.database.migrate")
        asyncio.run(self._fill())
        _run(self.url, "oms", "rebuild")
        execute(self.url, "VACUUM ANALYZE", "CREATE EXTENSION pg_prewarm", _READ_ALL)
        print(f"  {self.orders:,}: {_run(self.url, 'oms', 'verify', 'summaries')}", flush=True)
        return time.monotonic() - began

    async def _fill(self) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(
                "INSERT INTO calendar (name) SELECT 'c' || n FROM generate_series(0, $1::int - 1) AS n",
                CALENDARS,
            )
            await connection.execute(
                "INSERT INTO service (id, name) SELECT n, 'Service ' || n"
                " FROM generate_series($1::int, $2::int - 1) AS n",
                FIRST_SERVICE,
                FIRST_SERVICE + SERVICES,
            )
            await connection.executemany(
                "INSERT INTO service (id, name) VALUES ($1, $2)",
                [(int(number), name) for number, name in OTHER_SERVICES.items()],
            )
            removed = [
                *await connection.fetch(_INDEXES, _FILLED),
                *await connection.fetch(_CONSTRAINTS, _FILLED),
            ]
            for each in removed:
                await connection.execute(each["drop"])
            await connection.execute("ALTER TABLE orders ENABLE ALWAYS TRIGGER orders_render")
            await self._insert()
            await connection.execute("ALTER TABLE orders ENABLE TRIGGER orders_render")
            await connection.execute("SET maintenance_work_mem = '512MB'")
            for each in reversed(removed):
                await connection.execute(each["create"], timeout=None)
            for statement in self._finish():
                await connection.execute(statement)
        finally:
            await connection.close()

    async def _insert(self) -> None:
        starts = iter(range(0, self.orders, _AT_ONCE))

        async def write() -> None:
            connection = await asyncpg.connect(self.url)
            try:
                await connection.execute("SET session_replication_role = replica")
                await connection.execute("SET synchronous_commit = off")
                for start in starts:
                    end = min(start + _AT_ONCE, self.orders)
                    for statement in (_ORDERS, _ORDERED_SERVICES, _CHANGES):
                        await connection.execute(statement, start, end)
            finally:
                await connection.close()

        await asyncio.gather(*(write() for _ in range(_WRITERS)))

    def _finish(self) -> Sequence[str]:
        """Return the statements that bring sequences, log and cursors to the last order."""
        return (
            f"SELECT setval('orders_id_seq', {FIRST_ID + self.orders})",
            f"SELECT setval('order_change_id_seq', {self.orders})",
            f"UPDATE change_log SET last_position = {self.orders}",
            f"UPDATE consumer_cursor SET position = {self.orders}, moved_at = now()",
            "DELETE FROM fee_summary_step",
            f"INSERT INTO fee_summary_step (position, moved_at) VALUES ({self.orders}, now())",
        )


def at(number: int) -> datetime:
    """Return when an order is, by its number from 0 on."""
    return FIRST_DAY + timedelta(days=number // CALENDARS)


def calendar(number: int) -> str:
    """Return the calendar of an order, by its number from 0 on."""
    return f"c{number % CALENDARS}"


def _run(url: str, module: str, *arguments: str) -> str:
    """Run one of the service's commands; return the last line of its output."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=service_environment(url, "redis://127.0.0.1:1/0"),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"{module} failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done.stdout.strip().rpartition("\n")[2]
