"""The code against the contract: routes, parameters, media types, status codes and problems are the same."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from api.app import LARGEST_BODY_BYTES, ROUTES
from api.http import access
from api.http.bodies import read_body, read_file_body, read_optional_body
from api.http.errors import BodyTimeoutError
from api.http.media_types import JSON
from api.http.parameters import NO_QUERY
from api.http.problem_types import ProblemType
from api.http.problems import ProblemError
from api.http.scopes import ANY_KEY, SCOPES
from api.operations.health import NotReadyError, StoppingError
from api.orders.bodies import LARGEST_BATCH_BYTES, LARGEST_ORDER_BYTES
from api.problem_map import _PROBLEM_OF, problem_of
from api.problem_types import TYPES
from contract.checks.document import media_types, operations, parameters
from shared.database.engine import DatabaseUnavailableError, OutcomeUnknownError
from tests.builders import order_body, tags
from tests.contract_schemas import CONTRACT, is_problem
from tests.drivers import Api, Database
from tests.key_steps import bearer, make_key
from tests.referenced_code import referenced_code
from tests.serving import serving
from tests.webhook_steps import subscribe

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from litestar.handlers import HTTPRouteHandler

OPERATIONS = {(method.upper(), path): operation for path, method, operation in operations(CONTRACT)}
IDS = {key: operation.get("operationId") for key, operation in OPERATIONS.items()}

OUTSIDE = re.compile(r"/|/docs/\{name\}")
"""What browsers ask for is no operation: the root, which leads to `/docs`, and the pages and files there."""


def _routes() -> dict[tuple[str, str], HTTPRouteHandler]:
    return {
        (str(getattr(method, "value", method)), re.sub(r":\w+\}", "}", path)): handler
        for handler in ROUTES
        if "refuses" not in handler.opt
        for path in handler.paths
        for method in handler.http_methods
    }


HANDLERS = {key: handler for key, handler in _routes().items() if not OUTSIDE.fullmatch(key[1])}
CASES = pytest.mark.parametrize("key", OPERATIONS, ids=[IDS[key] for key in OPERATIONS])


def test_the_routes_are_the_contracts_operations() -> None:
    """Same paths, methods and path parameters; HEAD is everywhere where GET is."""
    without_head = {key for key in HANDLERS if key[0] != "HEAD" or key in OPERATIONS}
    named = [
        f"{method} {path} is in the contract, and no route" for method, path in OPERATIONS.keys() - HANDLERS
    ]
    named += [
        f"{method} {path} is a route, and not in the contract"
        for method, path in without_head - OPERATIONS.keys()
    ]
    named += [
        f"{path} answers GET and not HEAD"
        for m, path in HANDLERS
        if m == "GET" and ("HEAD", path) not in HANDLERS
    ]
    assert named == []


@CASES
def test_the_query_parameters_of_each_route_are_the_contracts(key: tuple[str, str]) -> None:
    """Sent an unknown parameter, a route lists those that it knows."""
    declared = HANDLERS[key].opt.get("query", NO_QUERY).names
    promised = {name for where, name in parameters(CONTRACT, key[1], OPERATIONS[key]) if where == "query"}
    assert declared == promised, (
        f"only in code: {declared - promised}; only in the contract: {promised - declared}"
    )


@CASES
def test_a_route_refuses_a_query_parameter_that_it_does_not_declare(key: tuple[str, str], api: Api) -> None:
    """It names those that it knows, whatever it answers with."""
    method, path = key
    produced = OPERATIONS[key].members("responses").get("200", OPERATIONS[key]).members("content") or {"*/*"}
    for media_type in produced:
        answer = api.client.request(
            "GET" if method == "HEAD" else method,
            re.sub(r"\{\w+\}", "1", path),
            params={"no_such": "1"},
            headers={"Accept": media_type},
        )
        assert answer.status_code == 400, answer.text
        (fault,) = answer.json()["errors"]
        names = sorted(HANDLERS[key].opt.get("query", NO_QUERY).names)
        known = f"known parameters: {', '.join(names)}" if names else "this path takes none"
        assert fault == {"parameter": "no_such", "detail": f"is unknown; {known}"}


@CASES
def test_the_scope_of_each_route_is_the_contracts(key: tuple[str, str]) -> None:
    """Every route that needs a key declares one, or that any key will do; the others declare none."""
    declared = HANDLERS[key].opt.get("scope")
    assert (declared is not None) is access.needs_key(key[1])
    assert OPERATIONS[key].get("x-scope") == (None if declared == ANY_KEY else declared)


@CASES
def test_the_media_types_of_answers_are_the_contracts(key: tuple[str, str]) -> None:
    """What a route declares to produce is what the contract has for its successful answers."""
    responses = OPERATIONS[key].members("responses")
    promised = {
        media_type
        for status, response in responses.items()
        if status < "300"
        for media_type in response.members("content")
    }
    produced = set() if key[0] in ("HEAD", "DELETE") else set(HANDLERS[key].opt.get("produces", (JSON,)))
    assert produced == promised


@pytest.mark.parametrize(
    "key", [key for key in OPERATIONS if OPERATIONS[key].child("requestBody")], ids=IDS.get
)
def test_the_media_types_of_request_bodies_are_the_contracts(key: tuple[str, str], api: Api) -> None:
    """Sent another one, a route lists those that it accepts, in the header that is for that."""
    method, path = key
    answer = api.client.request(
        method,
        re.sub(r"\{\w+\}", "1", path),
        content=b"{}",
        headers={"Content-Type": "application/x-no-such"},
    )
    assert answer.status_code == 415, answer.text
    named = answer.headers["Accept-Patch" if method == "PATCH" else "Accept"].split(", ")
    body = OPERATIONS[key].child("requestBody")
    assert body is not None
    assert set(named) == set(media_types(body))


_OF_ITEMS = "it is the problem of an item"
NEVER = {
    "updateOrders": {404: _OF_ITEMS, 412: _OF_ITEMS},
    "cancelOrders": {404: _OF_ITEMS, 412: _OF_ITEMS},
    "deleteOrders": {404: _OF_ITEMS, 412: _OF_ITEMS},
    "archiveService": {409: "it sets no name that another service could have"},
}
"""Statuses that a route's code refers to but never answers."""


