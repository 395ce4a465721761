"""The cost of a page of orders: the same with a thousand orders as with twenty thousand, or a million.

Cost is counted in PostgreSQL's buffers, which do not depend on the machine's load. The
plans are made for each statement's arguments, as the API has them made. To see a million:
``ORDERS_IN_PLANS=1000000 python -m pytest -s tests/test_order_query_plans.py --timeout 600``.

No index serves both orders that ``sort=id`` with ``from`` or ``to`` needs: there a page reads at most ten
thousand orders, and its cursor says where to continue (``api/orders/windows.py``).
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from api.orders.filters import SORTS, OrderFilters
from api.orders.queries import find_page
from tests.drivers import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

FEW = 1_000
MANY = int(os.environ.get("ORDERS_IN_PLANS", "20000"))
PAGE = 50
BEGIN = datetime(2020, 1, 1, tzinfo=UTC)

HALF, TENTH, HUNDREDTH, RARE, NEVER, NEW, OLD = 1, 2, 3, 4, 5, 6, 7
"""Services, by how many orders have them: every second, tenth, hundredth, ten-thousandth, none; all of the
latest twentieth, all of the first.
"""

FILL = """
INSERT INTO orders
    (id, datetime, totalfee, service_ids, service_names, calendar_id)
SELECT
    n, at, 100, s, array_fill('a service'::text, ARRAY[cardinality(s)]), 1 + n % $3
FROM (
    SELECT n, $4::timestamptz + n / $3 * interval '3 hours' + n % $3 * interval '1 second' AS at,
        CASE WHEN n > $2 - $2 / 20 THEN '{6}' WHEN n < $2 / 20 THEN '{7}'
            WHEN n % 10000 = 7 THEN '{4}' WHEN n % 100 = 7 THEN '{3}' WHEN n % 10 = 7 THEN '{2,9}'
            WHEN n % 2 = 0 THEN '{1}' ELSE '{9}' END::bigint[] AS s
    FROM generate_series($1::bigint, $2::bigint) AS n
) AS t
"""


class Orders:
    """A database with orders: on one calendar for every thousand of them, three hours apart."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.count = 0
        self.calendars = MANY // 1_000
        database.rows(
            "INSERT INTO calendar (name) SELECT 'crew-' || n FROM generate_series(1, $1::int) AS n",
            self.calendars,
        )

    def fill(self, count: int) -> None:
        """Add orders up to a count, without their changes, under every index and constraint."""
        database = self.database
        database.rows("ALTER TABLE orders DISABLE TRIGGER USER")
        database.rows("ALTER TABLE orders ENABLE TRIGGER orders_render")
        database.rows(FILL, self.count + 1, count, self.calendars, BEGIN)
        database.rows(
            """
            INSERT INTO ordered_service (service_id, order_id, datetime)
            SELECT s.id, o.id, o.datetime FROM orders AS o, unnest(o.service_ids) AS s (id) WHERE o.id > $1
            """,
            self.count,
        )
        database.rows("ALTER TABLE orders ENABLE TRIGGER USER")
        database.rows("VACUUM ANALYZE orders, ordered_service")
        self.count = count

    @property
    def middle(self) -> datetime:
        """Return the median datetime of the orders."""
        return BEGIN + self.count // 2 // self.calendars * timedelta(hours=3)

    def plans(self, filters: OrderFilters, after: list[Any] | None) -> list[dict[str, Any]]:
        """Read a page as the API does, and return the plan of each of its statements."""
        plans: list[dict[str, Any]] = []

        async def fetch(statement: str, *arguments: object) -> list[dict[str, Any]]:
            explained = self.database.value(
                f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}", *arguments
            )
            plans.append(json.loads(explained)[0]["Plan"])
            return self.database.rows(statement, *arguments)

        # The coroutine never waits: it ends when it is first resumed.
        with suppress(StopIteration):
            find_page(fetch, filters, after, PAGE + 1).send(None)
        return plans


def touched(plans: list[dict[str, Any]]) -> int:
    """Count the buffers that statements used."""
    return sum(int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]) for plan in plans)


