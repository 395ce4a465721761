"""The contract's example requests, sent to a service that holds the sample data."""

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import pytest

from contract.checks.document import CONTRACT as CONTRACT_FILE
from contract.checks.document import EVENTS as EVENTS_FILE
from contract.checks.document import Place, media_types, operations, parameters
from tests.contract_schemas import CONTRACT
from tests.import_steps import import_sample
from tests.random_rounds import seeds

if TYPE_CHECKING:
    import httpx

    from tests.drivers import Api

NEEDS_A_WEBHOOK = re.compile(r"/webhooks/\{")
"""The sample data has no webhook, so these are answered 404."""


class Request(NamedTuple):
    """A request made of the contract's examples."""

    name: str
    operation: str
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    statuses: set[str]


def example_of(parameter: Place) -> Any:
    """Return a parameter's example, or its schema's."""
    if "example" in parameter.value:
        return parameter.get("example")
    schema = parameter.child("schema")
    assert schema is not None
    while schema.get("examples") is None and "$ref" in schema.value:
        schema = schema.target(schema.get("$ref"))
    return (schema.get("examples") or [None])[0]


def requests() -> list[Request]:
    """Make a request of each example of a body; one of each operation without a body."""
    made = []
    for path, method, operation in operations(CONTRACT):
        if path == "/order-changes/stream":  # it has no end
            continue
        known = parameters(CONTRACT, path, operation)
        in_path = {name: str(example_of(one)) for (where, name), one in known.items() if where == "path"}
        address = path.format_map(in_path)
        query = urlencode(
            {
                name: example_of(parameter)
                for (where, name), parameter in known.items()
                if where == "query" and parameter.get("required")
            },
            doseq=True,
        )
        wanted = {name: example_of(of) for (where, name), of in known.items() if name == "if-match"}
        body = operation.child("requestBody")
        bodies: list[tuple[str, str | None, Any]] = [("", None, None)]
        if body is not None:
            bodies = [
                (name, kind, example.get("value"))
                for kind, content in media_types(body).items()
                for name, example in content.members("examples").items()
            ]
        for name, kind, value in bodies:
            headers = wanted | ({"Content-Type": kind} if kind else {})
            full = f"{address}?{query}" if query else address
            title = f"{operation.get('operationId')} {name} {kind or ''}".strip()
            made.append(
                Request(
                    title,
                    operation.get("operationId"),
                    method.upper(),
                    full,
                    headers,
                    value,
                    set(operation.members("responses")),
                )
            )
    return made


REQUESTS = requests()


def send(api: Api, request: Request) -> int:
    """Send a request, with amounts as the contract writes them; return the status."""
    return answer_to(api, request).status_code


def answer_to(api: Api, request: Request) -> httpx.Response:
    """Send a request, with amounts as the contract writes them."""
    is_text = request.headers.get("Content-Type") in ("text/csv", "application/x-ndjson")
    content = request.body if is_text or request.body is None else json.dumps(request.body, default=float)
    return api.client.request(request.method, request.path, headers=request.headers, content=content)


GONE_OR_CHANGED = {"not-found", "version-mismatch", "order-cancelled"}
"""The problems of an order that another example deleted, changed or cancelled before."""


def problems_of(answer: httpx.Response) -> set[str]:
    """Return the slugs of the problems that an answer names: of a batch, those of its orders."""
    if answer.request.method == "HEAD":
        return {{404: "not-found", 412: "version-mismatch"}.get(answer.status_code, "unknown")}
    problem = answer.json()
    return {one["type"].rpartition("/")[2] for one in problem.get("items", [problem])}


def test_every_parameter_has_an_example() -> None:
    """At the parameter, or in its schema, where tools do not fill it in on their own."""
    missing = {
        name
        for path, _, operation in operations(CONTRACT)
        for (_, name), parameter in parameters(CONTRACT, path, operation).items()
        if example_of(parameter) is None
    }
    assert missing == set()


