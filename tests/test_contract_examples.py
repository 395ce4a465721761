"""The contract against itself: every example matches its schema, every name that is used exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from contract.checks import lint
from contract.checks.document import Place, media_types, operations
from contract.checks.validation import read_json, read_text
from tests import clients
from tests.contract_schemas import CONTRACT, SCHEMAS, is_problem


def places(place: Place) -> Iterator[Place]:
    """Walk the document without following references and without examples, which are data."""
    yield place
    if isinstance(place.value, Mapping | list):
        keys = list(place.value) if isinstance(place.value, Mapping) else range(len(place.value))
        for key in keys:
            if (
                key not in {"example", "examples", "default", "value", "enum"}
                or place.pointer == "#/components"
            ):
                name = str(key).replace("~", "~0").replace("/", "~1")
                yield from places(Place(place.root, f"{place.pointer}/{name}", place.value[key]))


def examples() -> Iterator[tuple[str, Place, Any]]:
    """Find every example: its place, the schema that it must match, its value."""
    for place in places(CONTRACT):
        if not isinstance(place.value, Mapping) or place.pointer.startswith("#/components/examples"):
            continue
        schema = place.child("schema")
        if schema is None:
            if isinstance(place.get("examples"), list):
                for index, value in enumerate(place.get("examples")):
                    yield f"{place.pointer}/examples/{index}", place, value
            if "default" in place.value and ("type" in place.value or "enum" in place.value):
                yield f"{place.pointer}/default", place, place.get("default")
            continue
        if "example" in place.value:
            yield f"{place.pointer}/example", schema, place.get("example")
        for name, example in place.members("examples").items():
            yield f"{place.pointer}/examples/{name}", schema, example.get("value")


EXAMPLES = {pointer: (schema, value) for pointer, schema, value in examples()}


def test_the_contract_has_many_examples() -> None:
    """In parameters, headers, bodies and schemas."""
    assert len(EXAMPLES) > 80
    for part in ("#/components/parameters/", "#/components/headers/", "#/components/schemas/", "#/paths/"):
        assert any(pointer.startswith(part) for pointer in EXAMPLES), part


@pytest.mark.parametrize("pointer", EXAMPLES)
def test_every_example_of_the_contract_matches_its_schema(pointer: str) -> None:
    """A request copied from the contract is valid, and an answer shown there can occur."""
    schema, value = EXAMPLES[pointer]
    assert SCHEMAS.faults(schema, value) == []


def test_every_answer_with_a_body_and_every_request_body_has_an_example() -> None:
    """Each media type of a body has its own examples."""
    missing = [
        content.pointer
        for place in places(CONTRACT)
        if isinstance(place.value, Mapping) and not place.pointer.startswith("#/components/examples")
        for content in place.members("content").values()
        if content.child("schema") is not None and content.child("examples") is None
    ]
    assert missing == []


def test_every_example_of_a_stream_contains_orders() -> None:
    """Each NDJSON line is an order, and the CSV example has the columns that are described."""
    order = CONTRACT.target("#/components/schemas/Order")
    content = CONTRACT.target("#/paths/~1orders~1export/get/responses/200/content").value
    lines = content["application/x-ndjson"]["examples"]["lines"]["value"].splitlines()
    assert [SCHEMAS.faults(order, read_json(line)) for line in lines] == [[]] * len(lines)
    text = content["text/csv"]
    head, *_ = text["examples"]["table"]["value"].splitlines()
    columns = json.loads(f"[{head}]")
    described = text["schema"]["description"].partition("\n\n")[0]
    assert re.findall(r"`([a-z_]+)`", described) == columns


def test_operation_ids_are_unique_and_every_link_names_an_operation() -> None:
    """Generated clients name functions by them, and stateful fuzzing follows the links."""
    named = [operation.get("operationId") for _, _, operation in operations(CONTRACT)]
    assert len(set(named)) == len(named)
    links = CONTRACT.members("components")["links"].value
    assert {link["operationId"] for link in links.values()} <= set(named)


def test_the_parameters_of_a_link_exist_in_its_operation() -> None:
    """A link whose parameter has another name would silently lead to another operation."""
    of_operation = {
        operation.get("operationId"): {
            f"{parameter.get('in')}.{parameter.get('name')}"
            for holder in (CONTRACT.members("paths")[path], operation)
            for parameter in holder.members("parameters").values()
        }
        for path, _, operation in operations(CONTRACT)
    }
    for name, link in CONTRACT.members("components")["links"].value.items():
        assert set(link.get("parameters", {})) <= of_operation[link["operationId"]], name


def test_the_body_of_a_link_is_one_that_its_operation_accepts() -> None:
    """With the values of each example of the response that has the link."""
    by_id = {operation.get("operationId"): operation for _, _, operation in operations(CONTRACT)}
    responses = [answer for operation in by_id.values() for answer in operation.members("responses").values()]
    checked = set()
    for response in responses:
        for link in response.members("links").values():
            if link.get("x-request-body") is None:
                continue
            body = by_id[link.get("operationId")].child("requestBody")
            assert body is not None
            schema = media_types(body)["application/json"].child("schema")
            assert schema is not None
            for media_type in media_types(response).values():
                for example in media_type.members("examples").values():
                    sent = _evaluated(link.get("x-request-body"), example.get("value"))
                    assert SCHEMAS.faults(schema, sent) == []
                    checked.add(link.get("operationId"))
    assert checked == {"updateOrders", "cancelOrders", "deleteOrders"}


def _evaluated(value: Any, response: Any) -> Any:
    """Replace the runtime expressions in a link's body by what they name in the body of a response."""
    if isinstance(value, dict):
        return {name: _evaluated(member, response) for name, member in value.items()}
    if isinstance(value, list):
        return [_evaluated(item, response) for item in value]
    if isinstance(value, str) and value.startswith("$response.body#/"):
        for name in value.removeprefix("$response.body#/").split("/"):
            response = response[int(name) if isinstance(response, list) else name]
        return response
    return value


