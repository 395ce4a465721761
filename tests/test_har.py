"""Recordings of traffic against the contract: matching traffic passes, every deviation is reported."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contract.checks.document import Place, load
from contract.checks.har import TrafficCheck, main
from contract.checks.recording import NotARecordingError, read_recording
from tests.contract_schemas import CONTRACT

Entry = dict[str, Any]
ADDRESS = "http://127.0.0.1:8000"
REQUEST_ID = {"name": "X-Request-Id", "value": "019abf8e-6f0c-7f3a-9d2b-5b1f0e6c2a11"}


@pytest.fixture(scope="module")
def contract() -> Place:
    """The real contract."""
    return load()


@pytest.fixture(scope="module")
def check(contract: Place) -> TrafficCheck:
    """A check of traffic against the real contract."""
    return TrafficCheck(contract)


def exchange(
    request: str,
    status: int,
    answer: object = None,
    body: object = None,
    headers: dict[str, str] | None = None,
) -> Entry:
    """An exchange as a recorder writes it: ``exchange("GET /orders/9", 404, NOT_FOUND)``."""
    method, path = request.split(" ")
    kind = "application/json" if status < 400 else "application/problem+json"
    sent = (
        {"postData": {"mimeType": "application/json", "text": json.dumps(body)}} if body is not None else {}
    )
    given = {"mimeType": kind, "text": json.dumps(answer)} if answer is not None else {}
    return {
        "request": {
            "method": method,
            "url": ADDRESS + path,
            "headers": [{"name": "content-type", "value": "application/json"}] if body is not None else [],
            **sent,
        },
        "response": {
            "status": status,
            "headers": [
                REQUEST_ID,
                *({"name": name, "value": value} for name, value in (headers or {}).items()),
            ],
            "content": given,
        },
    }


def deviations_in(check: TrafficCheck, entry: Entry) -> list[str]:
    """Return the deviations in an exchange."""
    recording = json.dumps({"log": {"entries": [entry]}})
    return [
        f"{deviation.side}: {deviation.text}"
        for one in read_recording(recording, ADDRESS)
        for deviation in check.deviations(one)
    ]


ORDER = CONTRACT.target("#/components/examples/SampleOrder").get("value") | {"totalfee": 0.07}
PLACED = {"totalfee": 0.07, "services": [{"id": "123"}, {"id": 456}], "datetime": "2024-02-29T23:59:59+05:30"}
MADE = {"ETag": '"1"', "Location": "/orders/223"}
NOT_FOUND = {
    "type": "/problems/not-found",
    "title": "Not found",
    "status": 404,
    "detail": "There is no order 9.",
    "instance": "/orders/9",
    "request_id": REQUEST_ID["value"],
}


def test_traffic_that_matches_the_contract_has_no_deviation(check: TrafficCheck) -> None:
    """Reads, writes, errors, HEAD and OPTIONS; amounts that binary floats would misjudge."""
    for entry in (
        exchange(
            "GET /orders?limit=1&sort=-datetime",
            200,
            {"items": [ORDER], "next": "/orders?cursor=a", "next_cursor": "a"},
        ),
        exchange(
            "GET /orders?from=2022-11-01T00:00:00%2B05:30",
            200,
            {"items": [], "next": None, "next_cursor": None},
        ),
        exchange("POST /orders?dry_run=false", 201, ORDER, PLACED, MADE),
        exchange("GET /orders/223", 200, ORDER, headers={"etag": '"1"'}),
        exchange("GET /orders/9", 404, NOT_FOUND),
        exchange("HEAD /orders/9", 404),
        exchange("HEAD /services", 200),
        exchange("OPTIONS /orders", 204),
        exchange("DELETE /orders/223", 204),
    ):
        assert deviations_in(check, entry) == [], entry["request"]


def test_the_media_type_of_a_recorded_stream_is_checked(check: TrafficCheck) -> None:
    """The lines of its body are not checked."""
    name = {"content-disposition": 'attachment; filename="orders.csv"'}
    entry = exchange("GET /orders/export", 200, headers=name)
    entry["response"]["content"] = {"mimeType": "text/csv; charset=utf-8", "text": "id,datetime\r\n"}
    assert deviations_in(check, entry) == []


REQUESTS: dict[str, tuple[Entry, str]] = {
    "the path does not exist": (exchange("GET /customers", 404, NOT_FOUND), "the contract has no such path"),
    "the method does not exist": (
        exchange("DELETE /orders", 405, NOT_FOUND | {"type": "/problems/method-not-allowed", "status": 405}),
        "/orders does not have the method DELETE; it has GET, POST",
    ),
    "a query parameter is unknown": (
        exchange("GET /health/live?x=1", 400),
        "the query parameter x is unknown",
    ),
    "a query parameter appears twice": (
        exchange("GET /orders?limit=1&limit=2", 400),
        "the query parameter limit appears twice",
    ),
    "a member of an object in the query appears twice": (
        exchange("GET /orders?metadata[a]=1&metadata%5Ba%5D=2", 400),
        "the query parameter metadata[a] appears twice",
    ),
    "an object in the query has an invalid member": (
        exchange("GET /orders?metadata[%20a]=1", 400),
        "the query parameter metadata",
    ),
    "only some parameters are objects": (
        exchange("GET /orders?limit[a]=1", 400),
        "the query parameter limit[a] is unknown",
    ),
    "a query parameter is out of its bounds": (
        exchange("GET /orders?limit=101", 400),
        "query parameter limit: 101",
    ),
    "a query parameter has another type": (
        exchange("GET /orders?limit=ten", 400),
        "query parameter limit: 'ten'",
    ),
    "a query parameter is missing": (
        exchange("GET /calendars/default/availability?to=2022-11-01T00:00:00Z", 400),
        "the query parameter from is missing",
    ),
    "an id in the path is invalid": (exchange("GET /orders/0", 400), "path parameter order_id: '0'"),
    "a body is missing": (exchange("POST /orders", 400), "the body is missing"),
    "a member is missing": (
        exchange("POST /orders", 422, body={"totalfee": 1}),
        "the body: # 'services' is a required",
    ),
    "a member is unknown": (
        exchange("POST /orders", 422, body=PLACED | {"colour": "red"}),
        "('colour' was unexpected)",
    ),
    "a fee has three decimals": (
        exchange("POST /orders", 422, body=PLACED | {"totalfee": 10.005}),
        "#/totalfee 10.005",
    ),
    "a fee is too high": (
        exchange("POST /orders", 422, body=PLACED | {"totalfee": 1e10}),
        "#/totalfee 10000000000.0 is greater than the maximum of 9999999999.99",
    ),
    "a time has no zone": (
        exchange("POST /orders", 422, body=PLACED | {"datetime": "2024-02-29T00:00:00"}),
        "#/datetime",
    ),
    "a day does not exist": (
        exchange("POST /orders", 422, body=PLACED | {"datetime": "2023-02-29T00:00:00Z"}),
        "#/datetime",
    ),
    "a service appears twice": (
        exchange("POST /orders", 422, body=PLACED | {"services": [{"id": "1"}, {"id": "1"}]}),
        "#/services",
    ),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_a_recorded_request_that_deviates_from_the_contract_is_reported(
    check: TrafficCheck, what: str
) -> None:
    """It is reported even if the service accepted it."""
    entry, text = REQUESTS[what]
    assert any(line.startswith("request: ") and text in line for line in deviations_in(check, entry)), (
        deviations_in(check, entry)
    )


def edit(part: str, *keys: str | int, to: object) -> Callable[[Entry], None]:
    """Change one part of an exchange."""

    def change(entry: Entry) -> None:
        holder = entry[part]
        for key in keys[:-1]:
            holder = holder[key]
        holder[keys[-1]] = to

    return change


RESPONSES: dict[str, tuple[Callable[[Entry], None], str]] = {
    "the status is not in the contract": (
        edit("response", "status", to=418),
        "the status 418 is not in the contract",
    ),
    "a header is missing": (edit("response", "headers", to=[REQUEST_ID]), "the header ETag is missing"),
    "a header is malformed": (
        edit("response", "headers", 1, "value", to='W/"1"'),
        "the header ETag: 'W/\"1\"'",
    ),
    "the media type is another": (
        edit("response", "content", to={"mimeType": "text/html", "text": "<p>"}),
        "the media type text/html is not in the contract; application/json are",
    ),
    "the body is not JSON": (edit("response", "content", "text", to="{"), "the body is not JSON"),
    "a member appears twice": (
        edit("response", "content", "text", to='{"id":"1","id":"1"}'),
        "a member appears twice",
    ),
    "an id is a number": (
        edit("response", "content", "text", to=json.dumps(ORDER | {"id": 223})),
        "#/id 223 is not of type 'string'",
    ),
    "a time is not in UTC": (
        edit(
            "response",
            "content",
            "text",
            to=json.dumps(ORDER | {"datetime": "2022-11-01T11:11:11.111+01:00"}),
        ),
        "#/datetime",
    ),
    "a member was not promised": (
        edit("response", "content", "text", to=json.dumps(ORDER | {"import_id": 3})),
        "('import_id' was unexpected)",
    ),
}


@pytest.mark.parametrize("what", RESPONSES)
def test_a_recorded_response_that_deviates_from_the_contract_is_reported(
    check: TrafficCheck, what: str
) -> None:
    """With the place and the reason."""
    change, text = RESPONSES[what]
    entry = exchange("GET /orders/223", 200, ORDER, headers={"ETag": '"1"'})
    change(entry)
    assert any(line.startswith("response: ") and text in line for line in deviations_in(check, entry)), (
        deviations_in(check, entry)
    )


def test_a_problem_type_must_belong_to_the_status_of_the_answer(check: TrafficCheck) -> None:
    """A 404 with the problem of a 409 deviates."""
    entry = exchange("GET /orders/9", 404, NOT_FOUND | {"type": "/problems/order-id-taken"})
    assert deviations_in(check, entry) == ["response: the body: #/type '/problems/not-found' was expected"]


def test_a_uri_reference_must_not_contain_control_characters(check: TrafficCheck) -> None:
    """``instance`` repeats the path as it was sent, percent-encoded."""
    entry = exchange("GET /orders/9", 404, NOT_FOUND | {"instance": "/orders/\u0084"})
    assert len(deviations_in(check, entry)) == 1
    entry = exchange("GET /orders/9", 404, NOT_FOUND | {"instance": "/orders/%C2%84"})
    assert deviations_in(check, entry) == []


def test_a_deviating_problem_is_compared_with_the_most_similar_schema(check: TrafficCheck) -> None:
    """A 409 may be one of two; the deviation is reported for the one that it nearly is."""
    taken = NOT_FOUND | {"type": "/problems/order-id-taken", "status": 409, "detail": ""}
    assert deviations_in(check, exchange("POST /orders", 409, taken, PLACED)) == [
        "response: the body: #/detail '' should be non-empty"
    ]


def test_a_body_after_head_or_204_is_a_deviation(check: TrafficCheck) -> None:
    """Such an answer has no body."""
    assert deviations_in(
        check, exchange("HEAD /orders", 200, {"items": [], "next": None, "next_cursor": None})
    ) == ["response: there is a body where the contract has none"]
    assert deviations_in(check, exchange("DELETE /orders/1", 204, {})) == [
        "response: there is a body where the contract has none"
    ]


def test_a_body_recorded_in_base64_is_checked(check: TrafficCheck) -> None:
    """Some recorders store bodies this way."""
    entry = exchange("GET /orders/223", 200, headers={"ETag": '"1"'})
    text = base64.b64encode(json.dumps(ORDER | {"id": "0"}).encode()).decode()
    entry["response"]["content"] = {"mimeType": "application/json", "text": text, "encoding": "base64"}
    assert deviations_in(check, entry)[0].startswith("response: the body: #/id '0' does not match")


def test_missing_parts_of_a_recording_are_not_checked(check: TrafficCheck) -> None:
    """A recorder may leave bodies out, and a request may have had no answer."""
    entry = exchange("GET /orders/223", 200, headers={"ETag": '"1"'})
    entry["response"]["content"] = {"mimeType": "application/json", "size": 200}
    assert deviations_in(check, entry) == []
    assert deviations_in(check, exchange("GET /orders/223", 0)) == []


def test_refused_requests_may_deviate_from_the_contract_when_allowed(contract: Place) -> None:
    """A test suite sends invalid requests on purpose; one that is accepted is still a deviation."""
    lenient = TrafficCheck(contract, allow_refused=True)
    assert deviations_in(lenient, exchange("GET /customers", 404, NOT_FOUND)) == []
    assert deviations_in(
        lenient, exchange("GET /orders?limit=0", 200, {"items": [], "next": None, "next_cursor": None})
    ) == ["request: the query parameter limit: 0 is less than the minimum of 1"]


def test_only_requests_to_the_named_server_are_checked_and_its_path_prefix_is_ignored() -> None:
    """A browser's recording has traffic with other servers too."""
    entries = [exchange("GET /oms/orders", 200), exchange("GET /omsx/orders", 200), exchange("GET /", 200)]
    recording = json.dumps({"log": {"entries": entries}})
    assert [(one.number, one.path) for one in read_recording(recording, f"{ADDRESS}/oms/")] == [
        (1, "/orders")
    ]