@pytest.mark.parametrize("request_", REQUESTS, ids=[request.name for request in REQUESTS])
def test_every_example_request_succeeds_on_the_sample_data(api: Api, request_: Request) -> None:
    """As the first request that a reader tries; those about a webhook or a key need one first."""
    import_sample()
    status = send(api, request_)
    if NEEDS_A_WEBHOOK.search(request_.path) or request_.path.startswith(("/webhooks/", "/keys/")):
        assert status == 404
    elif request_.operation == "createKey":
        assert status == 403  # the first key is the operator's
    elif request_.name.startswith("createWebhook"):
        assert status in (201, 422)  # 422: where the example's host name does not resolve
    elif request_.operation == "deleteCalendar":
        assert status == 409  # it has the sample's orders
    else:
        assert 200 <= status < 300


def test_every_list_takes_start_as_the_cursor_of_its_first_page(api: Api) -> None:
    """For clients that always send one; the next page's address then has the next cursor only."""
    import_sample()
    assert api.client.post("/webhooks", json={"url": "https://orders.example/"}).status_code in (201, 422)
    lists = [
        path.replace("{order_id}", "223").replace("{calendar}", "default")
        for path, _, operation in operations(CONTRACT)
        if ("query", "cursor") in parameters(CONTRACT, path, operation) and "{webhook_id}" not in path
    ]
    assert len(lists) == 10
    for path in lists:
        asked = {"limit": "1"}
        if path.startswith("/fee-summaries"):
            asked |= {"from": "2022-11-01", "to": "2022-12-01"}
        if path.endswith("/availability"):  # its pages are as long as they may be
            asked = {"from": "2022-11-01T00:00:00Z"}
        without, given = (api.client.get(path, params=asked | cursor) for cursor in ({}, {"cursor": "start"}))
        assert (given.status_code, given.json()) == (200, without.json()), path
    assert api.client.get("/orders?cursor=start2").status_code == 400
    assert api.client.get("/orders/export?cursor=start").status_code == 400


@pytest.mark.parametrize("seed", seeds(2))
def test_the_example_requests_end_as_documented_in_any_order(api: Api, seed: int) -> None:
    """None is 400: what one of them changes, the others meet as a documented status."""
    import_sample()
    order = random.Random(seed).sample(REQUESTS, len(REQUESTS))
    statuses = {request.name: str(send(api, request)) for request in order}
    wrong = {
        request.name: statuses[request.name]
        for request in order
        if statuses[request.name] == "400" or statuses[request.name] not in request.statuses
    }
    assert wrong == {}, seed


@pytest.mark.parametrize("order", ["down", "up", *seeds(2)])
def test_what_the_viewer_fills_in_is_never_refused_whatever_was_tried_before(
    api: Api, order: str | int
) -> None:
    """Each operation once, with its first example: another may have changed or deleted what it is about."""
    import_sample()
    first: dict[str, Request] = {}
    for request in REQUESTS:
        first.setdefault(request.operation, request)
    tried = list(first)
    if isinstance(order, int):
        random.Random(order).shuffle(tried)
    elif order == "up":
        tried.reverse()
    answers = {operation: answer_to(api, first[operation]) for operation in tried}
    if answers["createWebhook"].status_code == 422:  # where the example's host name does not resolve
        del answers["createWebhook"]
    del answers["createKey"]  # the first key is the operator's
    if answers["deleteCalendar"].status_code == 409:  # it has orders, unless they were deleted before
        del answers["deleteCalendar"]
    refused = {operation: problems_of(answer) for operation, answer in answers.items() if answer.is_error}
    assert set().union(*refused.values()) <= GONE_OR_CHANGED, (order, tried, refused)


def test_the_operations_on_a_webhook_end_with_its_deletion() -> None:
    """Who tries them in the documentation's order meets a webhook until then."""
    about_one = [one.operation for one in REQUESTS if one.path.startswith("/webhooks/")]
    assert len(about_one) > 1
    assert about_one[-1] == "deleteWebhook"


def test_amounts_in_examples_have_two_decimals_as_the_service_writes_them() -> None:
    """In YAML, in JSON inside it and in text."""
    amount = re.compile(r"(?:fee|share|counted)\\?[\"']?: ?(-?[0-9][0-9.]*)")
    for file in (CONTRACT_FILE, EVENTS_FILE):
        amounts = amount.findall(file.read_text())
        assert amounts
        assert [one for one in amounts if not re.fullmatch(r"[0-9]+\.[0-9]{2}", one)] == []
