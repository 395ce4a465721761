"""Regressions: each fault that a fuzzer reported, as a test of its own.

``make fuzz`` and tests/test_schema_parity.py would find these again; here they have names.
"""

from __future__ import annotations

import json
import re
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
import yaml
from litestar.testing import RequestFactory
from requests.structures import CaseInsensitiveDict
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation import GenerationMode
from schemathesis.generation.meta import (
    CaseMetadata,
    ComponentInfo,
    GenerationInfo,
    PhaseInfo,
    TestPhase,
    build_phase_data,
)

from api.http.callers import ANYONE
from api.http.idempotency import read_idempotency_key
from api.http.json_text import read_json
from api.orders.bodies import NewOrder
from contract.checks.document import media_types
from tests import fuzz_hooks
from tests.builders import order_body
from tests.contract_schemas import CONTRACT, SCHEMAS

if TYPE_CHECKING:
    from tests.drivers import Api

NINETEEN_DIGITS = "1000000000000000000"
"""It fits the column, and is one digit longer than the contract's ids."""


@pytest.mark.parametrize("path", ["/orders", "/orders/batch", "/services/1", "/docs"])
def test_an_options_request_ignores_its_query(api: Api, path: str) -> None:
    """Coverage phase: 400 for `OPTIONS /orders?…`, where the contract promises 204 on every path."""
    answer = api.client.options(path, params={"no_such": "1"})
    assert answer.status_code == 204
    assert "OPTIONS" in answer.headers["Allow"]


@pytest.mark.parametrize("key", ["\n", "a b", '"', "é", "\x90\x13", "%", "#", "~/"])
def test_the_pointer_to_a_fault_is_a_valid_uri_fragment_for_every_key(api: Api, key: str) -> None:
    """Fuzzing phase: a key with a line feed came back raw in `pointer` (RFC 6901, section 6 encodes it)."""
    answer = api.client.post("/orders", json={**order_body(), key: 1})
    assert answer.status_code == 422
    (fault,) = answer.json()["errors"]
    assert re.fullmatch(r"#/([!$&-.0-;=?-Z_a-z~]|%[0-9A-F]{2})+", fault["pointer"])
    assert SCHEMAS.faults(CONTRACT.target("#/components/schemas/Faults"), [fault]) == []


@pytest.mark.parametrize("service", [NINETEEN_DIGITS, int(NINETEEN_DIGITS)])
def test_a_service_id_of_nineteen_digits_is_refused(api: Api, service: int | str) -> None:
    """Fuzzing phase: read as an id, so orders were refused for their place (409), not their form."""
    api.placed_order()
    answer = api.place_order(services=(service,))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/services/0/id"
    assert "must be an id" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/orders/{}", "/services/{}", "/orders?service={}"])
def test_an_order_id_of_nineteen_digits_in_a_path_is_refused(api: Api, path: str) -> None:
    """As in bodies: `Id` has at most 18 digits everywhere."""
    assert api.client.get(path.format(NINETEEN_DIGITS)).status_code == 400
    assert api.client.get(path.format("9" * 18)).status_code in (200, 404)


def test_the_contract_describes_its_own_yaml_answer_as_an_object(api: Api) -> None:
    """Examples phase: it described a string, and readers of `application/yaml` get an object."""
    answer = api.client.get("/openapi.yaml")
    promised = CONTRACT.target("#/paths/~1openapi.yaml/get/responses/200/content/application~1yaml/schema")
    assert answer.headers["Content-Type"].startswith("application/yaml")
    assert SCHEMAS.faults(promised.followed(), yaml.load(answer.content, Loader=yaml.CSafeLoader)) == []


@pytest.mark.parametrize(("day", "status"), [("2200-01-01", 200), ("2200-01-02", 400), ("2200-12-31", 400)])
def test_a_summary_day_is_at_most_the_day_after_the_last_possible_order(
    api: Api, day: str, status: int
) -> None:
    """Schema parity: every day of 2200 was accepted, where the contract ends with its first."""
    assert api.client.get("/fee-summaries", params={"to": day}).status_code == status


