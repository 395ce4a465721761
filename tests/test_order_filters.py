"""The filters of GET /orders and /orders/export, alone and combined, compared with plain Python."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from api.orders.lists.filters import SORTS, OrderFilters
from api.orders.lists.pages import find_page
from shared.database.engine import DB
from tests.builders import later, text_of
from tests.random_rounds import seeds

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.drivers import Api, Database

CALENDARS = ("default", "crew-1", "crew-2", "nobody")
SERVICES = (123, 456, 789, 999)
PAIRS = [("source", "web"), ("source", "phone"), ("tier", "ä=&%"), ("tier", ""), ("kein Schlüssel", "x[y]")]
EVERY_SORT = tuple(direction + sort for sort in SORTS for direction in ("", "-"))

INSERT = """
INSERT INTO orders (
    id, datetime, totalfee, service_ids, service_names, calendar_id, import_id, reference, metadata, status,
    created_at, updated_at
)
SELECT
    id, datetime, 1, service_ids, array_fill('a service'::text, ARRAY[cardinality(service_ids)]),
    (SELECT c.id FROM calendar AS c WHERE name = calendar), 1, reference, metadata, status,
    created_at, updated_at
FROM json_to_recordset($1) AS o (
    id bigint, datetime timestamptz, service_ids bigint[], calendar text, reference text, metadata jsonb,
    status text, created_at timestamptz, updated_at timestamptz
)
"""


def random_orders(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Return orders four hours apart, some of them changed at the very same time."""
    orders = []
    for n in range(count):
        created = later(seconds=-rng.randrange(50), microseconds=rng.randrange(3)) - timedelta(days=3_000)
        orders.append(
            {
                "id": 1 + n * 7919 % 100_003,
                "datetime": later(hours=4 * rng.randrange(count), minutes=n),
                "service_ids": sorted(rng.sample(SERVICES[:3], rng.randrange(1, 4))),
                "calendar": rng.choice(CALENDARS[:3]),
                "reference": f"R-{n}" if rng.random() < 0.5 else None,
                "metadata": dict(rng.sample(PAIRS, rng.randrange(4))),
                "status": rng.choice(("booked", "booked", "cancelled")),
                "created_at": created,
                "updated_at": created + timedelta(seconds=rng.choice((0, 0, 1, 60))),
            }
        )
    return orders


def store(database: Database, orders: list[dict[str, Any]]) -> None:
    """Store orders as they are, near each other or not."""
    database.rows("INSERT INTO calendar (name) VALUES ('default'), ('crew-1'), ('crew-2')")
    database.rows(INSERT, json.dumps(orders, default=text_of))


def random_filters(rng: random.Random, orders: list[dict[str, Any]]) -> dict[str, Any]:
    """Return some filters, as ``OrderFilters`` takes them."""
    one = rng.choice(orders)
    every = {
        "earliest": later(hours=rng.randrange(200)),
        "before": later(hours=200 + rng.randrange(200)),
        "calendars": rng.sample(CALENDARS, rng.choice((1, 1, 2, 4))),
        "services": rng.sample(SERVICES, rng.choice((1, 1, 2, 4))),
        "ids": [order["id"] for order in rng.sample(orders, rng.choice((1, 5, 30)))] + [77],
        "reference": one["reference"] or "R-x",
        "metadata": dict(rng.sample(PAIRS, rng.choice((1, 1, 2)))),
        "status": rng.choice(("booked", "cancelled")),
        "created_after": one["created_at"],
        "updated_after": one["updated_at"],
    }
    likely = {"ids": 0.1, "reference": 0.07}
    return {name: value for name, value in every.items() if rng.random() < likely.get(name, 0.25)}


def matches(order: dict[str, Any], given: dict[str, Any]) -> bool:
    """Filter in plain Python."""
    return (
        given.get("earliest", order["datetime"]) <= order["datetime"]
        and order["datetime"] < given.get("before", later(days=9_999))
        and order["calendar"] in given.get("calendars", CALENDARS)
        and bool({*order["service_ids"]} & {*given.get("services", SERVICES)})
        and order["id"] in given.get("ids", [order["id"]])
        and given.get("reference", order["reference"]) == order["reference"]
        and given.get("metadata", {}).items() <= order["metadata"].items()
        and given.get("status", order["status"]) == order["status"]
        and given.get("created_after", later(days=-9_999)) < order["created_at"]
        and given.get("updated_after", later(days=-9_999)) < order["updated_at"]
    )


