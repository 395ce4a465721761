"""What schemathesis can't know about this service: which services exist, and why valid requests are refused.

``schemathesis.toml`` names this module. Nothing here is random: all depends on the request alone.
"""

from __future__ import annotations

import itertools
import json
import re
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import schemathesis
import yaml
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.coverage import _schema as coverage

from contract.checks.validation import read_json
from tests.builders import EXAMPLE_ORDERS, SERVICE_IDS
from tests.contract_schemas import CONTRACT, SCHEMAS
from tests.fuzz_access import GUARDED, VERSION_IN_BODY, orders_of, send_a_key

if TYPE_CHECKING:
    from schemathesis import (
        Case,
        CheckContext,
        DeserializationContext,
        HookContext,
        Response,
        SerializationContext,
    )

ORDER = CONTRACT.target("#/components/schemas/Order")
REASON = CONTRACT.target("#/components/schemas/ChangeReason")
ENTITY_TAGS = CONTRACT.target("#/components/schemas/EntityTags")
STRICT_HEADERS = {
    "If-Match": ENTITY_TAGS,
    "If-None-Match": ENTITY_TAGS,
    "Read-After": CONTRACT.target("#/components/parameters/ReadAfter/schema"),
}

REASONS = {
    ("from", "must not be later than to"),
    ("to", "must be at most 32 days after from"),
    ("from|to", "is required"),  # for a picture of orders
    ("#/id", r"must be \d+, as in the path"),
    ("#/(name|title)|actor", "must contain only characters that can be seen"),
    # No pattern can compare durations, and no schema a member with the path.
    ("#/spacing", "must be from one minute to seven days"),
    ("#/overlap", "must be at most 30 days"),
    ("#/expires_at", "must be in the future|must be between 1970"),
    ("#/name", "must be .*, as in the path|there is a calendar .*; a name may not differ only in case"),
    (r"#(/orders/\d+)?/calendar", "there is a calendar .*; a name may not differ only in case"),
    (r"#(/orders/\d+)?/calendar", "must be .*, as the parameter calendar says"),
    ("position", "can't be combined with min_position or after_version"),
    ("bom", "has no meaning with application/x-ndjson"),
    ("limit|cursor|count|sort|next", r"has no meaning with image/svg\+xml"),
    ("time_zone", "has no meaning with application/json|is not the name of a time zone"),
    ("to", "must be at least an hour after from, for a picture|must be closer to from"),
    ("fill", r"zero would make [\d,]+ items"),
    ("#/orders", "must not use (an id|a reference) for two orders|must name each order once"),
    # The status may only be the order's own. No pattern has the characters beyond U+FFFF that can't be seen.
    ("#/status", "must be (booked|cancelled), as the order's"),
    ("#/reason", "must contain only characters that can be seen"),
    (
        r"(#(/orders/\d+)?/)?(reference|metadata/.*)",
        "(its key )?must contain only characters that can be seen",
    ),
    (r"#(/orders/\d+)?/metadata", "must have at most 50 members; merged"),
    (r"#(/orders/\d+)?/services", "must name each service once"),
    (r"#(/orders/\d+)?/services/\d+/id", r"there is no service \d+|service \d+ \(.*\) is archived"),
    (r"#(/orders/\d+)?/datetime|from|to|created_after|updated_after", "must be between 1970"),
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

FIRST_ORDER = 10**15
"""The least id that the service gives an order by itself (``shared/database/schema.sql``)."""

_attempts = itertools.count(1)


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
        and known.issuperset(name.partition("[")[0] for name in case.query)
    ):
        case.query["no-such-parameter"] = "1"


def _drop_invalid_headers(case: Case[Any]) -> None:
    """Keep valid cases valid: whoever sends one is refused for the key, if at all.

    schemathesis 4.32 draws no valid header that needs more than letters and digits, and sends an invalid one
    in requests that it counts as valid, until one of their headers is changed.
    """
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    for name, schema in STRICT_HEADERS.items():
        if name in case.headers and SCHEMAS.faults(schema, case.headers[name]):
            del case.headers[name]


@schemathesis.hook
def before_load_schema(_context: HookContext, raw_schema: dict[str, Any]) -> None:
    """Read the bodies of links from where the contract has them: openapi-generator refuses `requestBody`."""
    for link in raw_schema["components"]["links"].values():
        if "x-request-body" in link:
            link["requestBody"] = link.pop("x-request-body")


@schemathesis.hook
def before_call(_context: HookContext, case: Case[Any], _kwargs: dict[str, Any]) -> None:
    """Let half of the valid requests get further than random values would.

    Drawn at random, an order names no existing service and a cursor is not one of ours, so the code behind
    those checks would hardly be reached.
    """
    _drop_invalid_headers(case)
    if GUARDED:
        send_a_key(case)
    _keep_invalid_cases_invalid(case)
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    for name, value in case.path_parameters.items():
        # schemathesis takes ids from earlier answers; the id in the answer to a dry run is null.
        if value in (None, "null"):
            case.path_parameters[name] = "1"
    # Valid but slow: the longest waits would use up the time, and nothing is written meanwhile.
    case.query.pop("wait", None)
    if case.operation.label in {f"GET /fee-summaries{path}" for path in ("", "/export", "/orders")}:
        case.query["wait"] = 0
    _draw_further(case)
    _keep_what_others_need(case)


