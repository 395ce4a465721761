"""Problems (RFC 9457): every type explains itself, names all faults, and reveals no internals."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from api.operations.contracts import contract_json
from api.problem_types import TYPES
from tests.builders import NOON, later, order_body, tags
from tests.drivers import Api, Database
from tests.serving import serving

if TYPE_CHECKING:
    import httpx

MEMBERS = {"type", "title", "status", "detail", "instance", "request_id"}


def problem_of(answer: httpx.Response) -> dict[str, Any]:
    """Read a problem, checking the members that each must have."""
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert set(problem) >= MEMBERS
    assert problem["status"] == answer.status_code
    assert problem["request_id"] == answer.headers["x-request-id"]
    kind = TYPES[problem["type"].removeprefix("/problems/")]
    assert (problem["title"], problem["status"]) == (kind.title, kind.status)
    assert problem["detail"]
    assert problem["detail"] != problem["title"]
    return problem


# --- the pages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", TYPES)
def test_every_problem_type_has_a_page_that_says_how_to_recover(api: Api, slug: str) -> None:
    """The type is a path that resolves to a page for people; it loads nothing from elsewhere."""
    answer = api.client.get(f"/problems/{slug}", headers={"Accept": "text/html"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    text = re.sub(r"<[^>]+>", " ", answer.text)
    kind = TYPES[slug]
    for said in (kind.title, str(kind.status), kind.uri, "What to do"):
        assert said.replace("'", "&#x27;") in text
    assert len(text.partition("What to do")[2].split()) > 5
    assert not re.search(r"(?:src|href)=\"(?!/)", answer.text)
    assert api.client.head(f"/problems/{slug}").headers["content-length"] == answer.headers["content-length"]


def test_the_contract_and_the_pages_have_the_same_problem_types() -> None:
    """No answer has a type that the contract does not name, and every named type has a page."""
    promised = set(re.findall(rb"/problems/([a-z-]+)", contract_json()))
    assert {slug.encode() for slug in TYPES} == promised


def test_an_unknown_problem_page_is_answered_with_a_problem(api: Api) -> None:
    """Of a type that has a page."""
    assert problem_of(api.client.get("/problems/nope"))["type"] == "/problems/not-found"


# --- what they say -----------------------------------------------------------------------------------


def test_every_fault_of_a_request_is_reported_with_its_place(api: Api) -> None:
    """As JSON Pointers into the body; valid parts are not mentioned."""
    answer = api.client.post(
        "/orders",
        json={
            "id": "0",
            "datetime": "2030-06-01T12:00:00",
            "totalfee": "100",
            "services": [{"id": "123"}, {"id": "x", "title": "y"}, 7, {}],
            "calendar": "a b",
            "a/b": 1,
            "c~d": 2,
        },
    )
    problem = problem_of(answer)
    assert sorted(fault["pointer"] for fault in problem["errors"]) == sorted(
        [
            *("#/id", "#/datetime", "#/totalfee", "#/calendar", "#/a~1b", "#/c~0d"),
            *("#/services/1/id", "#/services/1/title", "#/services/2", "#/services/3/id"),
        ]
    )
    assert all(len(fault["detail"].split()) > 1 for fault in problem["errors"])
    assert "9 more" in problem["detail"]


def test_a_problem_names_the_request_that_it_is_about(api: Api) -> None:
    """Its path as it was sent, still encoded, without its query; and the caller's request id."""
    answer = api.client.get("/orders/%D9%A3?x=%20", headers={"X-Request-Id": "mine-1"})
    problem = problem_of(answer)
    assert problem["instance"] == "/orders/%D9%A3"
    assert problem["request_id"] == "mine-1"


@pytest.mark.parametrize("given", ["a b", "é", "x" * 129, '{"a":\t1}', ""])
def test_a_request_id_that_could_forge_log_lines_is_replaced(api: Api, given: str) -> None:
    """Visible ASCII is kept, up to 128 characters."""
    answer = api.client.get("/orders", headers=[(b"X-Request-Id", given.encode("latin-1"))])
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


def test_every_answer_has_a_request_id_of_its_own(api: Api) -> None:
    """Also successful ones, and those of unknown routes."""
    answers = [api.client.get(path) for path in ("/orders", "/orders", "/nope", "/docs", "/health/live")]
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


def _refused_spacing(api: Api) -> httpx.Response:
    api.placed_order(at=later(days=2))
    return api.client.patch("/calendars/default", json={"spacing": "P7D"})