def _statuses(key: tuple[str, str]) -> set[int]:
    """Return the error statuses that a route's code, its guards and the server can answer."""
    method, path = key
    code = referenced_code(HANDLERS[key].fn)
    kinds = {value for value in code if isinstance(value, ProblemType)}
    errors = {value for value in code if isinstance(value, type)} & _PROBLEM_OF.keys() - {ProblemError}
    for error in errors:
        kinds |= {value for value in referenced_code(_PROBLEM_OF[error]) if isinstance(value, ProblemType)}
    statuses = {kind.status for kind in kinds} | {400, 500}  # 400: the guard reads Host and the query
    statuses |= {414, 431}  # before any route
    if any(getattr(value, "__module__", "").startswith("shared.database") for value in code):
        statuses.add(503)
    if any(read in code for read in (read_body, read_file_body, read_optional_body)):
        statuses |= {408, 413}
    if method != "DELETE":
        statuses.add(406)
    if access.needs_key(path):
        statuses |= {401, 403}  # a token may have no scope at all
        statuses.add(503)  # it can't be known whether a key is valid
    return statuses - NEVER.get(IDS[key], {}).keys()


@CASES
def test_the_error_statuses_of_each_operation_are_those_that_its_code_can_raise(key: tuple[str, str]) -> None:
    """Every one is in the contract, and none that cannot occur."""
    promised = {int(status) for status in OPERATIONS[key].members("responses") if status >= "400"}
    statuses = _statuses(key)
    assert statuses == promised, (
        f"only in code: {sorted(statuses - promised)}; only in the contract: {sorted(promised - statuses)}"
    )


@CASES
def test_the_operations_that_need_a_key_are_the_contracts(key: tuple[str, str]) -> None:
    """Those that need none have an empty list of security requirements in the contract."""
    is_open = OPERATIONS[key].get("security", CONTRACT.get("security")) == []
    assert access.needs_key(key[1]) != is_open


def _schemas_of_problems() -> dict[str, Any]:
    schemas = CONTRACT.members("components")["schemas"].value
    return {name: schema for name, schema in schemas.items() if is_problem(schema)}


def test_the_problem_types_are_the_contracts() -> None:
    """Same slugs, each with the same status."""
    assert set(CONTRACT.target("#/components/schemas/ProblemSlug").get("enum")) == set(TYPES)
    in_contract = {
        (schema["properties"]["type"]["const"], schema["properties"]["status"]["const"])
        for schema in _schemas_of_problems().values()
    }
    assert in_contract == {(kind.uri, kind.status) for kind in TYPES.values()}


def _problem_examples() -> dict[str, dict[str, Any]]:
    values = {
        name: example["value"]
        for name, example in CONTRACT.members("components")["examples"].value.items()
        if isinstance(example["value"], dict)
    }
    return {n: value for n, value in values.items() if str(value.get("type", "")).startswith("/problems/")}


def test_a_problem_type_has_the_same_title_in_the_contracts_examples_as_in_answers() -> None:
    """A title belongs to its type and never varies (RFC 9457, section 3.1.3)."""
    problems = [
        problem
        for example in _problem_examples().values()
        for problem in (example, *example.get("items", ()))
    ]
    titles = {kind.uri: kind.title for kind in TYPES.values()}
    wrong = {
        problem["type"]: (problem["title"], titles[problem["type"]])
        for problem in problems
        if problem["title"] != titles[problem["type"]]
    }
    assert wrong == {}


