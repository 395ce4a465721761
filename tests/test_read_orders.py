"""GET and HEAD of an order and of the list of orders: filters, pages, and invalid queries."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from api.http.pages import encode_cursor
from tests.builders import NOON, later, tags, text_of

if TYPE_CHECKING:
    import httpx

    from tests.drivers import Api, Database

INVALID_PATH_IDS = [
    *("abc", "0", "-1", "00", "0223", "+5", "1.0", "1e3", "99999999999999999999", "9223372036854775808"),
    *("%00", "%20", "5%20", "1%20OR%201=1", "1;DROP%20TABLE%20orders", "%D9%A3", "%EF%BC%95", "null"),
    *("*", "..%2e", "5,6", "5%0a", "'"),
]


def parameters(answer: httpx.Response) -> list[str]:
    """Return the invalid parameters of a refused request."""
    assert answer.status_code == 400, answer.text
    problem = answer.json()
    assert problem["type"] == "/problems/malformed-request"
    return [fault["parameter"] for fault in problem["errors"]]


def listed(api: Api, **query: str) -> list[str]:
    """Return the ids of a list, all on one page."""
    answer = api.client.get("/orders", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.json()["next"] is None
    return [order["id"] for order in answer.json()["items"]]


def orders_at_noon(database: Database, count: int) -> None:
    """Store orders at one datetime, as an import may."""
    database.rows("INSERT INTO calendar (name) VALUES ('default')")
    database.rows(
        """
        INSERT INTO orders
            (id, datetime, totalfee, service_ids, service_names, calendar_id, import_id)
        SELECT n, $1::timestamptz, n, '{123}', '{Inspection}', 1, 0
        FROM generate_series(1, $2::int) AS n
        """,
        NOON,
        count,
    )


# --- one order ---------------------------------------------------------------------------------------


def test_an_order_is_read_with_its_version_as_etag(api: Api) -> None:
    """The same bytes as when it was written; every write changes the tag."""
    order = api.placed_order(id=5)
    answer = api.client.get("/orders/5")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["etag"] == tags('"1"')
    assert answer.json() == order
    written = api.client.patch("/orders/5", json={"totalfee": 7})
    again = api.client.get("/orders/5")
    assert again.headers["etag"] == tags('"2"') == written.headers["etag"]
    assert again.content == written.content


@pytest.mark.parametrize("path", ["/orders/5", "/orders", "/services", "/services/123", "/fee-summaries"])
def test_head_of_an_order_is_answered_like_get_without_the_body(api: Api, path: str) -> None:
    """Same status, same headers, their length included."""
    api.placed_order(id=5)
    got, head = api.client.get(path), api.client.head(path)
    assert head.status_code == 200
    assert head.content == b""
    for name in ("content-type", "content-length", "etag"):
        assert head.headers.get(name) == got.headers.get(name)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("order_id", ["5", "1000000000000000", "999999999999999999"])
def test_an_unknown_order_is_404(api: Api, method: str, order_id: str) -> None:
    """A well-formed id without an order."""
    answer = api.client.request(method, f"/orders/{order_id}")
    assert answer.status_code == 404
    if method != "HEAD":
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == "/problems/not-found"
        assert order_id in answer.json()["detail"]


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("order_id", INVALID_PATH_IDS)
def test_a_malformed_id_is_refused_before_the_database_is_queried(
    api: Api, method: str, order_id: str
) -> None:
    """Whatever the method; the parameter is named."""
    answer = api.client.request(method, f"/orders/{order_id}")
    assert parameters(answer) == ["order_id"]


def test_a_path_that_is_not_utf_8_is_refused(api: Api) -> None:
    """Its bytes are not replaced by characters that might name an order."""
    assert api.client.get("/orders/%ff").status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/orders/5"),
        ("DELETE", "/orders"),
        ("PUT", "/orders"),
        ("PATCH", "/orders"),
        ("TRACE", "/orders"),
    ],
)
def test_a_method_that_a_path_does_not_support_is_405(api: Api, method: str, path: str) -> None:
    """And the answer lists those that it has."""
    answer = api.client.request(method, path)
    assert answer.status_code == 405
    assert answer.json()["type"] == "/problems/method-not-allowed"
    assert "GET" in answer.headers["allow"]


def test_an_unknown_path_is_answered_with_a_problem(api: Api) -> None:
    """JSON, never a page of HTML."""
    answer = api.client.get("/order")
    assert answer.status_code == 404
    assert answer.json()["type"] == "/problems/not-found"


def test_a_query_parameter_on_a_read_of_one_order_is_refused(api: Api) -> None:
    """A parameter would have no effect."""
    api.placed_order(id=5)
    assert parameters(api.client.get("/orders/5?expand=services")) == ["expand"]


# --- the list ----------------------------------------------------------------------------------------


def test_a_list_of_orders_without_matches_is_200_and_empty(api: Api) -> None:
    """Not 404; also with filters that match nothing, such as an unused calendar."""
    for path in (
        "/orders",
        "/orders?calendar=nobody",
        "/orders?service=999",
        "/orders?from=2199-12-31T00:00:00Z",
    ):
        answer = api.client.get(path)
        assert answer.status_code == 200
        assert answer.json() == {"items": [], "next": None, "next_cursor": None}


def test_orders_are_listed_by_datetime_and_then_by_id(api: Api, database: Database) -> None:
    """Each exactly as it is read by itself."""
    orders_at_noon(database, 3)
    early = api.placed_order(at=later(days=-1), id=9)
    late = api.placed_order(at=later(days=1), id=8)
    assert listed(api) == ["9", "1", "2", "3", "8"]
    items = api.client.get("/orders").json()["items"]
    assert (items[0], items[-1]) == (early, late)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("datetime", ["3", "1", "2", "4"]),
        ("-datetime", ["4", "2", "1", "3"]),
        ("id", ["1", "2", "3", "4"]),
        ("-id", ["4", "3", "2", "1"]),
    ],
)
@pytest.mark.parametrize("limit", ["1", "2", "3", "100"])
def test_a_list_of_orders_can_be_sorted_both_ways_with_any_page_size(
    api: Api, database: Database, sort: str, expected: list[str], limit: str
) -> None:
    """Orders with the same datetime are sorted by id."""
    orders_at_noon(database, 2)
    api.placed_order(id=3, at=later(days=-1))
    api.placed_order(id=4, at=later(days=1))
    items = api.every_item(f"/orders?sort={sort}&limit={limit}")
    assert [order["id"] for order in items] == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"from": "2030-06-01T12:00:00Z"}, ["2", "3"]),
        ({"from": "2030-06-01T12:00:00.000001Z"}, ["3"]),
        ({"from": "2030-06-01T17:30:00+05:30"}, ["2", "3"]),
        ({"to": "2030-06-02T12:00:00Z"}, ["1", "2"]),
        ({"to": "2030-06-02T12:00:00.000001Z"}, ["1", "2", "3"]),
        ({"from": "2030-06-01T12:00:00Z", "to": "2030-06-02T12:00:00Z"}, ["2"]),
        ({"from": "2030-06-01T12:00:00Z", "to": "2030-06-01T12:00:00Z"}, []),
        ({"calendar": "default"}, ["1", "2"]),
        ({"calendar": "crew-1"}, ["3"]),
        ({"calendar": "Default"}, []),
        ({"service": "456"}, ["1", "3"]),
        ({"service": "123"}, ["1", "2"]),
        ({"service": "456", "calendar": "crew-1"}, ["3"]),
        ({"service": "456", "to": "2030-06-01T12:00:00Z", "sort": "-id"}, ["1"]),
    ],
    ids=str,
)
def test_a_list_of_orders_contains_only_those_that_match_all_filters(
    api: Api, query: dict[str, str], expected: list[str]
) -> None:
    """From is included and to is not."""
    api.placed_order(id=1, at=later(days=-1), services=(123, 456))
    api.placed_order(id=2, at=NOON, services=(123,))
    api.placed_order(id=3, at=later(days=1), services=(456,), calendar="crew-1")
    assert listed(api, **query) == expected


def test_a_page_has_fifty_orders_by_default(api: Api, database: Database) -> None:
    """With the address of the next one in the body and in the Link header, filters included."""
    orders_at_noon(database, 101)
    first = api.client.get("/orders", params={"calendar": "default", "from": text_of(NOON)})
    page = first.json()
    assert len(page["items"]) == 50
    assert page["next"].startswith("/orders?")
    assert first.headers["link"] == f'<{page["next"]}>; rel="next"'
    second = api.client.get(page["next"])
    third = api.client.get(second.json()["next"])
    assert len(third.json()["items"]) == 1
    assert third.json()["next"] is None
    assert "link" not in third.headers
    ids = [order["id"] for answer in (first, second, third) for order in answer.json()["items"]]
    assert ids == [str(n) for n in range(1, 102)]


def test_a_full_last_page_has_no_next_page(api: Api, database: Database) -> None:
    """No empty page follows it."""
    orders_at_noon(database, 4)
    second = api.client.get(api.client.get("/orders?limit=2").json()["next"]).json()
    assert [order["id"] for order in second["items"]] == ["3", "4"]
    assert second["next"] is None


def test_the_page_size_may_change_between_pages(api: Api, database: Database) -> None:
    """The cursor names a position in the list, not a page."""
    orders_at_noon(database, 5)
    following = api.client.get("/orders?limit=2").json()["next"].replace("limit=2", "limit=3")
    assert [order["id"] for order in api.client.get(following).json()["items"]] == ["3", "4", "5"]


def test_following_pages_returns_every_order_once_despite_writes(api: Api, database: Database) -> None:
    """Orders that come or go elsewhere shift nothing, also when the cursor's own order is deleted."""
    orders_at_noon(database, 6)
    first = api.client.get("/orders?limit=3").json()
    api.placed_order(id=100, at=later(days=-1))
    for order_id in ("1", "3"):
        api.client.delete(f"/orders/{order_id}")
    rest = api.every_item(first["next"])
    assert [order["id"] for order in rest] == ["4", "5", "6"]


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        *(
            (f"limit={text}", "limit")
            for text in ("0", "101", "-1", "abc", "", "1.0", "%D9%A3", "1e1", "9999999")
        ),
        *((f"{name}={text}", name) for name in ("from", "to") for text in ("", "now", "2030-06-01")),
        ("from=2030-06-01T12:00:00", "from"),
        ("to=2030-02-30T12:00:00Z", "to"),
        ("from=2030-06-02T00:00:00Z&to=2030-06-01T00:00:00Z", "from"),
        *((f"calendar={text}", "calendar") for text in ("", "crew%207", "%00", "x" * 65)),
        *((f"service={text}", "service") for text in ("", "0", "-1", "abc", "99999999999999999999")),
        *((f"sort={text}", "sort") for text in ("", "fee", "--id", "-", "ID", "datetime,id")),
        ("page=2", "page"),
        ("Limit=1", "Limit"),
        ("limit=1&limit=2", "limit"),
        ("calendar=a&calendar=a", "calendar"),
        ("calendar=%FF", "calendar"),
        ("%FF=1", "%FF"),
        ("=1", ""),
        ("from", "from"),
    ],
)
def test_a_malformed_query_for_orders_is_refused(api: Api, query: str, wrong: str) -> None:
    """400, and the parameter is named."""
    assert parameters(api.client.get(f"/orders?{query}")) == [wrong]


