"""GET /orders page by page: cursors that survive concurrent writes and belong to their filters."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from api.orders.lists.filters import OrderFilters
from api.orders.lists.pages import find_page
from tests.builders import NOON, later, text_of
from tests.random_rounds import seeds

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.drivers import Api, Database

SORTS = ("datetime", "-datetime", "id", "-id")
"""By what does not change when other members of an order do; see tests/test_updated_orders.py."""


def orders_apart(database: Database, count: int) -> None:
    """Store orders half a day apart, with ids in random order, on two calendars."""
    database.rows("INSERT INTO calendar (name) VALUES ('default'), ('crew-1')")
    database.rows(
        """
        INSERT INTO orders (id, datetime, totalfee, service_ids, service_names, calendar_id)
        SELECT 1 + (n * 7919) % 100003, at, n,
            CASE WHEN n % 3 = 0 THEN '{123,456}' ELSE '{123}' END::bigint[],
            CASE WHEN n % 3 = 0 THEN '{Inspection,Analysis}' ELSE '{Inspection}' END::text[], 1 + n % 2
        FROM (
            SELECT n, $1::timestamptz + n * interval '12 hours' AS at FROM generate_series(1, $2::int) AS n
        ) AS t
        """,
        NOON,
        count,
    )


def place(order: dict[str, Any], sort: str) -> tuple[Any, ...]:
    """Return the value that a list is sorted by."""
    order_id = int(order["id"])
    return (order_id,) if sort.endswith("id") else (datetime.fromisoformat(order["datetime"]), order_id)


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("seed", seeds(0, 2))
def test_pages_neither_skip_nor_repeat_an_unchanged_order_despite_writes(
    api: Api, database: Database, sort: str, seed: int
) -> None:
    """Orders come, go and move between any two pages, also the one that the cursor names."""
    rng = random.Random(f"{sort}-{seed}")
    orders_apart(database, 90)
    at_first = {order["id"]: order for order in api.every_order()}
    touched: set[str] = set()
    met: list[dict[str, Any]] = []
    following: str | None = f"/orders?sort={sort}&limit=5"
    while following:
        limit = rng.randrange(1, 13)
        page = api.client.get(following.replace("limit=5", f"limit={limit}")).json()
        met += page["items"]
        following = page["next"] and page["next"].replace(f"limit={limit}", "limit=5")
        for _ in range(4):
            victim = met[-1]["id"] if rng.random() < 0.3 else rng.choice(list(at_first))
            match rng.choice(("create", "delete", "move", "refee")):
                case "create":
                    at = NOON + timedelta(hours=12 * rng.randrange(90) + rng.choice((4, 8)))
                    given = {"id": rng.randrange(1, 110_000)} if rng.random() < 0.5 else {}
                    assert api.place_order(at=at, **given).status_code in (201, 409)
                case "delete":
                    touched.add(victim)
                    api.client.delete(f"/orders/{victim}")
                case "move":
                    touched.add(victim)
                    at = NOON + timedelta(hours=12 * rng.randrange(90) + 6)
                    api.client.patch(f"/orders/{victim}", json={"datetime": text_of(at)})
                case "refee":
                    api.client.patch(f"/orders/{victim}", json={"totalfee": rng.randrange(1000)})
    ids = [order["id"] for order in met]
    stayed = set(at_first) - touched
    assert len(stayed) > 10
    assert [ids.count(order_id) for order_id in stayed] == [1] * len(stayed)
    new = set(ids) - set(at_first) - touched
    assert [ids.count(order_id) for order_id in new] == [1] * len(new)
    places = [place(order, sort) for order in met]
    assert places == sorted(places, reverse=sort.startswith("-"))


FILTERS = (
    "",
    "calendar=default",
    "calendar=crew-1",
    "service=123",
    "service=456",
    "from=2030-06-02T00:00:00Z",
    "to=2031-01-01T00:00:00Z",
    "sort=id",
    "sort=-id",
    "sort=-datetime",
    "calendar=default&service=123",
)


def test_a_cursor_of_a_list_is_valid_for_its_own_filters_only(api: Api, database: Database) -> None:
    """Every filter against every other: 400. The order of the parameters makes no difference."""
    orders_apart(database, 30)
    cursors = {}
    for filters in FILTERS:
        query = dict(parse_qsl(urlsplit(api.client.get(f"/orders?limit=2&{filters}").json()["next"]).query))
        cursors[filters] = query["cursor"]
    for made_for, cursor in cursors.items():
        for filters in FILTERS:
            answer = api.client.get(f"/orders?{filters}&cursor={cursor}".replace("?&", "?"))
            assert answer.status_code == (200 if filters == made_for else 400), (made_for, filters)
            if filters != made_for:
                assert answer.json()["type"] == "/problems/invalid-cursor"
    swapped = f"/orders?service=123&cursor={cursors['calendar=default&service=123']}&calendar=default"
    assert api.client.get(swapped).status_code == 200
    for path in ("/services", "/calendars", "/fee-summaries"):
        assert api.client.get(f"{path}?cursor={cursors['']}").status_code == 400


@pytest.mark.parametrize("filters", FILTERS)
def test_pages_of_any_size_make_up_the_same_list(api: Api, database: Database, filters: str) -> None:
    """Also when the size changes on the way; the Link header and the body have the same cursor."""
    orders_apart(database, 40)
    whole = api.client.get(f"/orders?limit=100&{filters}").json()
    assert whole["next"] is None
    following, met, limit = f"/orders?limit=1&{filters}", [], 1
    while following:
        answer = api.client.get(following)
        page = answer.json()
        met += page["items"]
        assert answer.headers.get("link") == (page["next"] and f'<{page["next"]}>; rel="next"')
        assert parse_qs(urlsplit(page["next"] or "").query).get("cursor") == (
            page["next_cursor"] and [page["next_cursor"]]
        )
        assert len(page["items"]) == limit or page["next"] is None
        following = page["next"] and page["next"].replace(f"limit={limit}", f"limit={limit + 2}")
        limit += 2
    assert met == whole["items"]


@pytest.mark.parametrize("zone", ["%2B05:30", "-08:00"])
def test_the_next_link_keeps_filters_as_they_were_written(api: Api, database: Database, zone: str) -> None:
    """A plus sign too, which a query would turn into a space."""
    orders_apart(database, 5)
    following = api.client.get(f"/orders?limit=2&from=2030-06-01T00:00:00{zone}").json()["next"]
    assert f"from=2030-06-01T00%3A00%3A00{zone.replace(':', '%3A')}" in following
    assert len(api.client.get(following).json()["items"]) == 2


def test_a_cursor_stays_valid_when_its_order_is_deleted_or_moved(api: Api, database: Database) -> None:
    """It names a position in the list, not an order."""
    orders_apart(database, 6)
    for sort in SORTS:
        page = api.client.get(f"/orders?limit=2&sort={sort}").json()
        rest = [order["id"] for order in api.every_item(page["next"])]
        last = page["items"][-1]["id"]
        api.client.patch(
            f"/orders/{last}", json={"datetime": text_of(later(days=-99 if sort == "id" else 99))}
        )
        api.client.delete(f"/orders/{last}")
        assert [order["id"] for order in api.every_item(page["next"])] == rest


WINDOWS: tuple[dict[str, Any], ...] = (
    {"earliest": later(days=3)},
    {"before": later(days=9)},
    {"earliest": later(days=3), "before": later(days=9)},
    {"earliest": later(days=3), "calendars": ["default"]},
    {"before": later(days=9), "services": [456]},
    {"before": later(days=9), "services": [456], "calendars": ["crew-1"]},
    {"earliest": later(days=99)},
)


@pytest.mark.parametrize("sort", ["id", "-id"])
@pytest.mark.parametrize("most", [1, 3, 7, 1_000])
def test_pages_by_id_within_a_time_window_are_complete_however_few_rows_each_may_read(
    database: Database, run: Callable[[Coroutine[Any, Any, Any]], Any], sort: str, most: int
) -> None:
    """Sorted as a whole or in steps: the same orders, and never more rows read than allowed."""
    orders_apart(database, 40)
    everything = database.rows(
        "SELECT o.*, c.name AS calendar FROM orders AS o JOIN calendar AS c ON c.id = calendar_id"
    )
    for window in WINDOWS:
        filters = OrderFilters(sort=sort, **window)
        expected = [
            order["id"]
            for order in sorted(everything, key=lambda one: one["id"], reverse=filters.descending)
            if window.get("earliest", order["datetime"]) <= order["datetime"]
            and order["datetime"] < window.get("before", later(days=999))
            and order["calendar"] in window.get("calendars", [order["calendar"]])
            and window.get("services", order["service_ids"])[0] in order["service_ids"]
        ]
        met, after, pages = [], None, 0
        while True:
            found = run(find_page(filters, after, 4, scan_limit=most))
            met += [order.id for order in found.orders]
            pages += 1
            last = found.orders[-1] if len(found.orders) == 4 else found.edge
            if last is None:
                break
            after = [last.id]
        assert met == expected, window
        assert pages <= len(expected) // 4 + 1 + 40 // most, window