def test_every_problem_type_in_an_answer_has_a_page_and_every_page_a_type() -> None:
    """``type`` resolves: its slug is one that ``/problems/{slug}`` knows."""
    schemas = CONTRACT.members("components")["schemas"].value
    used = {
        schema["properties"]["type"]["const"].removeprefix("/problems/")
        for schema in schemas.values()
        if is_problem(schema)
    }
    assert used == set(schemas["ProblemSlug"]["enum"])


def test_every_answer_has_a_request_id_and_every_error_body_is_a_problem() -> None:
    """For every operation of the contract."""
    for path, method, operation in operations(CONTRACT):
        for status, response in operation.members("responses").items():
            where = f"{method} {path} {status}"
            assert "X-Request-Id" in response.members("headers"), where
            if int(status) >= 400 and method != "head":
                assert list(response.members("content")) == ["application/problem+json"], where
        assert {"400", "500"} <= set(operation.members("responses")), path


def test_the_patterns_of_times_and_days_match_exactly_the_dates_that_exist() -> None:
    """Every day of 200 years, and no date that does not exist."""
    time, day = (
        re.compile(CONTRACT.target(f"#/components/schemas/{name}").get("pattern")) for name in ("Time", "Day")
    )
    days_of = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    for year in (*range(1970, 2101), 2196, 2199):
        leap = (year % 4 == 0 and year % 100 != 0) or year % 400 == 0
        for month, days in enumerate(days_of, start=1):
            last = days + (leap and month == 2)
            for number in (0, 1, 9, 10, 19, 20, *range(28, 33)):
                text = f"{year}-{month:02}-{number:02}"
                exists = 1 <= number <= last
                assert bool(day.search(text)) == exists, text
                assert bool(time.search(f"{text}T23:59:59.999000+05:30")) == exists, text
    for text in ("1969-12-31", "2200-01-02", "2022-00-01", "2022-13-01", "2022-1-01"):
        assert not day.search(text), text
    for clock in (
        "T24:00:00Z",
        "T23:60:00Z",
        "T23:59:60Z",
        "T23:59:59",
        "t23:59:59z",
        "T23:59:59.Z",
        "T00:00:00.1234567Z",
    ):
        assert not time.search(f"2022-11-01{clock}"), clock


FEES = ("0", "0.07", "0.29", "19.99", "1e2", "100.500", "-0", "9999999999.99")
INVALID_FEES = ("9999999999.991", "1e10", "10.005", "-0.01", "1e-3", "1e300", '"1"', "true", "null")


@pytest.mark.parametrize(
    ("literal", "fits"), [*((fee, True) for fee in FEES), *((other, False) for other in INVALID_FEES)]
)
def test_fees_are_validated_as_decimals(literal: str, *, fits: bool) -> None:
    """Validators on binary floats refuse 0.07."""
    fee = CONTRACT.target("#/components/schemas/Fee")
    assert (SCHEMAS.faults(fee, read_json(literal)) == []) is fits


def test_parameters_are_parsed_as_the_type_of_their_schema() -> None:
    """Text that cannot be parsed stays text, which then does not match the schema."""
    limit = CONTRACT.target("#/components/parameters/Limit/schema")
    assert [read_text(limit, text) for text in ("50", "050", "5.0", "ten", "")] == [
        50,
        "050",
        "5.0",
        "ten",
        "",
    ]
    assert read_text(Place({}, "#", {"type": "number"}), "0.10") == Decimal("0.10")


def test_linting_the_contract_without_node_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The linters are the only part that needs node."""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert lint.main() == 2
    assert "linting the contract needs node" in capsys.readouterr().err


@pytest.mark.parametrize("lock", [lint.LOCK, clients.HERE / "package-lock.json"], ids=["linters", "clients"])
def test_a_lock_of_node_has_integrity_hashes_and_no_registry_address(lock: Path) -> None:
    """Every package has a hash, and no package an address to download it from."""
    packages = json.loads(lock.read_text())["packages"]
    del packages[""]
    assert packages
    assert [name for name, package in packages.items() if "integrity" not in package] == []
    assert [name for name, package in packages.items() if "resolved" in package] == []


def test_the_contract_can_be_written_as_json() -> None:
    """It uses nothing that only YAML has: dates are text, keys are strings."""
    assert json.loads(json.dumps(CONTRACT.root, default=float))["openapi"] == "3.1.0"
    keys = {
        type(key) for place in places(CONTRACT) if isinstance(place.value, Mapping) for key in place.value
    }
    assert keys == {str}