def test_all_faults_of_a_query_are_reported_together(api: Api) -> None:
    """One response names every wrong parameter."""
    answer = api.client.get("/orders?limit=0&calendar=&color=red&from=now&limit=2")
    assert parameters(answer) == ["limit", "calendar", "color", "from", "limit"]


def forged(*after: Any) -> str:
    """Make a cursor as the service does, to a chosen place."""
    return encode_cursor(after, [])


FORGED = (
    *("", "abc", "%00", "💥", "W10", "bnVsbA", "e30", "MQ", "=", "W10=", "a" * 8_000),
    base64.urlsafe_b64encode(b"[" * 6_000).decode(),
    forged(),
    forged("2030-06-01T12:00:00.000Z"),
    forged("2030-06-01T12:00:00.000Z", 1, 2),
    forged("2030-06-01T12:00:00.000Z", None),
    forged("2030-06-01T12:00:00.000Z", []),
    forged("2030-06-01T12:00:00.000Z", 1.5),
    forged("2030-06-01T12:00:00.000Z", 10**30),
    forged("2030-06-01T12:00:00.000Z", -1),
    forged("2030-06-01T12:00:00.000Z", float("inf")),
    forged("2030-06-01T12:00:00.000Z", "1; DROP TABLE orders"),
    forged("2030-06-01", 1),
    forged("9999-12-31T12:00:00.000Z", 1),
    forged(5, 1),
    forged({}, {}),
    *map(forged, (None, -1, True, 1.5, 1e20, float("inf"), "\u0665", 10**18, 10**30, [], [1], ["a"], {})),
)