SAMPLE_TIME = "2022-11-01T11:11:11.111Z"
ITS_KEY = "8f14e45f-ceea-467f-a9c3-0d1f6c2e7b90"


@pytest.fixture
def guarded_api(postgres_url: str, redis_url: str) -> Iterator[Api]:
    """An API that requires keys and If-Match."""
    callers = {"dashboard": "read", "shop": "write"}
    keys = (f"{name}:{role}:{sha256(name.encode()).hexdigest()}" for name, role in callers.items())
    strict = {"OMS_API_KEYS": ",".join(keys), "OMS_REQUIRE_IF_MATCH": "yes"}
    with serving(database=postgres_url, redis=redis_url, **strict) as (guarded, _):
        yield guarded


def _provoke_with_requests(api: Api) -> dict[str, httpx.Response]:
    """Return the problems that need only requests, by the name of their example."""
    get, post = api.client.get, api.client.post
    api.placed_order(id=223, at=SAMPLE_TIME, reference="PO-2026-4711")
    api.placed_order(id=224, at="2022-11-03T00:00:00Z", calendar="crew-7")
    cursor = get("/orders?limit=1").json()["next"]
    batch = [order_body(at=f"2026-11-24T{hour}:00:00Z") for hour in ("09", "10")]
    key = {"Idempotency-Key": ITS_KEY}
    post("/orders", json=order_body(at="2022-11-05T00:00:00Z"), headers=key)
    answers = {
        "MalformedId": get("/orders/abc"),
        "BrokenJson": api.post_text("/orders", '{"totalfee": 100'),
        "UnknownParameter": get("/orders?offset=20"),
        "ForeignCursor": get(f"{cursor}&calendar=crew-7"),
        "UnknownOrder": get("/orders/999"),
        "WrongMethod": api.client.patch("/orders"),
        "XmlWanted": get("/orders/223", headers={"Accept": "application/xml"}),
        "CsvWanted": get("/orders", headers={"Accept": "text/csv"}),
        "TooClose": api.place_order(at="2022-11-01T12:11:11.111Z"),
        "TakenOrderId": api.place_order(id=223, at="2022-11-07T00:00:00Z"),
        "TakenReference": api.place_order(at="2022-11-07T00:00:00Z", reference="PO-2026-4711"),
        "BatchTooClose": post("/orders/batch", json={"orders": batch}),
        **_provoke_on_a_calendar(api),
        "TakenServiceName": post("/services", json={"name": "Inspection"}),
        "TakenServiceId": post("/services", json={"name": "Cleaning", "id": 123}),
        "LongBody": api.post_text("/orders", " " * 1_000_000),
        **_provoke_with_files(api),
        "LongQuery": get(f"/orders?{'a' * 9_000}"),
        "LargeHeaders": get("/orders", headers={"X-Large": "a" * 33_000}),
        "TextBody": api.post_text("/orders", "223", "text/plain"),
        "TwoFaults": api.place_order(fee=-1, at="2022-11-07T00:00:00"),
        "ReusedKey": post("/orders", json=order_body(at="2022-11-08T00:00:00Z"), headers=key),
    }
    changes = [
        {"id": 224, "services": [{"id": 999}]},
        {"id": 999, "totalfee": 1},
        {"id": 225, "datetime": "2022-11-01T12:11:11.111Z", "calendar": "default"},
    ]
    api.placed_order(id=225, at="2022-11-04T00:00:00Z", calendar="crew-7")
    answers["BatchUnchangeable"] = api.client.patch("/orders/batch", json={"orders": changes})
    assert post("/orders/224/cancel").status_code == 200
    answers["CancelledAlready"] = api.client.patch("/orders/224", json={"totalfee": 180})
    assert api.client.patch("/orders/223", json={"totalfee": 180}).status_code == 200
    answers["StaleVersion"] = api.client.delete("/orders/223", headers={"If-Match": tags('"1"')})
    return answers


def _provoke_with_files(api: Api) -> dict[str, httpx.Response]:
    """Return the problems of files that can't be imported."""

    def send(text: str) -> httpx.Response:
        return api.post_text("/imports", text, "text/csv")

    rows = "2030-01-01T00:00:00Z,1,123\n2030-01-02T00:00:00Z,-1,123\n"
    return {
        "LargeFile": send("x" * 9_000_000),
        "BrokenFile": send("datetime,fee,service_ids\n"),
        "FaultyFile": send(f"datetime,totalfee,service_ids\n{rows}"),
    }