def test_a_keyed_create_is_fingerprinted_without_a_warning() -> None:
    """In-process fuzzing: pydantic warned each time, as it had not built the values that it serialised."""
    request = RequestFactory().post("/orders", headers={"Idempotency-Key": "a"})
    request.scope["caller"] = ANYONE  # type: ignore[typeddict-unknown-key]  # a key of our own
    spelt = [json.dumps(order_body(services=(service,))).encode() for service in (123, "123")]
    bodies = [NewOrder.model_validate(read_json(text), strict=True) for text in spelt]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (read_idempotency_key(request, "createOrder", body) for body in bodies)
    assert first is not None
    assert first == second


@pytest.mark.parametrize(
    ("query", "sent"), [({"after": 5}, {"after", "no-such-parameter"}), ({"x": 1}, {"x"})]
)
def test_an_invalid_request_from_the_fuzzer_stays_invalid_when_a_link_adds_its_query(
    query: dict[str, Any], sent: set[str]
) -> None:
    """Stateful phase: a link's query replaced the one with the unknown parameter, so 200 seemed wrong."""
    schema = schemathesis.openapi.from_dict(json.loads(json.dumps(CONTRACT.root, default=float)))
    negative = GenerationMode.NEGATIVE
    wrong = build_phase_data(
        TestPhase.STATEFUL,
        "Violates `additionalProperties`",
        parameter_location=ParameterLocation.QUERY,
    )
    operation = schema["/order-changes"]["GET"]
    case = schemathesis.Case(
        operation,
        method="GET",
        path="/order-changes",
        query=query,
        meta=CaseMetadata(
            generation=GenerationInfo(time=0, mode=negative),
            components={ParameterLocation.QUERY: ComponentInfo(mode=negative)},
            phase=PhaseInfo(name=TestPhase.STATEFUL, data=wrong),
        ),
    )
    fuzz_hooks.before_call(schemathesis.HookContext(operation=operation), case, {})
    assert set(case.query) == sent


def test_a_cursor_of_other_free_times_is_answered_as_the_contract_says(api: Api) -> None:
    """Coverage phase: `invalid-cursor`, where the contract had only `malformed-request`."""
    at = {"from": "2022-11-01T00:00:00Z", "cursor": "x"}
    answer = api.client.get("/calendars/default/availability", params=at)
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-cursor")
    response = CONTRACT.target("#/paths/~1calendars~1{calendar}~1availability/get/responses/400").followed()
    schema = media_types(response)["application/problem+json"].child("schema")
    assert schema is not None
    assert SCHEMAS.faults(schema, answer.json()) == []


def test_a_valid_request_from_the_fuzzer_stays_valid_whoever_sends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Coverage phase: `If-Match: 0` made it invalid once its key was set, and 401 seemed wrong."""
    monkeypatch.setattr(fuzz_hooks, "GUARDED", True)
    schema = schemathesis.openapi.from_dict(json.loads(json.dumps(CONTRACT.root, default=float)))
    positive = GenerationMode.POSITIVE
    operation = schema["/orders/{order_id}"]["DELETE"]
    for order_id in ("300", "301", "302", "303"):  # sent by different callers
        case = schemathesis.Case(
            operation,
            method="DELETE",
            path="/orders/{order_id}",
            path_parameters={"order_id": order_id},
            headers=CaseInsensitiveDict({"If-Match": "0"}),
            meta=CaseMetadata(
                generation=GenerationInfo(time=0, mode=positive),
                components={ParameterLocation.HEADER: ComponentInfo(mode=positive)},
                phase=PhaseInfo(name=TestPhase.FUZZING, data=build_phase_data(TestPhase.FUZZING, "")),
            ),
        )
        fuzz_hooks.before_call(schemathesis.HookContext(operation=operation), case, {})
        assert "If-Match" not in case.headers
        assert case.meta is not None
        assert case.meta.generation.mode.is_positive
