"""The cost of a page of orders: the same with a thousand orders as with twenty thousand, or a million.

Cost is counted in PostgreSQL's buffers, which do not depend on the machine's load. The
plans are made for each statement's arguments, as the API has them made. To see a million:
``ORDERS_IN_PLANS=1000000 python -m pytest -s tests/test_order_query_plans.py --timeout 600``.

Where no index serves all that a list needs, a page reads at most ten thousand orders, and its cursor says
where to continue (``api/orders/lists/scans.py``).
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from api.orders.lists.filters import SORTS, OrderFilters
from api.orders.lists.index_choice import choose_index
from api.orders.lists.pages import find_page
from api.orders.lists.scans import select_all
from tests.drivers import Database

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

T = TypeVar("T")

FEW = 1_000
MANY = int(os.environ.get("ORDERS_IN_PLANS", "20000"))
PAGE = 50
SCAN = 1_000
"""Orders that are read for a page, at most; the API reads ten times as many."""
BEGIN = datetime(2020, 1, 1, tzinfo=UTC)

HALF, TENTH, HUNDREDTH, RARE, NEVER, NEW, OLD = 1, 2, 3, 4, 5, 6, 7
"""Services, by how many orders have them: every second, tenth, hundredth, ten-thousandth, none; all of the
latest twentieth, all of the first.
"""

FILL = """
INSERT INTO orders (
    id, datetime, totalfee, service_ids, service_names, calendar_id, reference, metadata, status, created_at,
    updated_at
)
SELECT
    n, at, 100, s, array_fill('a service'::text, ARRAY[cardinality(s)]), 1 + n % $3, 'R-' || n,
    jsonb_build_object('source', CASE WHEN n % 2 = 0 THEN 'web' ELSE 'phone' END, 'job', (n / 10)::text),
    CASE WHEN n % 20 = 3 THEN 'cancelled' ELSE 'booked' END,
    $4::timestamptz + n * interval '1 second', $4::timestamptz + n * 7919 % $2 * interval '1 second'
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
        database.rows(
            """
            INSERT INTO order_metadata (key, value, order_id, datetime)
            SELECT m.key, m.value, o.id, o.datetime FROM orders AS o, jsonb_each_text(o.metadata) AS m
            WHERE o.id > $1
            """,
            self.count,
        )
        database.rows("ALTER TABLE orders ENABLE TRIGGER USER")
        database.rows("VACUUM ANALYZE orders, ordered_service, order_metadata")
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

        self.read(find_page(filters, after, PAGE + 1, fetch, SCAN))
        return plans

    async def fetch(self, statement: str, *arguments: object) -> list[dict[str, Any]]:
        """Run a statement as the API's pool would."""
        return self.database.rows(statement, *arguments)

    def read(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that never waits: it ends when it is first resumed."""
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # what the coroutine returned
        raise AssertionError("it waits")


def touched(plans: list[dict[str, Any]]) -> int:
    """Count the buffers that statements used."""
    return sum(int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]) for plan in plans)


def described(plan: dict[str, Any]) -> str:
    """Return how a plan reads the orders."""
    index = plan.get("Index Name", "")
    below = " ".join(described(part) for part in plan.get("Plans", ()) if "order" in json.dumps(part))
    kind = plan["Node Type"] if plan["Node Type"] not in ("Limit", "Result") else ""
    return " ".join(filter(None, (kind, index, below)))


@pytest.fixture(scope="module")
def orders(own_database_url: str) -> Iterator[Orders]:
    """A database of its own, without orders."""
    with Database(own_database_url) as database:
        database.rows("SET jit = off")
        database.rows("SET timezone = 'UTC'")
        yield Orders(database)


def read_rows(plan: dict[str, Any]) -> float:
    """Count the rows of tables of orders that a plan read, whether they matched or not."""
    below = sum(read_rows(part) for part in plan.get("Plans", ()))
    if plan.get("Relation Name", "calendar") == "calendar":
        return below
    removed = plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
    return float(below + plan["Actual Loops"] * (plan["Actual Rows"] + removed))


def lists(orders: Orders) -> dict[str, tuple[OrderFilters, list[Any] | None]]:
    """Return many combinations of filters with every sort, at the list's beginning and in its middle."""
    middle, month = orders.middle, orders.middle + timedelta(days=30)
    seconds = orders.count // 2
    a_while = BEGIN + timedelta(seconds=seconds)
    last = BEGIN + timedelta(seconds=orders.count - 9)
    some = [f"crew-{n}" for n in range(1, 20)]
    filters: dict[str, dict[str, Any]] = {
        "all": {},
        "from": {"earliest": middle},
        "to": {"before": middle},
        "from, to": {"earliest": middle, "before": month},
        "calendar": {"calendars": ["crew-7"]},
        "calendar, from": {"calendars": ["crew-7"], "earliest": middle},
        "calendar nobody used": {"calendars": ["nobody"]},
        "calendars": {"calendars": some},
        "calendars, to": {"calendars": some, "before": middle},
        **{
            f"service of {name}": {"services": [service]}
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
        "services": {"services": [TENTH, 9, HALF, NEVER]},
        "services, from": {"services": [TENTH, 9, RARE], "earliest": middle},
        "service of every 10th, from, to": {"services": [TENTH], "earliest": middle, "before": month},
        "service of every second, to": {"services": [HALF], "before": middle},
        "service of every 10,000th, from": {"services": [RARE], "earliest": middle},
        "service, calendar": {"services": [HUNDREDTH], "calendars": ["crew-7"]},
        "services, calendars": {"services": [RARE, NEW], "calendars": some},
        "reference": {"reference": "R-777"},
        "reference nobody used": {"reference": "nothing", "status": "booked", "earliest": middle},
        "ids": {"ids": list(range(1, orders.count, orders.count // 90))},
        "ids, calendar": {"ids": list(range(1, 100)), "calendars": ["crew-7"]},
        "metadata of every second": {"metadata": {"source": "web"}},
        "metadata of ten": {"metadata": {"job": "7"}},
        "metadata of none": {"metadata": {"job": "x"}},
        "metadata twice": {"metadata": {"source": "phone", "job": "7"}},
        "metadata, to": {"metadata": {"source": "web"}, "before": middle},
        "metadata, service": {"metadata": {"source": "web"}, "services": [RARE]},
        "booked": {"status": "booked"},
        "cancelled": {"status": "cancelled"},
        "cancelled, from": {"status": "cancelled", "earliest": middle},
        "cancelled, calendar": {"status": "cancelled", "calendars": ["crew-7"]},
        "cancelled, metadata": {"status": "cancelled", "metadata": {"source": "web"}},
        "created after half": {"created_after": a_while},
        "created after nearly all": {"created_after": last},
        "updated after half": {"updated_after": a_while},
        "updated after nearly all": {"updated_after": last},
        "updated, created": {"updated_after": last, "created_after": last},
        "updated, calendar": {"updated_after": a_while, "calendars": ["crew-7"]},
        "updated, calendars, service, status": {
            "updated_after": a_while, "calendars": some, "services": [RARE], "status": "booked"
        },
        "updated until now": {"updated_before": BEGIN + timedelta(days=9_999)},
    }  # fmt: skip
    places: dict[str, list[Any]] = {
        "id": [seconds],
        "datetime": [middle, seconds],
        "updated_at": [a_while, seconds],
    }
    queries = {}
    for name, given in filters.items():
        for sort in (*SORTS, *(f"-{one}" for one in SORTS)):
            after = places[sort.removeprefix("-")]
            for where, place in (("", None), (" behind the middle", after)):
                queries[f"{name}; sort={sort}{where}"] = (OrderFilters(sort=sort, **given), place)
    return queries


def test_the_cost_of_a_page_of_orders_does_not_grow_with_the_number_of_orders(orders: Orders) -> None:
    """For every filter and sort: by an index in the list's order, or few orders are read and sorted."""
    orders.fill(FEW)
    costs: dict[str, list[int]] = {name: [touched(orders.plans(*one))] for name, one in lists(orders).items()}
    orders.fill(MANY)
    expensive = {}
    for name, (filters, after) in lists(orders).items():
        plans = orders.plans(filters, after)
        costs[name].append(touched(plans))
        rows = sum(map(read_rows, plans))
        ways = " | ".join(map(described, plans))
        print(f"{costs[name][0]:5} {costs[name][1]:5} {rows:6.0f}  {name:62} {ways}")
        assert "Seq Scan" not in ways, name
        # An order takes up to eight pages to show, as an index of a million is four levels deep.
        shown = 8 * (PAGE + 1)
        # Every index that may be read is counted up to the limit; one is read, its orders are looked up, and
        # it is read again to find the edge. Each value of a filter may take one row more.
        conditions = len(filters.subjects)
        most = (conditions + 3) * (SCAN + 1) + 100 if conditions else 2 * (PAGE + 1)
        if rows > most or costs[name][1] > shown + (conditions > 0) * 8 * SCAN:
            expensive[name] = (rows, costs[name])
    assert expensive == {}
    usual = [cost[1] for cost in costs.values()]
    assert sorted(usual)[len(usual) // 2] <= 8 * (PAGE + 1)


def test_a_stream_of_orders_starts_without_reading_every_order(orders: Orders) -> None:
    """Its plan favours the first rows: in index order, with nothing sorted or written to disk."""
    if orders.count < MANY:
        orders.fill(MANY)
    database = orders.database
    for name, (filters, _) in lists(orders).items():
        if "behind" in name or "nobody" in name:
            continue
        ids = [database.value("SELECT id FROM calendar WHERE name = $1", one) for one in filters.calendars]
        with_ids = replace(filters, calendar_ids=[one for one in ids if one])
        reading = orders.read(choose_index(orders.fetch, with_ids, SCAN))
        statement, arguments = select_all(reading)
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
        assert "Seq Scan on order" not in plan, (name, plan)
        assert "Index" in plan, (name, plan)
        # Few orders may be sorted.
        assert reading.whole or "Sort  (cost" not in plan, (name, plan)