def _provoke_on_a_calendar(api: Api) -> dict[str, httpx.Response]:
    """Return the problems of a calendar with two orders."""
    for order_id, time in ((301, "09:00"), (302, "12:30")):
        api.placed_order(id=order_id, at=f"2026-11-24T{time}:00Z", calendar="hall-2")
    return {
        "TooLargeSpacing": api.client.put("/calendars/hall-2", json={"spacing": "PT4H"}),
        "CalendarWithOrders": api.client.delete("/calendars/hall-2"),
    }


def _provoke_with_rows(api: Api, database: Database) -> dict[str, httpx.Response]:
    """Return the problems of a long history: its positions are written into the database."""
    database.rows("SELECT setval('webhook_id_seq', 6)")
    subscribe(api, "https://orders.example/changes")
    database.rows("UPDATE webhook SET disabled_at = now(), disabled_reason = 'failing'")
    answers = {"DisabledWebhook": api.client.post("/webhooks/7/replay", json={})}
    database.rows(
        "INSERT INTO webhook (url, types, calendars, description, starts_after) "
        "SELECT '', '{}', '{}', '', 0 FROM generate_series(2, 100)"
    )
    answers["HundredWebhooks"] = api.client.post("/webhooks", json={"url": "https://orders.example/"})
    database.rows("UPDATE change_log SET first_position = 4712, last_position = 5120")
    answers["ExpiredPosition"] = api.client.get("/order-changes?after=17")
    database.rows("UPDATE change_log SET first_position = 1, last_position = 61207")
    database.rows("UPDATE consumer_cursor SET position = 61207")
    answers["LateReport"] = api.client.get("/fee-summaries?position=3")
    database.rows("UPDATE consumer_cursor SET position = 41, moved_at = '2026-11-22T09:30:00.418Z'")
    database.rows("UPDATE order_change SET position = 44 WHERE order_id = 223 AND order_version = 2")
    answers["NotSummedYet"] = api.client.get("/fee-summaries?after_version=223:2&wait=0")
    return answers


def _provoke_with_settings(api: Api, database: Database) -> dict[str, httpx.Response]:
    """Return the problems of an API that requires keys and If-Match."""
    client = api.client
    manager = bearer(make_key(database, "admin", *SCOPES))
    shop = {"name": "shop-2", "scopes": ["orders:read"]}
    assert client.post("/keys", json=shop, headers=manager).status_code == 201
    taken = client.post("/keys", json={**shop, "name": "shop"}, headers=manager)
    database.rows(
        "INSERT INTO api_key (id, name, scopes, secret_hash) "
        "SELECT 'x' || i, 'x' || i, '{orders:read}', sha256(i::text::bytea) FROM generate_series(3, 1000) i"
    )
    return {
        "TakenKeyName": taken,
        "ThousandKeys": client.post("/keys", json={**shop, "name": "shop-3"}, headers=manager),
        "NoApiKey": client.get("/orders"),
        "NotAllowed": client.delete("/orders/223", headers={"Authorization": "Bearer dashboard"}),
        "NoIfMatch": client.delete("/orders/223", headers={"Authorization": "Bearer shop"}),
    }


FAILURES = {
    "Fault": RuntimeError(),
    "StalledBody": BodyTimeoutError(),
    "DatabaseDown": DatabaseUnavailableError(),
    "OutcomeUnknown": OutcomeUnknownError(),
    "Starting": NotReadyError(
        {"database": "ok", "migrations": "pending", "queue": "ok"},
        "2 of the migrations are pending; run shared.database.migrate",
    ),
    "Stopping": StoppingError({"database": "ok", "migrations": "ok", "queue": "ok"}),
}
"""Problems that no request alone can provoke, and the errors that ``problem_map`` translates into them."""


def test_the_problems_in_the_contracts_examples_are_what_the_service_answers(
    api: Api, guarded_api: Api, database: Database
) -> None:
    """Every member of each, except the id of the request."""
    examples = _problem_examples()
    provoked = (
        _provoke_with_requests(api)
        | _provoke_with_rows(api, database)
        | _provoke_with_settings(guarded_api, database)
    )
    problems = {name: answer.json() for name, answer in provoked.items()}
    for name, error in FAILURES.items():
        problem = problem_of(error)
        problems[name] = {
            "type": problem.type.uri,
            "title": problem.type.title,
            "status": problem.type.status,
            "detail": problem.detail,
            "instance": examples[name]["instance"],
            **problem.members,
        }
    assert problems.keys() == examples.keys()
    for name, answer in problems.items():
        assert {**answer, "request_id": ""} == {**examples[name], "request_id": ""}, name


def test_the_size_limits_of_bodies_are_the_contracts() -> None:
    """The contract's description states the limits that the API enforces."""
    assert (
        f"A body is at most {LARGEST_BODY_BYTES:,} bytes, an order {LARGEST_ORDER_BYTES:,}, "
        f"a batch {LARGEST_BATCH_BYTES:,}."
    ) in (CONTRACT.get("info")["description"].replace("\n", " ").replace("  ", " "))