def _refused_change(api: Api) -> httpx.Response:
    api.placed_order(id=8, calendar="crew-1")
    api.client.post("/orders/8/cancel")
    return api.client.patch("/orders/8", json={"totalfee": 7})


def provoked(api: Api) -> dict[str, httpx.Response]:
    """Provoke every problem type that needs orders."""
    api.placed_order(id=5, at=NOON, reference="PO 1")
    key = {"Idempotency-Key": "try-1"}
    api.client.post("/services", json={"name": "Cleaning", "id": 7}, headers=key)
    return {
        "not-found": api.client.get("/orders/6"),
        "orders-too-close": api.place_order(at=later(hours=1)),
        "order-id-taken": api.place_order(at=later(days=1), id=5),
        "reference-taken": api.place_order(at=later(days=1), reference="PO 1"),
        "order-cancelled": _refused_change(api),
        "spacing-too-large": _refused_spacing(api),
        "calendar-in-use": api.client.delete("/calendars/default"),
        "batch-refused": api.client.post("/orders/batch", json={"orders": [order_body()]}),
        "service-id-taken": api.client.post("/services", json={"name": "Else", "id": 7}),
        "service-name-taken": api.client.post("/services", json={"name": "CLEANING"}),
        "version-mismatch": api.client.delete("/orders/5", headers={"If-Match": tags('"9"')}),
        "idempotency-key-reused": api.client.post("/services", json={"name": "Else"}, headers=key),
        "validation-failed": api.place_order(at=later(days=1), services=(999,)),
        "malformed-request": api.client.get("/orders/abc"),
        "invalid-cursor": api.client.get("/orders?cursor=x"),
        "method-not-allowed": api.client.delete("/orders"),
        "not-acceptable": api.client.get("/orders", headers={"Accept": "image/png"}),
        "unsupported-media-type": api.post_text("/orders", "{}", "text/plain"),
        "body-too-large": api.post_text("/orders", " " * 530_000),
        "uri-too-long": api.client.get("/orders?" + "a" * 9_000),
        "headers-too-large": api.client.get("/orders", headers={"X-Large": "a" * 33_000}),
        "summaries-behind": api.client.get("/fee-summaries?min_position=999&wait=0"),
    }


def test_each_problem_type_carries_what_a_caller_needs_to_continue(api: Api) -> None:
    """And the headers that belong to its status."""
    answers = provoked(api)
    for slug, answer in answers.items():
        assert problem_of(answer)["type"] == f"/problems/{slug}", answer.text
    assert answers["orders-too-close"].json()["nearest"]["after"] == "2030-06-01T15:00:00.000Z"
    assert answers["spacing-too-large"].json()["largest"] == "P2D"
    assert answers["calendar-in-use"].json()["orders"] == 2
    assert answers["version-mismatch"].headers["etag"] == tags('"1"')
    assert answers["method-not-allowed"].headers["allow"]
    assert answers["unsupported-media-type"].headers["accept"] == "application/json"
    elsewhere = {"unauthenticated", "forbidden", "version-required", "internal-error", "unavailable"} | {
        "request-timeout"
    }
    assert set(TYPES) - set(answers) <= elsewhere | {
        "position-expired",
        "report-expired",
        "webhook-disabled",
        "too-many-webhooks",
        "key-name-taken",
        "too-many-keys",
    }


# --- faults of our own -------------------------------------------------------------------------------


def test_an_internal_error_reveals_nothing_but_its_request_id(own_database_url: str, redis_url: str) -> None:
    """500: the log has the details under the same id, and nothing is stored."""
    with (
        serving(database=own_database_url, redis=redis_url) as (api, process),
        Database(own_database_url) as database,
    ):
        database.add_services()
        stored = api.placed_order()
        database.rows("ALTER TABLE orders RENAME COLUMN rendered TO rendered_before")
        counts = database.counts()
        requests = [
            ("GET", f"/orders/{stored['id']}", None),
            ("GET", "/orders", None),
            ("POST", "/orders", order_body(at=later(days=1))),
            ("PATCH", f"/orders/{stored['id']}", {"totalfee": 1}),
        ]
        for method, path, body in requests:
            answer = api.client.request(method, path, json=body)
            assert answer.status_code == 500
            problem = problem_of(answer)
            assert set(problem) == MEMBERS
            assert problem["type"] == "/problems/internal-error"
            for word in ("rendered", "asyncpg", "Traceback", "SELECT", "function", ".py", "relation"):
                assert word not in answer.text
            assert problem["request_id"] in process.log
        for media_type in ("application/x-ndjson", "text/csv"):
            answer = api.client.get("/orders/export", headers={"Accept": media_type})
            assert answer.status_code == 500
            assert set(problem_of(answer)) == MEMBERS
        assert "rendered" in process.log
        assert "UndefinedColumn" in process.log
        assert database.counts() == counts
        database.rows("ALTER TABLE orders RENAME COLUMN rendered_before TO rendered")
        assert api.client.get("/orders").status_code == 200
        for _ in range(5):
            assert api.client.get("/orders/export", headers={"Accept": "text/csv"}).status_code == 200