def expected_ids(orders: list[dict[str, Any]], given: dict[str, Any], sort: str) -> list[int]:
    """Filter and sort in plain Python."""
    keys = SORTS[sort.removeprefix("-")]
    matching = [order for order in orders if matches(order, given)]
    matching.sort(key=lambda order: [order[key] for key in keys], reverse=sort.startswith("-"))
    return [order["id"] for order in matching]


def query_of(given: dict[str, Any], sort: str) -> list[tuple[str, str]]:
    """Write filters as a query."""
    names = {"earliest": "from", "before": "to", "calendars": "calendar", "services": "service", "ids": "id"}
    query = [("sort", sort)]
    for name, value in given.items():
        if name == "metadata":
            query += [(f"metadata[{key}]", text) for key, text in value.items()]
        else:
            values = value if isinstance(value, list) else [value]
            query += [
                (names.get(name, name), text_of(one) if isinstance(one, datetime) else str(one))
                for one in values
            ]
    return query


@pytest.mark.parametrize("seed", seeds(0, 3))
def test_every_combination_of_filters_returns_what_a_plain_filter_does(
    api: Api, database: Database, seed: int
) -> None:
    """In pages, in an export, and as an exact count; all conditions hold together."""
    rng = random.Random(seed)
    orders = random_orders(rng, 90)
    store(database, orders)
    for _ in range(60):
        given, sort = random_filters(rng, orders), rng.choice(EVERY_SORT)
        expected = expected_ids(orders, given, sort)
        query = query_of(given, sort)
        about = (seed, query)
        first = api.client.get("/orders", params=[*query, ("limit", "40"), ("count", "exact")])
        assert first.status_code == 200, (about, first.text)
        assert int(first.headers["x-total-count"]) == len(expected), about
        assert first.headers["x-total-count-precision"] == "exact"
        page = first.json()
        items = page["items"] + (api.every_item(page["next"]) if page["next"] else [])
        assert [int(order["id"]) for order in items] == expected, about
        export = api.client.get("/orders/export", params=[*query, ("format", "ndjson")])
        assert [json.loads(line) for line in export.text.splitlines()] == items, about