def described(plan: dict[str, Any]) -> str:
    """Return how a plan reads the orders."""
    index = plan.get("Index Name", "")
    below = " ".join(described(part) for part in plan.get("Plans", ()) if "orders" in json.dumps(part))
    kind = plan["Node Type"] if plan["Node Type"] not in ("Limit", "Result") else ""
    return " ".join(filter(None, (kind, index, below)))


@pytest.fixture(scope="module")
def orders(own_database_url: str) -> Iterator[Orders]:
    """A database of its own, without orders."""
    with Database(own_database_url) as database:
        database.rows("SET jit = off")
        database.rows("SET timezone = 'UTC'")
        yield Orders(database)


def lists(orders: Orders) -> dict[str, tuple[OrderFilters, list[Any] | None]]:
    """Return all combinations of filters and sorts, at the list's beginning and in its middle."""
    month = orders.middle + timedelta(days=30)
    filters: dict[str, dict[str, Any]] = {
        "all": {},
        "from": {"earliest": orders.middle},
        "to": {"before": orders.middle},
        "from, to": {"earliest": orders.middle, "before": month},
        "calendar": {"calendar": "crew-7"},
        "calendar, from": {"calendar": "crew-7", "earliest": orders.middle},
        "calendar nobody used": {"calendar": "nobody"},
        **{
            f"service of {name}": {"service": service}
            for name, service in {
                "every second": HALF,
                "every 10th": TENTH,
                "every 100th": HUNDREDTH,
                "every 10,000th": RARE,
                "none": NEVER,
                "late ones": NEW,
                "early ones": OLD,
            }.items()
        },
        "service of every 10th, from, to": {"service": TENTH, "earliest": orders.middle, "before": month},
        "service of every second, to": {"service": HALF, "before": orders.middle},
        "service of every 10,000th, from": {"service": RARE, "earliest": orders.middle},
        "service, calendar": {"service": HUNDREDTH, "calendar": "crew-7"},
    }
    queries = {}
    for name, given in filters.items():
        for sort in (*SORTS, *(f"-{one}" for one in SORTS)):
            middle = [orders.count // 2] if sort.endswith("id") else [orders.middle, orders.count // 2]
            for where, after in (("", None), (" behind the middle", middle)):
                queries[f"{name}; sort={sort}{where}"] = (OrderFilters(sort=sort, **given), after)
    return queries


def test_the_cost_of_a_page_of_orders_does_not_grow_with_the_number_of_orders(orders: Orders) -> None:
    """For every filter and sort: by an index in the list's order, or by one that finds few rows."""
    orders.fill(FEW)
    costs: dict[str, list[int]] = {name: [touched(orders.plans(*one))] for name, one in lists(orders).items()}
    orders.fill(MANY)
    for name, one in lists(orders).items():
        plans = orders.plans(*one)
        costs[name].append(touched(plans))
        ways = " | ".join(map(described, plans))
        print(f"{costs[name][0]:5} {costs[name][1]:5}  {name:62} {ways}")
        assert "Seq Scan" not in ways, name
    # An order takes up to eight pages to show, as an index of a million is four levels deep; those of a
    # calendar that are skipped take one each.
    most = 8 * (PAGE + 1) + 1_000
    assert {name: cost for name, cost in costs.items() if cost[1] > most} == {}
    usual = [cost[1] for cost in costs.values()]
    assert sorted(usual)[len(usual) // 2] <= 8 * (PAGE + 1)


def test_a_stream_of_orders_starts_without_reading_every_order(orders: Orders) -> None:
    """Its plan favours the first rows: in index order, with nothing sorted or written to disk."""
    if orders.count < MANY:
        orders.fill(MANY)
    database = orders.database
    for sort in ("datetime", "-datetime", "id", "-id"):
        statement, arguments = OrderFilters(sort=sort).select(None, None)
        database.rows("BEGIN")
        try:
            database.rows("SET LOCAL cursor_tuple_fraction = 0.001")
            plan = "\n".join(
                row["QUERY PLAN"]
                for row in database.rows(
                    f"EXPLAIN DECLARE stream NO SCROLL CURSOR FOR {statement}", *arguments
                )
            )
        finally:
            database.rows("ROLLBACK")
        assert "Index Scan" in plan
        assert "Sort" not in plan