# --- methods and unknown routes ----------------------------------------------------------------------

METHODS = {
    "/orders": "GET, HEAD, OPTIONS, POST",
    "/orders/batch": "OPTIONS, PATCH, POST",
    "/orders/export": "GET, HEAD, OPTIONS",
    "/orders/batch/cancel": "OPTIONS, POST",
    "/orders/batch/delete": "OPTIONS, POST",
    "/orders/5/cancel": "OPTIONS, POST",
    "/orders/5/reinstate": "OPTIONS, POST",
    "/orders/5": "DELETE, GET, HEAD, OPTIONS, PATCH, PUT",
    "/services": "GET, HEAD, OPTIONS, POST",
    "/services/123": "DELETE, GET, HEAD, OPTIONS, PUT",
    "/calendars": "GET, HEAD, OPTIONS",
    "/calendars/a/availability": "GET, HEAD, OPTIONS",
    "/fee-summaries": "GET, HEAD, OPTIONS",
    "/fee-summaries/orders": "GET, HEAD, OPTIONS",
    "/fee-summaries/export": "GET, HEAD, OPTIONS",
    "/fee-summaries/proof": "GET, HEAD, OPTIONS",
    "/metrics": "GET, HEAD, OPTIONS",
    "/health/live": "GET, HEAD, OPTIONS",
    "/health/ready": "GET, HEAD, OPTIONS",
    "/openapi.yaml": "GET, HEAD, OPTIONS",
    "/openapi.json": "GET, HEAD, OPTIONS",
    "/": "GET, HEAD, OPTIONS",
    "/docs": "GET, HEAD, OPTIONS",
    "/problems/not-found": "GET, HEAD, OPTIONS",
}


@pytest.mark.parametrize("path", METHODS)
def test_every_path_lists_its_methods_and_refuses_all_others(api: Api, path: str) -> None:
    """OPTIONS and the Allow header of a 405 list exactly the methods that work."""
    allowed = METHODS[path].split(", ")
    options = api.client.options(path)
    assert (options.status_code, options.headers["allow"], options.content) == (204, METHODS[path], b"")
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"):
        answer = api.client.request(method, path)
        assert (answer.status_code == 405) == (method not in allowed), method
        if method not in allowed:
            assert sorted(answer.headers["allow"].split(", ")) == allowed
            assert method == "HEAD" or problem_of(answer)["type"] == "/problems/method-not-allowed"


@pytest.mark.parametrize("path", [path for path, methods in METHODS.items() if "HEAD" in methods])
def test_head_is_answered_like_get_without_the_body(api: Api, path: str) -> None:
    """Status and headers are equal, problems included."""
    api.placed_order(id=5)
    for target in (path, f"{path}?unknown=1"):
        got, head = api.client.get(target), api.client.head(target)
        assert head.content == b""
        assert head.status_code == got.status_code
        # Both framings are of content, which HEAD has not.
        varying = {"date", "x-request-id", "content-length", "transfer-encoding"}
        assert {k: v for k, v in head.headers.items() if k not in varying} == {
            k: v for k, v in got.headers.items() if k not in varying
        }


@pytest.mark.parametrize(
    "path", ["/order", "/orders/5/services", "/.git/config", "/orders/", "/nothing//5", "/orders%2F5"]
)
def test_an_unknown_route_is_answered_with_a_problem_whatever_the_method(api: Api, path: str) -> None:
    """JSON, never a page of the framework's."""
    for method in ("GET", "POST", "DELETE", "FOO"):
        answer = api.client.request(method, path)
        if path == "/orders/" and method != "GET":
            assert answer.status_code in (404, 405)
            continue
        if path == "/orders%2F5" and method in ("POST", "FOO"):
            assert answer.status_code in (404, 405)
            continue
        assert answer.status_code == 404
        assert problem_of(answer)["type"] == "/problems/not-found"
    assert api.client.head(path).status_code == 404