@pytest.mark.parametrize("most", [1, 3, 7, 20, 1_000])
def test_pages_are_complete_however_few_orders_each_may_read(
    database: Database, run: Callable[[Coroutine[Any, Any, Any]], Any], most: int
) -> None:
    """Read whole or in steps: the same orders, once each, and no more pages than it takes to read them."""
    rng = random.Random(most)
    orders = random_orders(rng, 60)
    store(database, orders)
    for _ in range(60):
        given, sort = random_filters(rng, orders), rng.choice(EVERY_SORT)
        filters, expected = OrderFilters(sort=sort, **given), expected_ids(orders, given, sort)
        met: list[int] = []
        after, pages = None, 0
        while pages == 0 or after is not None:
            found = run(find_page(filters, after, 4, scan_limit=most))
            met += [order.id for order in found.orders]
            pages += 1
            last = found.orders[-1] if len(found.orders) == 4 else found.edge
            after = last and filters.place(*filters.place_of(last))
        assert met == expected, (given, sort)
        # Each of several values has its part of the limit; an order may have three of them.
        part = max(1, most // max(len(filters.services), len(filters.calendars), 1))
        assert pages <= len(expected) // 4 + 2 + 3 * len(orders) // part, (given, sort)


def test_orders_that_are_stored_after_an_index_was_chosen_are_not_too_many_for_it(
    database: Database, run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    """More than may be read whole: the index is chosen again, and no order that was there before is lost."""
    orders = random_orders(random.Random(8), 40)
    few, many = orders[:3], orders[3:]
    for order in orders:
        order["calendar"] = "crew-1"
    store(database, few)
    statements = 0

    async def fetch(statement: str, *arguments: object) -> list[Any]:
        nonlocal statements
        statements += 1
        if statements == 2:  # the first counted
            await DB.execute(INSERT, json.dumps(many, default=text_of))
        return await DB.fetch(statement, *arguments)

    filters = OrderFilters(calendars=["crew-1"], sort="updated_at")
    found = run(find_page(filters, None, 20, fetch, scan_limit=5))
    first = [order.id for order in found.orders]
    assert statements == 4
    assert first == expected_ids(orders, {"calendars": ["crew-1"]}, "updated_at")[: len(first)]
    assert len(first) == 5
    assert found.edge is not None


def test_metadata_is_found_at_once_and_exactly(api: Api) -> None:
    """By whole values, in their case, whatever characters they have; and no longer once it has changed."""
    texts = [
        "web",
        "Web",
        "web ",
        "",
        "a&b=c%d+e",
        "[x]",
        "two\nlines",
        '"quoted"',
        "ünï\u0301",
        "😀",
        "\\u0041",
    ]
    orders = [
        api.placed_order(at=later(days=n), metadata={"k[e]y ä": text, "n": str(n)})
        for n, text in enumerate(texts)
    ]

    def found(**metadata: str) -> list[str]:
        query = {f"metadata[{key}]": value for key, value in metadata.items()}
        return [one["id"] for one in api.client.get("/orders", params=query).json()["items"]]

    for order, text in zip(orders, texts, strict=True):
        assert found(**{"k[e]y ä": text}) == [order["id"]]
    assert found(**{"k[e]y ä": "web", "n": "0"}) == [orders[0]["id"]]
    assert found(**{"k[e]y ä": "web", "n": "1"}) == []
    assert found(**{"K[e]y ä": "web"}) == []
    api.client.patch(f"/orders/{orders[0]['id']}", json={"metadata": {"k[e]y ä": "phone"}})
    assert found(**{"k[e]y ä": "web"}) == []
    assert found(**{"k[e]y ä": "phone"}) == [orders[0]["id"]]
    api.client.delete(f"/orders/{orders[0]['id']}")
    assert found(**{"k[e]y ä": "phone"}) == []


def test_a_count_is_of_the_whole_list_and_only_where_it_is_asked_for(api: Api, database: Database) -> None:
    """The next page has the same cursor with it and without, and its address does not ask again."""
    orders = random_orders(random.Random(5), 60)
    store(database, orders)
    booked = [order for order in orders if order["status"] == "booked"]
    query = {"status": "booked", "limit": "7"}
    plain = api.client.get("/orders", params=query)
    counted = api.client.get("/orders", params={**query, "count": "exact"})
    assert plain.json() == counted.json()
    assert "x-total-count" not in plain.headers
    assert counted.headers["x-total-count"] == str(len(booked))
    cursor = counted.json()["next_cursor"]
    later_page = api.client.get("/orders", params={**query, "count": "exact", "cursor": cursor})
    assert later_page.headers["x-total-count"] == str(len(booked))
    assert later_page.json() == api.client.get(plain.json()["next"]).json()


def test_an_estimate_is_marked_and_near_after_an_analyze(api: Api, database: Database) -> None:
    """For every kind of filter; PostgreSQL knows how frequent values are, but not which keys have them."""
    store(database, random_orders(random.Random(6), 2_000))
    database.rows("ANALYZE orders, ordered_service, order_metadata")
    for query in (
        "", "calendar=crew-1", "calendar=crew-1&calendar=crew-2", "service=123", "service=123&service=456",
        "status=cancelled", "metadata[source]=web", "created_after=2022-03-15T11:59:30Z", "id=1&id=7920",
        "calendar=crew-1&status=booked",
    ):  # fmt: skip
        exact, estimated = (
            api.client.get(f"/orders?limit=1&count={kind}&{query}") for kind in ("exact", "estimated")
        )
        assert estimated.headers["x-total-count-precision"] == "estimated"
        true, near = (int(answer.headers["x-total-count"]) for answer in (exact, estimated))
        assert true / 3 - 5 <= near <= true * 3 + 5, (query, true, near)
    assert api.client.get("/orders?count=estimated&calendar=nobody").headers["x-total-count"] in ("0", "1")


def test_a_hundred_ids_are_found_in_one_page_and_an_order_with_two_services_once(api: Api) -> None:
    """In the list's order, whatever the order of the values."""
    placed = [api.placed_order(id=n, at=later(days=n), services=(123, 456)) for n in range(1, 6)]
    wanted = [f"id={n}" for n in range(100, 0, -1)]
    page = api.client.get(f"/orders?limit=100&sort=-id&{'&'.join(wanted)}").json()
    assert page["items"] == placed[::-1]
    page = api.client.get("/orders?service=456&service=123&service=789&sort=-datetime&limit=2").json()
    assert page["items"] + api.every_item(page["next"]) == placed[::-1]


def test_a_next_page_whose_address_would_be_too_long_is_refused_at_once(api: Api) -> None:
    """The cursor makes it longer than the query that was sent."""
    for n in range(2):
        api.placed_order(at=later(days=n), metadata={f"k{m}": "ä" * 148 for m in range(9)})
    query = "&".join(f"metadata[k{m}]={'%C3%A4' * 148}" for m in range(9))
    whole = api.client.get(f"/orders?{query}")
    assert len(whole.json()["items"]) == 2
    refused = api.client.get(f"/orders?limit=1&{query}")
    assert refused.status_code == 414
    assert "next page" in refused.json()["detail"]
