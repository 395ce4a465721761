"""The databases of the contestants: the same orders in each."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Sequence

CALENDARS = 100
ORDERS = 10_000
"""In each database from the beginning, six hours apart on each calendar, with two services each."""

SERVICES = {"123": "Inspection", "456": "Radon test", "789": "Sewer scope"}
_PLACES = f"""
SELECT n, 'c' || n % {CALENDARS} AS calendar, (n * 7919 % 100000) / 100.0 AS totalfee,
    timestamptz '2030-01-01Z' + (n / {CALENDARS}) * interval '6 hours' AS datetime
FROM generate_series(0, {ORDERS - 1}) AS n
"""
_FILL_OURS = f"""
INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
SELECT o.datetime, o.totalfee, ARRAY[123, 456], ARRAY['Inspection', 'Radon test'], c.id
FROM ({_PLACES}) AS o JOIN calendar AS c ON c.name = o.calendar ORDER BY n
"""
_FILL_PLAIN = f"""
WITH stored AS (
    INSERT INTO orders (datetime, totalfee, services, calendar)
    SELECT datetime, totalfee,
        '[{{"id": "123", "name": "Inspection"}}, {{"id": "456", "name": "Radon test"}}]'::jsonb, calendar
    FROM ({_PLACES}) AS o ORDER BY n RETURNING *
)
INSERT INTO order_change (type, order_id, order_state)
SELECT 'order.created', id, to_jsonb(stored) FROM stored
"""
_PLAIN_SCHEMA = Path(__file__).parent / "peers" / "schema.sql"


@dataclass(frozen=True)
class StoredOrder:
    """An order of the beginning."""

    id: str
    datetime: str
    """In UTC, such as 2030-01-01T06:00:00Z."""
    calendar: str


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def execute(url: str, *statements: str) -> None:
    """Execute statements, each in a transaction of its own."""
    asyncio.run(_execute(url, *statements))


def fetch(url: str, query: str, *values: Any) -> Sequence[asyncpg.Record]:
    """Return the rows of a query."""

    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetch(query, *values)
        finally:
            await connection.close()

    return asyncio.run(run())


def copy(server_url: str, name: str, template: str) -> None:
    """Create a database like another, to which nobody is connected."""
    execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")


def create_ours(server_url: str, name: str, url: str, more_calendars: int) -> None:
    """Create a database with this service's schema, the orders, and calendars p0, p1, … without orders."""
    execute(server_url, f"CREATE DATABASE {name}")
    subprocess.run(
        [sys.executable, "-m", "shared.database.migrate"],
        check=True,
        env={**os.environ, "OMS_DATABASE_URL": url, "OMS_REDIS_URL": "redis://127.0.0.1:1/0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    services = ", ".join(f"({number}, '{service}')" for number, service in SERVICES.items())
    execute(
        url,
        f"INSERT INTO service (id, name) VALUES {services}",
        f"INSERT INTO calendar (name) SELECT 'c' || n FROM generate_series(0, {CALENDARS - 1}) AS n",
        f"INSERT INTO calendar (name) SELECT 'p' || n FROM generate_series(0, {more_calendars - 1}) AS n",
        _FILL_OURS,
        "VACUUM ANALYZE",
    )


def create_plain(server_url: str, name: str, url: str) -> None:
    """Create a database with the peers' schema and the orders."""
    execute(server_url, f"CREATE DATABASE {name}")
    services = ", ".join(f"({number}, '{service}')" for number, service in SERVICES.items())
    execute(
        url,
        _PLAIN_SCHEMA.read_text(),
        f"INSERT INTO service (id, name) VALUES {services}",
        _FILL_PLAIN,
        "VACUUM ANALYZE",
    )


_STORED = """
SELECT o.id::text, to_char(o.datetime AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS datetime,
    {calendar}
FROM orders AS o {join} WHERE o.datetime < '2040-01-01Z' ORDER BY o.id
"""


def stored_orders(url: str, *, ours: bool) -> list[StoredOrder]:
    """Return the orders of the beginning, where they are now."""
    query = (
        _STORED.format(calendar="c.name AS calendar", join="JOIN calendar AS c ON c.id = o.calendar_id")
        if ours
        else _STORED.format(calendar="o.calendar", join="")
    )
    return [StoredOrder(**row) for row in fetch(url, query)]
