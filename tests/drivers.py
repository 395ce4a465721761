"""Drivers in the domain's words: a caller of the API, and direct access to the database."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import asyncpg
import httpx

from tests.builders import order_body

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from types import TracebackType

    from tests.processes import ServiceProcess

WAIT_TIMEOUT_SECONDS = 20.0
REQUEST_TIMEOUT_SECONDS = 30.0
CONNECTIONS = 100

# No server here uses TLS, so no authority is trusted: reading the system's takes 50 ms for each client.
NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

# It logs a line for each request.
logging.getLogger("httpx").setLevel(logging.WARNING)


def http_client(url: str, timeout: float = REQUEST_TIMEOUT_SECONDS) -> httpx.Client:
    """Create a client of a server on this machine, which is never reached through a proxy."""
    return httpx.Client(
        base_url=url,
        timeout=timeout,
        limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
        verify=NO_AUTHORITIES,
        trust_env=False,
    )


class Api:
    """A caller of the HTTP API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.client = http_client(self.url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()

    def wait_until_ready(self) -> None:
        """Wait until orders can be stored."""
        wait_until(self._is_ready, "the API is ready")

    @property
    def is_listening(self) -> bool:
        """Whether it answers at all, ready or not."""
        try:
            return bool(self.client.get("/health/live").is_success)
        except httpx.TransportError:
            return False

    def _is_ready(self) -> bool:
        try:
            return self.client.get("/health/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def place_order(self, **fields: Any) -> httpx.Response:
        """Try to place an order; ``order_body`` has the defaults."""
        return self.client.post("/orders", json=order_body(**fields))

    def place_order_with_fee(self, fee: str) -> httpx.Response:
        """Try to place an order with this JSON number as its fee."""
        return self.post_text("/orders", f'{{"totalfee": {fee}, "services": [{{"id": "123"}}]}}')

    def placed_order(self, **fields: Any) -> dict[str, Any]:
        """Place an order that must be accepted, and return it."""
        answer = self.place_order(**fields)
        assert answer.status_code == httpx.codes.CREATED, answer.text
        order: dict[str, Any] = answer.json()
        return order

    def post_text(
        self, path: str, text: str | bytes, content_type: str = "application/json"
    ) -> httpx.Response:
        """Post exactly these bytes."""
        return self.client.post(path, content=text, headers={"Content-Type": content_type})

    def every_order(self) -> list[dict[str, Any]]:
        """Follow the list of orders from page to page."""
        return self.every_item("/orders?limit=100")

    def every_item(self, path: str) -> list[dict[str, Any]]:
        """Follow a list from page to page."""
        items: list[dict[str, Any]] = []
        following: str | None = path
        while following:
            answer = self.client.get(following)
            assert answer.status_code == httpx.codes.OK, answer.text
            page = answer.json()
            items += page["items"]
            following = page["next"]
        return items

    def waiting(self, gauge: str = "order_changes_followers") -> int:
        """Count waiting requests, so that a test can check that one waits before it continues."""
        match = re.search(rf"^{gauge} (\S+)$", self.client.get("/metrics").text, re.MULTILINE)
        assert match
        return int(float(match[1]))

    def fee_summaries(self, **query: str) -> dict[str, Any]:
        """Read fee summaries, with exact numbers."""
        answer = self.client.get("/fee-summaries", params={"limit": "100", **query})
        assert answer.status_code == httpx.codes.OK, answer.text
        summaries: dict[str, Any] = json.loads(answer.text, parse_float=Decimal)
        return summaries


def at_once(calls: Iterable[Callable[[], httpx.Response]]) -> list[httpx.Response]:
    """Make concurrent requests and return their answers."""
    every_call = list(calls)
    with ThreadPoolExecutor(len(every_call)) as threads:
        return [pending.result() for pending in [threads.submit(call) for call in every_call]]


def faulty_places(answer: httpx.Response) -> list[str]:
    """Return the pointers to all faults of a body that was refused with 422."""
    assert answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "/problems/validation-failed"
    assert all(fault["detail"] for fault in problem["errors"])
    return [fault["pointer"] for fault in problem["errors"]]


FEW_BYTES = 1_000_000
"""A smaller database is emptied with DELETE."""


WAITING_FOR_LOCKS = """
FROM pg_locks
WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
"""Sessions that wait for a lock of this database. Those of other tests are copies of one template, in which a
table has the same object id."""


class Database:
    """Direct access to the database."""

    STATE_TABLES = ("change_log", "consumer_cursor", "fee_summary_proof", "fee_summary_state")
    """Their rows come from the migrations: they are reset, never deleted."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        # In a thread of its own: while a browser is open, Playwright's event loop occupies that of the test.
        self._thread = ThreadPoolExecutor(1)
        self.url = url

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        # Not ``Runner.run``: its handling of Ctrl-C takes half as long as a short statement.
        return self._thread.submit(self._runner.get_loop().run_until_complete, coroutine).result()

    def __enter__(self) -> Self:
        self._connection = self._run(asyncpg.connect(self.url))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._connection.close())
        self._runner.close()
        self._thread.shutdown()

    def rows(self, sql: str, *arguments: object) -> list[dict[str, Any]]:
        """Run a statement."""
        return [dict(row) for row in self._run(self._connection.fetch(sql, *arguments))]

    def run_script(self, sql: str) -> None:
        """Run any number of statements in one transaction."""
        self._run(self._connection.execute(sql))

    def value(self, sql: str, *arguments: object) -> Any:
        """Run a statement and return the first column of its first row."""
        return self._run(self._connection.fetchval(sql, *arguments))

    @cached_property
    def every_table(self) -> list[str]:
        """Every table except Piccolo's own."""
        tables = self.rows(
            "SELECT tablename FROM pg_tables "
            "WHERE schemaname = 'public' AND tablename <> 'migration' ORDER BY tablename"
        )
        return [row["tablename"] for row in tables]

    @cached_property
    def tables(self) -> list[str]:
        """Every table that the migrations leave empty."""
        return [table for table in self.every_table if table not in self.STATE_TABLES]

    def clean(self) -> None:
        """Remove every row and restart every sequence."""
        self._run(self._connection.execute(self._clean))

    @cached_property
    def _clean(self) -> str:
        # Triggers of ``orders`` truncate these, which would fail while they are truncated.
        kept_by_triggers = {"ordered_service", "order_metadata"}
        every = ", ".join(table for table in self.tables if table not in kept_by_triggers)
        few = ";".join(f"DELETE FROM {table}" for table in self.tables)
        size = " + ".join(f"pg_relation_size('{table}')" for table in self.tables)
        # Lock in the same order as relay and worker, then everything: wait for concurrent writers.
        # TRUNCATE always takes 40 ms, deleting a few rows 2 ms; foreign keys are not checked in either.
        return f"""
            SELECT FROM change_log FOR UPDATE;
            SELECT FROM consumer_cursor FOR UPDATE;
            LOCK TABLE {every} IN SHARE ROW EXCLUSIVE MODE;
            DO $$
            BEGIN
                IF {size} > {FEW_BYTES} THEN
                    TRUNCATE {every};
                ELSE
                    SET LOCAL session_replication_role = replica;
                    {few};
                    SET LOCAL session_replication_role = origin;
                END IF;
                PERFORM setval(format('%I', sequencename)::regclass, start_value, false)
                FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL;
            END
            $$;
            UPDATE change_log SET last_position = 0, first_position = 1;
            UPDATE consumer_cursor SET position = 0;
        """

    def add_services(self) -> None:
        """Add the sample's catalogue."""
        self.rows(
            "INSERT INTO service (id, name) VALUES (123, 'Inspection'), (456, 'Analysis'), (789, 'Testing') "
            "ON CONFLICT DO NOTHING"
        )

    def counts(self) -> dict[str, int]:
        """Count the rows of every table that the migrations leave empty, to check that nothing was stored."""
        counts = (f"SELECT '{table}' AS name, count(*) AS n FROM {table}" for table in self.tables)
        return {row["name"]: row["n"] for row in self.rows(" UNION ALL ".join(counts))}

    def everything(self) -> dict[str, str | None]:
        """Return every row of every table, to check that no row was changed either."""
        contents = (
            f"SELECT '{table}' AS name, json_agg(t ORDER BY t::text)::text AS content FROM {table} AS t"
            for table in self.every_table
        )
        return {row["name"]: row["content"] for row in self.rows(" UNION ALL ".join(contents))}

    def too_close_pairs(self) -> list[dict[str, Any]]:
        """List booked orders nearer than their calendar's spacing, found without the rule's constraint."""
        return self.rows(
            """
            SELECT a.id AS one, b.id AS other
            FROM orders AS a JOIN orders AS b ON a.id < b.id JOIN calendar AS c ON c.id = a.calendar_id
            WHERE a.calendar_id = b.calendar_id AND a.import_id <> b.import_id
              AND a.status = 'booked' AND b.status = 'booked'
              AND abs(extract(epoch FROM a.datetime - b.datetime)) < c.spacing_seconds
            """
        )

    def wrong_summaries(self, zone: str = "UTC") -> list[dict[str, Any]]:
        """List the fee summaries that do not equal the orders' sums, computed without the worker's SQL.

        An order counts under service 0 as a whole, and under each of its services by its share.
        """
        return self.rows(
            """
            WITH part AS (
                SELECT
                    o.datetime, o.calendar_id, s.id AS service_id, (o.totalfee * 100)::bigint AS cents,
                    row_number() OVER (PARTITION BY o.id ORDER BY s.id) AS place,
                    count(*) OVER (PARTITION BY o.id) AS parts
                FROM orders AS o, unnest(o.service_ids) AS s (id) WHERE o.status = 'booked'
            ), counted AS (
                SELECT datetime, calendar_id, 0::bigint AS service_id, totalfee AS share FROM orders
                WHERE status = 'booked'
                UNION ALL
                SELECT datetime, calendar_id, service_id,
                    (cents / parts + CASE WHEN place <= cents % parts THEN 1 ELSE 0 END) * 0.01
                FROM part
            ), expected AS (
                SELECT
                    (datetime AT TIME ZONE $1)::date AS day, calendar_id, service_id, share,
                    count(*) AS orders
                FROM counted GROUP BY 1, 2, 3, 4
            )
            SELECT *, expected.orders AS expected, kept.orders AS kept
            FROM expected FULL JOIN (
                SELECT * FROM fee_summary WHERE generation = (SELECT generation FROM fee_summary_state)
            ) AS kept USING (day, calendar_id, service_id, share)
            WHERE expected.orders IS DISTINCT FROM kept.orders
            """,
            zone,
        )


@dataclass
class Pipeline:
    """API, relay and worker, with the database and the Redis database between them."""

    api: Api
    database: Database
    relay: ServiceProcess
    worker: ServiceProcess
    redis_url: str

    def wait_until_summed(self) -> int:
        """Wait until the summaries include every change, and return their position."""

        def summed() -> bool:
            return bool(
                self.database.value(
                    """
                    SELECT (SELECT count(*) FROM order_change) =
                        (SELECT position FROM consumer_cursor WHERE consumer = 'fee_summaries')
                    """
                )
            )

        wait_until(summed, "every change is summed")
        return int(
            self.database.value("SELECT position FROM consumer_cursor WHERE consumer = 'fee_summaries'")
        )


def wait_until(
    condition: Callable[[], bool], what: str, seconds: float = WAIT_TIMEOUT_SECONDS, pause: float = 0.02
) -> None:
    """Wait until a condition holds, with a pause between two checks.

    Raises:
        AssertionError: it did not hold in time.

    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(pause)
