"""The code against the contract: routes, parameters, media types, status codes and problems are the same."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from api.app import LARGEST_BODY_BYTES, ROUTES
from api.http import access
from api.http.bodies import read_body
from api.http.media_types import JSON
from api.http.parameters import NO_QUERY
from api.http.problem_types import TYPES, ProblemType
from api.http.problems import ProblemError
from api.orders.routes import LARGEST_BATCH_BYTES
from api.problem_map import _PROBLEM_OF
from contract.checks.document import operations, parameters
from tests.contract_schemas import CONTRACT
from tests.referenced_code import referenced_code

if TYPE_CHECKING:
    from litestar.handlers import HTTPRouteHandler

    from tests.drivers import Api

OPERATIONS = {(method.upper(), path): operation for path, method, operation in operations(CONTRACT)}
IDS = {key: operation.get("operationId") for key, operation in OPERATIONS.items()}

OUTSIDE = re.compile(r"/docs/\{name\}")
"""The viewer's own files are not operations; a browser loads them for `/docs`."""


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
        known = ", ".join(sorted(HANDLERS[key].opt.get("query", NO_QUERY).names)) or "none"
        assert fault == {"parameter": "no_such", "detail": f"is unknown; known parameters: {known}"}


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
    assert set(named) == set(body.members("content"))


NEVER = {"archiveService": {409: "it sets no name that another service could have"}}
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
    if any(getattr(value, "__module__", "").startswith("shared.database") for value in code):
        statuses.add(503)
    if read_body in code:
        statuses.add(413)
    if method != "DELETE":
        statuses.add(406)
    if not path.startswith(access.OPEN_PATHS):
        statuses |= {401} if method in access.READING else {401, 403}
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
    assert key[1].startswith(access.OPEN_PATHS) == is_open


def _schemas_of_problems() -> dict[str, Any]:
    schemas = CONTRACT.members("components")["schemas"].value
    return {name: schema for name, schema in schemas.items() if "unevaluatedProperties" in schema}


def test_the_problem_types_are_the_contracts() -> None:
    """Same slugs, each with the same status."""
    assert set(CONTRACT.target("#/components/schemas/ProblemSlug").get("enum")) == set(TYPES)
    in_contract = {
        (schema["properties"]["type"]["const"], schema["properties"]["status"]["const"])
        for schema in _schemas_of_problems().values()
    }
    assert in_contract == {(kind.uri, kind.status) for kind in TYPES.values()}


def test_a_problem_type_has_the_same_title_in_the_contracts_examples_as_in_answers() -> None:
    """A title belongs to its type and never varies (RFC 9457, section 3.1.3)."""
    problems = [
        problem
        for example in CONTRACT.members("components")["examples"].value.values()
        if isinstance(example["value"], dict)
        and str(example["value"].get("type", "")).startswith("/problems/")
        for problem in (example["value"], *example["value"].get("items", ()))
    ]
    titles = {kind.uri: kind.title for kind in TYPES.values()}
    wrong = {
        problem["type"]: (problem["title"], titles[problem["type"]])
        for problem in problems
        if problem["title"] != titles[problem["type"]]
    }
    assert wrong == {}


def test_the_size_limits_of_bodies_are_the_contracts() -> None:
    """Its description states them."""
    assert f"A body is at most {LARGEST_BODY_BYTES:,} bytes, a batch {LARGEST_BATCH_BYTES:,}." in (
        CONTRACT.get("info")["description"].replace("\n", " ").replace("  ", " ")
    )