def _keep_what_others_need(case: Case[Any]) -> None:
    """Delete neither the orders of the contract's examples nor services: soon nothing would succeed."""
    value = str(next(iter(case.path_parameters.values()), ""))
    if case.operation.label == "DELETE /services/{service_id}" and value in map(str, SERVICE_IDS):
        case.path_parameters["service_id"] = "1"
    if case.operation.label == "DELETE /orders/{order_id}":
        if value in map(str, EXAMPLE_ORDERS):
            case.path_parameters["order_id"] = "1"
        if case.meta is not None and case.meta.phase.name == "stateful":
            # schemathesis expects that an order is gone after any 204.
            case.query.pop("dry_run", None)
    if case.operation.label == "POST /orders/batch/delete" and any(
        str(order["id"]) in map(str, EXAMPLE_ORDERS) for order in orders_of(case.body)
    ):
        case.query["dry_run"] = "true"


def _draw_further(case: Case[Any]) -> None:
    drawn = zlib.crc32(repr((case.method, case.path_parameters, case.query, case.body)).encode())
    if drawn % 2:
        _use_existing_ids(case, drawn)
        _use_a_possible_query(case, drawn)
    if case.meta is not None and case.meta.phase.name == "stateful" and "Idempotency-Key" in case.headers:
        # A replayed create of an order deleted since creates nothing; schemathesis would then read the order.
        case.headers["Idempotency-Key"] = f"attempt-{next(_attempts)}"
    if case.operation.label == "GET /orders/export" and "format" not in case.query:
        case.headers["Accept"] = ("application/x-ndjson", "text/csv")[drawn % 2]


def _use_a_possible_query(case: Case[Any], drawn: int) -> None:
    if "after" in case.query:
        case.query["after"] = 0
    if case.meta is not None and case.meta.phase.name != "stateful":
        case.query.pop("cursor", None)
    if case.path.endswith("/availability") and "from" in case.query and "to" in case.query:
        # Two random times are decades apart.
        case.query["to"] = case.query["from"]
        if drawn % 4 == 1:
            del case.query["to"]


def _use_existing_ids(case: Case[Any], drawn: int) -> None:
    body: Any = case.body
    if not isinstance(body, dict):
        return
    if body.get("reason") is not None:
        # It would have to be the reason in the body.
        case.headers.pop("Change-Reason", None)
    if (case.method, case.path) in VERSION_IN_BODY:
        _use_existing_orders(body, drawn)
    for index, order in enumerate(body.get("orders") or [body]):
        _use_existing_services(order)
        if case.operation.label in ("POST /orders", "POST /orders/batch"):
            # A chosen id is soon taken, as is a place on a calendar that is drawn often.
            order.pop("id", None)
            order["calendar"] = f"crew-{drawn % 1000}-{index}"
    if case.method in ("PUT", "PATCH"):
        if case.path.startswith("/calendars/"):
            _use_a_valid_calendar(case, body, drawn)
        elif "id" in body:
            (body["id"],) = case.path_parameters.values()
        if len(body) > 1:  # an empty patch is invalid
            # A version that is drawn is hardly ever the current one.
            body.pop("version", None)


def _use_existing_services(order: dict[str, Any]) -> None:
    if isinstance(order.get("totalfee"), float):
        order["totalfee"] = round(order["totalfee"], 2)
    if isinstance(order.get("services"), list):
        count = min(len(order["services"]), len(SERVICE_IDS))
        order["services"] = [{"id": str(service)} for service in SERVICE_IDS[:count]]


def _use_existing_orders(body: dict[str, Any], drawn: int) -> None:
    """Name a few orders that exist, or probably do, each once, where no link named those that do."""
    # A few orders exist after a second and thousands after minutes, when most of the first are deleted.
    first = FIRST_ORDER + drawn % 2 ** (drawn // 64 % 12)
    existing = EXAMPLE_ORDERS if drawn % 4 == 1 else range(first, first + 3)
    del body["orders"][len(existing) :]
    for order, order_id in zip(body["orders"], existing, strict=False):
        if int(order["id"]) < FIRST_ORDER:
            order["id"] = str(order_id)
            order.pop("version", None)
            if GUARDED:
                order["version"] = 1
        if "status" in order:
            # As most orders are; another one than the current is refused.
            order["status"] = "booked"


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


@schemathesis.serializer("text/csv", "application/x-ndjson")
def _file_as_bytes(_context: SerializationContext, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@schemathesis.deserializer("text/csv", "application/x-ndjson", "image/svg+xml")
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
    unknown = [fault for fault in problem.get("errors", [problem]) if not _is_known(fault, case)]
    if unknown:
        raise AssertionError(f"A request that fits its schema was refused: {json.dumps(unknown)}")


def _is_known(fault: dict[str, str], case: Case[Any]) -> bool:
    if case.operation.label == "POST /imports" and "parameter" not in fault and "header" not in fault:
        return True  # no schema expresses what a file may hold
    place = fault.get("pointer") or fault.get("parameter") or fault.get("header") or ""
    if place == "Change-Reason":
        return not _gives_a_reason(case)
    return any(re.fullmatch(where, place) and re.match(why, fault["detail"]) for where, why in REASONS)


def _gives_a_reason(case: Case[Any]) -> bool:
    """Return whether the header is a reason once it is decoded, which no pattern can do, and the only one."""
    try:
        reason = unquote_to_bytes(case.headers.get("Change-Reason", "")).decode()
    except UnicodeDecodeError:
        return False
    in_body = case.body.get("reason") if isinstance(case.body, dict) else None
    return SCHEMAS.faults(REASON, reason) == [] and in_body in (None, reason)


@schemathesis.check
def every_line_of_a_stream_is_an_order(_context: CheckContext, response: Response, _case: Case[Any]) -> None:
    """Check each line against the schema of an order: the schema of the whole stream cannot."""
    if not (response.headers.get("content-type") or [""])[0].startswith("application/x-ndjson"):
        return
    for line in response.content.decode().splitlines():
        faults = SCHEMAS.faults(ORDER, read_json(line))
        if faults:
            raise AssertionError(f"{line}: {faults}")