@pytest.mark.parametrize(
    "path",
    [
        *("/orders", "/services", "/calendars", "/fee-summaries", "/fee-summaries/orders"),
        *("/orders/1/changes", "/webhooks", "/webhooks/1/deliveries", "/webhooks/1/missed"),
    ],
)
def test_a_cursor_that_the_server_did_not_issue_is_refused(api: Api, path: str) -> None:
    """Forged cursors too: not one reaches the database."""
    for cursor in FORGED:
        answer = api.client.get(path, params={"cursor": cursor})
        # A report's cursor begins with its position: one that is not reached is of another log.
        ahead = path.startswith("/fee-summaries") and answer.status_code == 410
        assert ahead or answer.status_code == 400, (cursor[:100], answer.text)
        assert answer.json()["type"] == f"/problems/{'report-expired' if ahead else 'invalid-cursor'}"


def test_a_cursor_is_refused_with_other_filters_or_on_another_list(api: Api, database: Database) -> None:
    """It would skip items that were never shown."""
    orders_at_noon(database, 3)
    cursor = api.client.get("/orders?limit=1").json()["next"].partition("cursor=")[2]
    assert api.client.get(f"/orders?limit=1&cursor={cursor}").status_code == 200
    for query in ("calendar=default", "sort=-datetime", "sort=id", "service=123"):
        answer = api.client.get(f"/orders?{query}&cursor={cursor}")
        assert answer.status_code == 400
        assert "filters" in answer.json()["detail"]
    assert api.client.get(f"/services?cursor={cursor}").status_code == 400


def test_a_cursor_needs_no_escaping_in_a_url(api: Api, database: Database) -> None:
    """It can be copied into an address unchanged."""
    orders_at_noon(database, 2)
    cursor = api.client.get("/orders?limit=1").json()["next"].partition("cursor=")[2]
    assert cursor.replace("-", "").replace("_", "").isalnum()
    assert json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))[1:] == [
        "2030-06-01T12:00:00.000Z",
        1,
    ]
