"""What schemathesis can't know about this service: which services exist, and why valid requests are refused.

``schemathesis.toml`` names this module. Nothing here is random: all depends on the request alone.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import zlib
from typing import TYPE_CHECKING, Any

import schemathesis
import yaml
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.coverage import _schema as coverage

from contract.checks.validation import read_json
from tests.builders import SERVICE_IDS
from tests.contract_schemas import CONTRACT, SCHEMAS

if TYPE_CHECKING:
    from schemathesis import Case, CheckContext, DeserializationContext, HookContext, Response

ORDER = CONTRACT.target("#/components/schemas/Order")
ENTITY_TAGS = CONTRACT.target("#/components/schemas/EntityTags")

REASONS = {
    ("from", "must not be later than to"),
    ("to", "must be at most 32 days after from"),
    ("#/id", r"must be \d+, as in the path"),
    ("#/(name|title)", "must contain only characters that can be seen"),
    # No pattern can compare durations, and no schema a member with the path.
    ("#/spacing", "must be from one minute to seven days"),
    ("#/name", "must be .*, as in the path|there is a calendar .*; a name may not differ only in case"),
    (r"#(/orders/\d+)?/calendar", "there is a calendar .*; a name may not differ only in case"),
    ("position", "can't be combined with min_position or after_version"),
    ("bom", "has no meaning with application/x-ndjson"),
    ("fill", r"zero would make [\d,]+ items"),
    ("#/orders", "must not use an? (id|reference) for two orders|must name each order once"),
    # The members of a body that must be the order's own, and what the pattern of a text leaves out.
    ("#/status", "must be (booked|cancelled), as the order's"),
    (
        "#/reason|Change-Reason",
        "must (not be blank|contain only|not begin or end)|is not the reason in the body",
    ),
    (r"#(/orders/\d+)?/services", "must name each service once"),
    (r"#(/orders/\d+)?/services/\d+/id", r"there is no service \d+|service \d+ \(.*\) is archived"),
    (r"#(/orders/\d+)?/datetime|from|to|created_after|updated_after", "must be between 1970"),
    # A pattern can't have the characters beyond U+FFFF.
    ("reference", "must contain only characters that can be seen"),
    (r"metadata\[.*\]", "(its key )?must contain only characters that can be seen"),
    # The contract says it in words: `multipleOf: 0.01` refuses 0.07 in validators on binary floats.
    (r"#(/orders/\d+)?/totalfee", "must have at most two decimals"),
    # Ports and addresses depend on the deployment, and no pattern describes IPv6 addresses.
    (
        "#/url",
        r"must (not use port|name a host|have an IPv6|write an IPv4|be a URL such as)|.* is (not|never) ",
    ),
}
"""Why a request that matches its schema may be refused: place and beginning of the detail, as patterns."""


# What matches the pattern of an order's datetime never violates the format `date-time` alone. schemathesis
# 4.32 recognises that for dates; here it searched 5 s for each member and found nothing.
_SOUND = ("2024-02-29T23:59:59Z", "2024-01-31T10:20:30.123456+05:30")
_NEAR_MISSES = (
    *(f"{date}T10:20:30Z" for date in ("2024-13-01", "2024-00-10", "2024-01-00", "2023-02-29", "2024-1-01")),
    *(f"2024-01-31T{time}Z" for time in ("24:20:30", "10:60:30", "10:20:61", "1:20:30", "10:20")),
    *(f"2024-01-31T10:20:30{end}" for end in ("", "Zx", "+24:00", "+05:60", "+0530")),
    "x2024-01-31T10:20:30Z",
)
coverage._FORMAT_PROBES.setdefault("date-time", (_SOUND, _NEAR_MISSES))

_attempts = itertools.count(1)

GUARDED = os.environ.get("ORDERS_FUZZED_AS") == "guarded"
"""Whether the service that is fuzzed asks for keys, and for If-Match (``tests.fuzz.GUARDED``)."""

MEANS_A_VERSION = {
    ("PUT", "/orders/{order_id}"),
    ("PATCH", "/orders/{order_id}"),
    ("DELETE", "/orders/{order_id}"),
    ("POST", "/orders/{order_id}/cancel"),
    ("POST", "/orders/{order_id}/reinstate"),
}
MEANS_VERSIONS = {
    ("PATCH", "/orders/batch"),
    ("POST", "/orders/batch/cancel"),
    ("POST", "/orders/batch/delete"),
}


def _lacks_a_version(case: Case[Any], *, has_if_match: bool) -> bool:
    if (case.method, case.path) in MEANS_VERSIONS:
        orders: Any = case.body.get("orders", ()) if isinstance(case.body, dict) else ()
        return any(order.get("version") is None for order in orders if isinstance(order, dict))
    return (case.method, case.path) in MEANS_A_VERSION and not has_if_match


def _send_a_key(case: Case[Any]) -> None:
    """Send valid requests as any caller; send all others as one who may do everything.

    Only then is an invalid request refused for its own faults, and a sequence followed to its end.
    """
    sound = case.meta is not None and case.meta.generation.mode.is_positive
    if sound and case.meta is not None and case.meta.phase.name != "stateful":
        drawn = zlib.crc32(repr((case.path, case.method, case.query, case.body, dict(case.headers))).encode())
        caller = ("nobody", "stranger", "reader")[drawn % 8] if drawn % 8 < 3 else "writer"
    else:
        caller = "writer"
        if (case.method, case.path) in MEANS_A_VERSION and "If-Match" not in case.headers:
            case.headers["If-Match"] = "*"
    case.headers.pop("Authorization", None)
    if caller != "nobody":
        case.headers["Authorization"] = f"Bearer the key of the {caller}"


def _keep_invalid_cases_invalid(case: Case[Any]) -> None:
    """Restore the unknown parameter that a case is to be refused for, where it got lost.

    A link's values take the place of the query that was drawn (schemathesis 4.32), and the case still
    counts as invalid.
    """
    if case.meta is None or case.meta.generation.mode.is_positive:
        return
    wrong = case.meta.phase.data
    known = {parameter.name for parameter in case.operation.query}
    if (
        wrong.parameter_location == ParameterLocation.QUERY
        and "additionalProperties" in (wrong.description or "")
        and known.issuperset(case.query)
    ):
        case.query["no-such-parameter"] = "1"


@schemathesis.hook
def before_call(_context: HookContext, case: Case[Any], _kwargs: dict[str, Any]) -> None:
    """Let half of the valid requests get further than random values would.

    Drawn at random, an order names no existing service and a cursor is not one of ours, so the code behind
    those checks would hardly be reached.
    """
    if GUARDED:
        _send_a_key(case)
    _keep_invalid_cases_invalid(case)
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    for name in ("If-Match", "If-None-Match"):
        # schemathesis 4.32 draws no valid header that needs more than letters and digits, and sends an
        # invalid one in requests that it counts as valid.
        if name in case.headers and SCHEMAS.faults(ENTITY_TAGS, case.headers[name]):
            del case.headers[name]
    if isinstance(case.body, dict) and "reason" in case.body:
        case.headers.pop("Change-Reason", None)  # two reasons would have to be the same
    for name, value in case.path_parameters.items():
        # schemathesis takes ids from earlier answers; the id in the answer to a dry run is null.
        if value in (None, "null"):
            case.path_parameters[name] = "1"
    # Valid but slow: the longest waits would use up the time, and nothing is written meanwhile.
    case.query.pop("wait", None)
    if case.operation.label in {f"GET /fee-summaries{path}" for path in ("", "/export", "/orders")}:
        case.query["wait"] = 0
    known = {str(service) for service in SERVICE_IDS}
    if case.operation.label == "DELETE /services/{service_id}" and set(case.path_parameters.values()) & known:
        # Services in use are not archived, or soon there would be nothing left to order.
        case.path_parameters["service_id"] = "1"
    _draw_further(case)


def _draw_further(case: Case[Any]) -> None:
    drawn = zlib.crc32(repr((case.method, case.path_parameters, case.query, case.body)).encode())
    if drawn % 2:
        _use_existing_ids(case, drawn)
        if "after" in case.query:
            case.query["after"] = 0
    if case.meta is not None and case.meta.phase.name == "stateful" and "Idempotency-Key" in case.headers:
        # A replayed create of an order deleted since creates nothing; schemathesis would then read the order.
        case.headers["Idempotency-Key"] = f"attempt-{next(_attempts)}"
    if case.operation.label == "GET /orders/export" and "format" not in case.query:
        case.headers["Accept"] = ("application/x-ndjson", "text/csv")[drawn % 2]


def _use_existing_ids(case: Case[Any], drawn: int) -> None:
    if case.meta is not None and case.meta.phase.name != "stateful":
        case.query.pop("cursor", None)
    body: Any = case.body
    if not isinstance(body, dict):
        return
    batch: Any = body.get("orders")
    if (case.method, case.path) in MEANS_VERSIONS and isinstance(batch, list):
        _use_each_order_once(batch, drawn)
    for index, order in enumerate(batch or [body]):
        if isinstance(order.get("totalfee"), float):
            order["totalfee"] = round(order["totalfee"], 2)
        if isinstance(order.get("services"), list):
            count = min(len(order["services"]), len(SERVICE_IDS))
            order["services"] = [{"id": str(service)} for service in SERVICE_IDS[:count]]
        if case.operation.label in ("POST /orders", "POST /orders/batch"):
            # A chosen id is soon taken, as is a place on a calendar that is drawn often.
            order.pop("id", None)
            order["calendar"] = f"crew-{drawn % 1000}-{index}"
    if case.method in ("PUT", "PATCH"):
        _use_its_own_id(case, body, drawn)


def _use_its_own_id(case: Case[Any], body: dict[str, Any], drawn: int) -> None:
    if case.path.startswith("/calendars/"):
        _use_a_valid_calendar(case, body, drawn)
    elif "id" in body:
        (body["id"],) = case.path_parameters.values()
    # A version that is drawn is hardly ever the current one.
    body.pop("version", None)


def _use_each_order_once(batch: list[Any], drawn: int) -> None:
    """Name the sample's orders, and the first that callers number."""
    for index, order in enumerate(batch):
        order["id"] = str((223, 224, 225, 1, 2, 3)[(drawn + index) % 6] + 1_000 * (index // 6))


def _use_a_valid_calendar(case: Case[Any], body: dict[str, Any], drawn: int) -> None:
    """Name the calendar as the path does, with a spacing that is possible: few durations are."""
    if "name" in body:
        (body["name"],) = case.path_parameters.values()
    if "spacing" in body:
        body["spacing"] = ("PT1M", "PT45M", "PT3H", "P1DT12H", "P7D")[drawn % 5]


@schemathesis.deserializer("application/yaml")
def _as_contract(_context: DeserializationContext, response: Response) -> Any:
    # With the loader in C: the other one takes a second for each answer.
    return yaml.load(response.content, Loader=yaml.CSafeLoader)


@schemathesis.deserializer("text/csv", "application/x-ndjson")
def _as_text(_context: DeserializationContext, response: Response) -> str:
    return response.content.decode()


@schemathesis.check
def a_valid_request_is_refused_only_for_reasons_that_no_schema_expresses(
    _context: CheckContext, response: Response, case: Case[Any]
) -> None:
    """Check that a request that matches its schema is refused for a known reason only."""
    meta = case.meta
    if meta is None or not meta.generation.mode.is_positive or response.status_code not in (400, 422):
        return
    if case.method == "HEAD":  # without content to check; the same request with GET has it
        return
    problem = json.loads(response.content)
    if problem["type"] == "/problems/invalid-cursor" and "cursor" in case.query:
        return
    if problem["type"] == "/problems/idempotency-key-reused" and "Idempotency-Key" in case.headers:
        return
    unknown = [fault for fault in problem.get("errors", [problem]) if not _is_known(fault)]
    if unknown:
        raise AssertionError(f"A request that fits its schema was refused: {json.dumps(unknown)}")


def _is_known(fault: dict[str, str]) -> bool:
    place = fault.get("pointer") or fault.get("parameter") or fault.get("header") or ""
    return any(re.fullmatch(where, place) and re.match(why, fault["detail"]) for where, why in REASONS)


@schemathesis.check
def keys_and_versions_are_required_exactly_where_they_must_be(
    _context: CheckContext, response: Response, case: Case[Any]
) -> None:
    """Check that 401, 403 and 428 are answered exactly where the deployment requires it."""
    sent = response.request.headers
    key = str(sent.get("Authorization", "")).removeprefix("Bearer the key of the ")
    wanted = None
    if GUARDED and case.operation.definition.raw.get("security") != []:
        if key not in ("reader", "writer"):
            wanted = 401
        elif key == "reader" and case.method not in ("GET", "HEAD", "OPTIONS"):
            wanted = 403
        elif _lacks_a_version(case, has_if_match="If-Match" in sent):
            wanted = 428
    if wanted is None and response.status_code in (401, 403, 428):
        raise AssertionError(f"{response.status_code} for {key or 'no key'}, which allows this")
    sound = case.meta is not None and case.meta.generation.mode.is_positive
    if wanted is not None and sound and response.status_code != wanted:
        raise AssertionError(f"{response.status_code} instead of {wanted} for {key or 'no key'}")


@schemathesis.check
def every_line_of_a_stream_is_an_order(_context: CheckContext, response: Response, _case: Case[Any]) -> None:
    """Check each line against the schema of an order: the schema of the whole stream cannot."""
    if not (response.headers.get("content-type") or [""])[0].startswith("application/x-ndjson"):
        return
    for line in response.content.decode().splitlines():
        faults = SCHEMAS.faults(ORDER, read_json(line))
        if faults:
            raise AssertionError(f"{line}: {faults}")