INVALID_BASE64 = exchange("GET /orders", 200, {"items": [], "next": None, "next_cursor": None})
INVALID_BASE64["response"]["content"] |= {"encoding": "base64", "text": "no base64"}


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{}",
            "[]",
            "[" * 100_000,
            '{"log": {}}',
            '{"log": {"entries": null}}',
            '{"log": {"entries": 5}}',
        ),
        *(
            '{"log": {"entries": [null]}}',
            '{"log": {"entries": [{}]}}',
            '{"log": {"entries": [{"request": 1}]}}',
        ),
        json.dumps({"log": {"entries": [INVALID_BASE64]}}),
    ],
    ids=lambda text: text[:40],
)
def test_a_file_that_is_not_a_recording_is_an_error(text: str) -> None:
    """An error, rather than a pass."""
    with pytest.raises(NotARecordingError):
        read_recording(text)


def test_the_exit_status_of_the_recording_check_distinguishes_success_deviations_and_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0: matches; 1: deviations were reported; 2: nothing could be checked."""
    file = tmp_path / "traffic.har"
    file.write_text(
        json.dumps(
            {
                "log": {
                    "entries": [
                        exchange("GET /orders", 200, {"items": [], "next": None, "next_cursor": None})
                    ]
                }
            }
        )
    )
    assert main([str(file)]) == 0
    assert main([str(file), "--server", "http://elsewhere"]) == 2
    file.write_text(
        json.dumps({"log": {"entries": [exchange("GET /orders?page=2", 200, {"items": [], "next": None})]}})
    )
    capsys.readouterr()
    assert main([str(file), "--server", ADDRESS]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "entry 1  GET /orders -> 200  request: the query parameter page is unknown",
        "entry 1  GET /orders -> 200  response: the body: # 'next_cursor' is a required property",
        "1 exchange(s) checked, 2 deviation(s).",
    ]
    file.write_text("no recording")
    assert main([str(file)]) == 2


def test_the_documentations_own_files_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A browser that shows /docs loads them; /docs itself is checked."""
    files = ("swagger-ui.css", "swagger-ui-bundle.js", "start.js", "favicon-32x32.png")
    entries = [exchange(f"GET /docs/{name}", 200) for name in files]
    page = exchange("GET /docs", 200)
    page["response"]["content"] = {"mimeType": "text/html; charset=utf-8", "text": "<!doctype html>"}
    file = tmp_path / "traffic.har"
    file.write_text(json.dumps({"log": {"entries": [*entries, page, exchange("GET /favicon.ico", 404)]}}))
    assert main([str(file)]) == 0
    assert capsys.readouterr().out == "1 exchange(s) checked, 0 deviation(s).\n"


def test_only_a_list_parameter_may_be_repeated(check: TrafficCheck) -> None:
    """Each of its values is checked, and the list as a whole."""

    def deviations_of(query: str) -> list[str]:
        text = json.dumps({"log": {"entries": [exchange(f"GET /fee-summaries?{query}", 401)]}})
        return [
            str(one)
            for e in read_recording(text, ADDRESS)
            for one in check.deviations(e)
            if "parameter" in str(one)
        ]

    assert deviations_of("service=1&service=2&by=calendar&by=service") == []
    assert len(deviations_of("service=1&service=1")) == 1
    assert len(deviations_of("service=1&service=x")) == 1
    assert len(deviations_of("limit=1&limit=2")) == 1
