"""The code's validation against the contract's schemas: both accept the same values, member by member.

Values are drawn near the edges of each schema (its pattern, its examples with one character changed, numbers
around its limits) from a fixed seed, and validated by both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from api.calendars import bodies as calendars
from api.calendars.bodies import read_title
from api.fee_summaries.parameters import read_date
from api.http import fields
from api.http.attribution import _read_header
from api.http.durations import read_duration
from api.http.entity_tags import _LIST
from api.http.idempotency import _KEY
from api.http.json_text import read_json
from api.http.parameters import read_boolean, read_limit
from api.http.request_log import _USABLE
from api.http.texts import read_reason
from api.http.times import read_datetime, read_time
from api.keys import bodies as keys
from api.orders import bodies, write_bodies
from api.orders.fields import (
    read_calendar,
    read_fee,
    read_metadata_key,
    read_metadata_value,
    read_reference,
)
from api.orders.imports.imported_orders import ImportedOrder
from api.services import bodies as services
from api.services.bodies import read_service_name
from api.webhooks import bodies as webhooks
from contract.checks.document import Place
from contract.checks.validation import read_json as read_exactly
from tests.contract_schemas import CONTRACT, SCHEMAS
from tests.random_rounds import ROUNDS

FEW = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=80 * ROUNDS,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


def place(name: str) -> Place:
    """Find a schema by the end of its pointer."""
    return CONTRACT.target(f"#/components/{name}")


def matches(pattern: re.Pattern[Any]) -> Callable[[Any], None]:
    """Make a parser from a pattern that the code uses."""

    def read(value: str) -> None:
        text: Any = value.encode(errors="surrogatepass") if isinstance(pattern.pattern, bytes) else value
        if not pattern.fullmatch(text):
            raise ValueError(value)

    return read


TEXTS: dict[str, Callable[[str], object]] = {
    "schemas/Id": fields.read_id,
    "schemas/Time": read_datetime,
    "schemas/FilterTime": read_time,
    "schemas/Day": read_date,
    "schemas/CalendarName": read_calendar,
    "schemas/ServiceTitle": read_service_name,
    "schemas/CalendarTitle": read_title,
    "schemas/Spacing": read_duration,  # how long it may be, no pattern can say
    "schemas/Reference": read_reference,
    "schemas/MetadataKey": read_metadata_key,
    "schemas/MetadataValue": read_metadata_value,
    "schemas/ChangeReason": read_reason,
    "schemas/RequestId": matches(_USABLE),
    "parameters/IdempotencyKey/schema": matches(_KEY),
}
"""Texts: in a path, a query, a header or a body."""

VALUES: dict[str, Callable[[Any], object]] = {
    **{
        name: read
        for name, read in TEXTS.items()
        if name.startswith("schemas/") and name != "schemas/RequestId"
    },
    "schemas/AnyId": fields.read_id,
    "schemas/OwnId": fields.read_callers_id,
    "schemas/Fee": read_fee,
}
"""Values in a body, where any JSON value may be sent."""

NOT_IN_BODIES = {
    "schemas/Id": "AnyId is the schema for bodies",
    "schemas/Day": "it is only used in queries",
    "schemas/FilterTime": "it is only used in queries",
}

LITERALS = (
    *(
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1",
        "-1",
        "1.0",
        "1e2",
        "1e-2",
        "0.01",
        "0.001",
        "100.500",
        "10.005",
    ),
    *(
        "999999999999999",
        "1000000000000000",
        "999999999999999999",
        "1000000000000000000",
        "9223372036854775808",
    ),
    *(
        "9999999999.99",
        "9999999999.991",
        "10000000000",
        "1e300",
        "123456789012345678901234567890",
        "[]",
        "{}",
    ),
    *(
        '""',
        '"1"',
        '"01"',
        '"1.0"',
        '"1e2"',
        '" 1"',
        '"1_000"',
        '"+5"',
        '"\\u0663"',
        '"null"',
        "[1]",
        '{"id":1}',
    ),
)


def accepted(read: Callable[[Any], object], value: object) -> bool:
    """Whether a parser accepts a value."""
    try:
        read(value)
    except ValueError:
        return False
    return True


EDGES = {
    "schemas/Day": ("1969-12-31", "1970-01-01", "2199-12-31", "2200-01-01", "2200-01-02", "2200-12-31"),
    **{
        f"schemas/{name}": (
            *("1969-12-31T23:59:59Z", "2200-01-01T00:00:00Z", "2024-02-30T00:00:00Z"),
            *("2199-12-31T23:59:59.999Z", "2199-12-31T23:59:59.999999Z", "2199-12-31T23:59:59.9999999Z"),
            *(f"2024-02-29T00:00:00.{digits}Z" for digits in ("1234", "1230", "123456000", "1234560001")),
            *(f"2024-02-29T00:00:00.{'0' * n}Z" for n in (43, 44)),
        )
        for name in ("Time", "FilterTime")
    },
    **{
        f"schemas/{name}": ("\u2800", "a\u200db", "a\u00adb", "a\ufe0f", "a\u00a0b", "\u00a0a", "a\n", "a\tb")
        for name in ("ServiceTitle", "Reference", "MetadataKey", "MetadataValue", "ChangeReason")
    },
}


VISIBLE = {f"schemas/{name}" for name in ("ServiceTitle", "Reference", "MetadataKey", "ChangeReason")}
"""Texts with characters that can be seen only."""


@cache
def texts(name: str) -> st.SearchStrategy[str]:
    """Draw texts that match a schema's pattern or nearly do."""
    schema = place(name)
    fitting = st.from_regex(schema.get("pattern"), fullmatch=True)
    examples = st.sampled_from([str(one) for one in schema.get("examples", ["a"])])
    odd = st.sampled_from([*' \t\n\0\x7f\xa0\u2028\u3000\u0663_+-.:TZtz09/"\\', "é", "", "00"])
    near = st.tuples(st.one_of(fitting, examples), st.integers(0, 300), odd, st.integers(0, 2)).map(
        lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] + drawn[3] :]
    )
    longest = schema.get("maxLength", 64)
    lengths = st.sampled_from([longest - 1, longest, longest + 1]).map(lambda length: "1" * length)
    return st.one_of(fitting, near, lengths, st.text(max_size=4))


@pytest.mark.parametrize("name", TEXTS)
@FEW
@given(data=st.data())
def test_the_code_accepts_a_text_exactly_where_it_matches_the_schema(name: str, data: st.DataObject) -> None:
    """Neither accepts what the other refuses."""
    text = data.draw(texts(name))
    promised = SCHEMAS.faults(place(name), text) == []
    if (
        promised
        and name in ("schemas/Time", "schemas/FilterTime")
        and text[:10] in ("1970-01-01", "2199-12-31")
    ):
        return  # on these days an offset may lead outside the range, as its description says
    if promised and name in VISIBLE and max(text, default="") > "\uffff":
        return  # no pattern that every engine reads can name characters above U+FFFF, as its description says
    assert accepted(TEXTS[name], text) == promised, ascii(text)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, edges in EDGES.items() for text in edges])
def test_the_code_accepts_a_date_at_the_limits_exactly_where_it_matches_the_schema(
    name: str, text: str
) -> None:
    """The first and the last day, and their neighbours."""
    assert accepted(TEXTS[name], text) == (SCHEMAS.faults(place(name), text) == [])


@pytest.mark.parametrize("name", sorted(VALUES.keys() - {*NOT_IN_BODIES}))
@pytest.mark.parametrize("literal", LITERALS)
def test_the_code_accepts_a_json_value_exactly_where_it_matches_the_schema(name: str, literal: str) -> None:
    """Numbers as written, texts that look like numbers, and other values."""
    promised = SCHEMAS.faults(place(name), read_exactly(literal)) == []
    assert accepted(VALUES[name], read_json(literal.encode())) == promised


@pytest.mark.parametrize("name", ["schemas/AnyId", "schemas/OwnId", "schemas/Fee"])
@FEW
@given(number=st.one_of(st.integers(-2, 2**65), st.decimals(allow_nan=False, allow_infinity=False, places=3)))
@example(Decimal("0.07"))
def test_the_code_accepts_a_number_exactly_where_it_matches_the_schema(
    name: str, number: int | Decimal
) -> None:
    """Also where binary floating point would round."""
    assert accepted(VALUES[name], number) == (SCHEMAS.faults(place(name), number) == []), number


def test_the_code_accepts_a_limit_exactly_where_it_matches_the_schema() -> None:
    """1 to 100, in plain digits."""
    for text in ("1", "100", "50"):
        assert accepted(read_limit, text), text
    for text in ("0", "101", "-1", "+5", "1_0", "٣", "", " 1", "1.0", "1e1", "1000"):
        assert not accepted(read_limit, text), text
    bounds = place("parameters/Limit/schema")
    assert (bounds.get("minimum"), bounds.get("maximum")) == (1, 100)


def test_a_boolean_parameter_must_be_true_or_false() -> None:
    """In lower case, as JSON writes them."""
    assert [text for text in ("true", "false", "True", "1", "yes", "") if accepted(read_boolean, text)] == [
        "true",
        "false",
    ]


@FEW
@given(text=st.from_regex(place("schemas/EntityTags").get("pattern"), fullmatch=True))
def test_the_code_reads_every_list_of_entity_tags_that_matches_the_schema(text: str) -> None:
    """One way only: a recipient also reads empty elements (RFC 9110, section 5.6.1)."""
    assert text == "*" or _LIST.fullmatch(text), text


@FEW
@given(
    text=st.one_of(
        st.text(max_size=5).map(quote),
        st.sampled_from(["\U0001f600", "é", "a"]).map(lambda one: quote(one) * 200),
        st.text(st.characters(max_codepoint=255), max_size=5).map(str.strip),
        st.text("ab%C3B6éÃ¶ ", max_size=8).map(str.strip),
    )
)
@example("Ã¶")  # the bytes of ö, as they are
def test_every_change_reason_that_the_code_reads_matches_the_schema(text: str) -> None:
    """One way only: a pattern can't decode it."""
    if accepted(lambda header: _read_header([header], None), text):
        assert SCHEMAS.faults(place("parameters/ChangeReason/schema"), text) == []


MODELS: dict[str, type[BaseModel]] = {
    "NewOrder": bodies.NewOrder,
    "NewOrders": bodies.NewOrders,
    "OrderReplacement": bodies.OrderReplacement,
    "OrderPatch": bodies.OrderPatch,
    "OrderPatches": write_bodies.OrderPatches,
    "StatusReason": write_bodies.StatusReason,
    "OrdersOfBatch": write_bodies.OrdersOfBatch,
    "NewService": services.NewService,
    "ServiceReplacement": services.ServiceRenaming,
    "CalendarReplacement": calendars.CalendarReplacement,
    "CalendarPatch": calendars.CalendarPatch,
    "NewWebhook": webhooks.NewWebhook,
    "WebhookPatch": webhooks.WebhookPatch,
    "SecretRotation": webhooks.SecretRotation,
    "Replay": webhooks.Replay,
    "NewKey": keys.NewKey,
    "KeyRotation": keys.KeyRotation,
    "ImportedOrder": ImportedOrder,
}


def _schema_of(content: Place) -> str | None:
    """Return the name of the schema of a body in JSON; of an array's, that of its elements."""
    schema = content.child("schema")
    assert schema is not None
    if schema.get("type") == "array":
        schema = schema.child("items")
        assert schema is not None
    return None if schema.get("type") == "string" else schema.pointer.rpartition("/")[2]


def test_every_request_body_of_the_contract_has_a_model() -> None:
    """And every model is in the contract."""
    bodies_ = CONTRACT.members("components")["requestBodies"].value
    contents = [
        content for name in bodies_ for content in place(f"requestBodies/{name}").members("content").values()
    ]
    schemas = {_schema_of(content) for content in contents} - {None}  # None: a file that is no JSON
    assert schemas == MODELS.keys()


@pytest.mark.parametrize("name", MODELS)
def test_the_members_of_each_model_are_those_of_its_schema(name: str) -> None:
    """The same are required, and no others accepted."""
    schema, model = place(f"schemas/{name}"), MODELS[name]
    assert set(model.model_fields) == set(schema.get("properties"))
    assert {member for member, one in model.model_fields.items() if one.is_required()} == set(
        schema.get("required", ())
    )
    assert (model.model_config.get("extra") == "forbid") == (schema.get("additionalProperties") is False)


SERVICES = [[{"id": i} for i in range(1, n + 1)] for n in (0, 1, 50, 51)]
ORDER = {"datetime": "2022-11-01T11:11:11Z", "totalfee": 1, "services": [{"id": 1}]}
URL = "https://orders.example/changes"
METADATA: list[Any] = [
    *(
        {},
        {"a": ""},
        {"a": "b\nc"},
        {"a": "b\x01"},
        {"a": 1},
        {"a": None},
        {"": "a"},
        {" a": "b"},
        [],
        "a",
        None,
    ),
    *({"k" * 40: "b"}, {"k" * 41: "b"}, {"a": "b" * 500}, {"a": "b" * 501}),
    *({f"k{i}": "v" for i in range(n)} for n in (50, 51)),
]
OF_THE_CALLER: list[dict[str, Any]] = [
    *({"reference": one} for one in ("PO 1", "", " a", "a" * 64, "a" * 65, "a\n", None, 7)),
    *({"metadata": one} for one in METADATA),
    *({"status": one} for one in ("booked", "cancelled", "Booked", None, 1)),
]
WHOLE: dict[str, list[Any]] = {
    "NewOrder": [ORDER, *({**ORDER, "services": some} for some in SERVICES), {**ORDER, "calendar": None}]
    + [{**ORDER, name: None} for name in ("id", "datetime", "totalfee", "version", "created_at")]
    + [{**ORDER, "version": "any"}, {**ORDER, "import_id": 1}]
    + [{**ORDER, **one} for one in OF_THE_CALLER],
    "NewOrders": [{"orders": [ORDER] * n} for n in (0, 1, 100, 101)],
    "OrderReplacement": [
        *({**ORDER, "id": one} for one in (1, None)),
        *({**ORDER, "calendar": one} for one in ("a b", None)),
        *({**ORDER, "version": one} for one in (1, 1.0, 0, 1.5, 2147483647, 2147483648, "1", True, None)),
        *({**ORDER, "created_at": value} for value in ("now", None, 5)),
        {**ORDER, "updated_at": {}},
        *({**ORDER, name: None} for name in ("datetime", "totalfee", "services")),
        *({**ORDER, **one} for one in OF_THE_CALLER),
    ],
    "OrderPatch": [
        *({}, {"calendar": None}, {"datetime": None}, {"totalfee": None}, {"services": None}, {"id": 1}),
        *({"services": some} for some in SERVICES),
        {"services": [{"id": 1}, {"id": 1}]},
        *({"services": [{"id": 1, "name": name}]} for name in ("Inspection", None)),
        {"services": [{"id": 1, "title": "Inspection"}]},
        *({"version": number} for number in (1, 0, None)),
        *({"updated_at": one} for one in ("2022-11-01T11:11:11.111Z", None)),
        {"id": None},
        *OF_THE_CALLER,
    ],
    "OrderPatches": [
        *({"orders": [{"id": 1, **one}]} for one in OF_THE_CALLER),
        *({"orders": [{"id": i} for i in range(1, n + 1)]} for n in (0, 1, 100, 101)),
        *({"orders": [{"id": 1, **one}]} for one in ({"totalfee": 1}, {"version": 1}, {"version": None})),
        *({"orders": [one]} for one in ({"totalfee": 1}, {"id": None}, {"id": "7", "more": 1}, 7, None)),
        *({"orders": [{"id": 1}], **one} for one in ({"reason": "a"}, {"more": 1})),
        {"orders": None},
    ],
    "OrdersOfBatch": [
        *({"orders": [{"id": i} for i in range(1, n + 1)]} for n in (0, 1, 100, 101)),
        *({"orders": [{"id": "1", "version": one}]} for one in (1, 0, None, "1")),
        *({"orders": [one]} for one in ({}, {"id": None}, {"id": 1, "totalfee": 1})),
        *(
            {"orders": [{"id": 1}], "reason": one}
            for one in ("a", "a" * 200, "a" * 201, "", " ", "a\n", None, 7)
        ),
    ],
    "StatusReason": [{}, *({"reason": one} for one in ("ä b", "", " a", "a" * 201, None, 7)), {"why": "a"}],
    "NewKey": [
        *({"name": name, "scopes": ["orders:read"]} for name in ("a", "", "a" * 64, "a" * 65, "a b", "ä")),
        *({"name": name, "scopes": ["orders:read"]} for name in ("a\n", "import", "Import", None, 7)),
        *(
            {"name": "a", "scopes": some}
            for some in ([], ["orders:eat"], ["keys:manage"] * 2, None, "keys:manage")
        ),
        *(
            {"name": "a", "scopes": ["orders:read"], "expires_at": at}
            for at in ("2199-01-01T00:00:00Z", None, 7)
        ),
        *({}, {"name": "a"}, {"name": "a", "scopes": ["orders:read"], "id": "a"}),
    ],
    "KeyRotation": [
        {},
        *(
            {"overlap": one}
            for one in ("PT0S", "PT24H", "P30D", "P4W", "P1M", "P", "PT1.5H", "1 day", None, 60)
        ),
        {"old_valid_for": 1},
    ],
    "NewService": [{"name": "a"}, {"id": 1}, {"id": None, "name": "a"}, {"name": "a" * 101}],
    "NewWebhook": [
        *({}, {"url": URL}, {"url": "ftp://orders.example"}, {"url": None}, {"url": URL, "enabled": True}),
        *({"url": URL, "types": some} for some in (["order.created"] * n for n in range(3))),
        *({"url": URL, "types": some} for some in (["order.moved"], "order.created", None)),
        *({"url": URL, "calendars": some} for some in ([f"c{i}" for i in range(n)] for n in (0, 100, 101))),
        *({"url": URL, "calendars": some} for some in (["a b"], ["a", "a"])),
        *({"url": URL, "description": "a" * n} for n in (0, 500, 501)),
        *({"url": URL, "description": one} for one in ("a\nb", None)),
        *({"url": URL, name: None} for name in ("calendars", "disabled")),
    ],
    "WebhookPatch": [
        {},
        {"id": "7", "disabled": None, "after": 3},
        {"types": None},
        *({"enabled": one} for one in (True, False, None, 1)),
        {"url": URL},
        {"url": None},
    ],
    "CalendarReplacement": [
        *({}, {"name": "crew-7"}, {"name": "a b"}, {"id": 5}, {"created_at": "any"}, {"title": "a\nb"}),
        *({name: None} for name in ("name", "title", "spacing", "created_at")),
        *({"spacing": text} for text in ("PT3H", "P1W", "P7D", "PT1M", "P1M", "PT1.5H", 10800, "")),
        *({"title": text} for text in ("", "Süd", " ", "a" * 100, "a" * 101)),
    ],
    "CalendarPatch": [
        *({}, {"name": "crew-7"}, {"name": None}, {"id": 5}, {"created_at": None}),
        *({"spacing": text} for text in ("PT3H", "PT90M", None, "3h")),
        *({"title": text} for text in ("", "Süd", None, " ")),
    ],
    "SecretRotation": [{}, *({"old_valid_for": n} for n in (0, 1.0, 1.5, 604800, 604801, -1, "1", None))],
    "Replay": [{}, *({"after": n} for n in (0, 999999999999999999, 10**18, -1, 1.5, "1", True, None))],
    "ServiceReplacement": [
        *({"id": one, "name": "a"} for one in (1, 10**15, 0, None)),
        *({"name": "a", "archived_at": one} for one in (None, "2022-11-01T11:11:11.111Z")),
        *({"name": "a"}, {"name": None}, {"name": "a", "archived": False}),
    ],
}


@pytest.mark.parametrize(
    ("name", "body"), [(n, one) for n, some in WHOLE.items() for one in [*some, [], None]]
)
def test_the_code_accepts_a_body_exactly_where_it_matches_the_schema(name: str, body: object) -> None:
    """Lengths, nulls, missing and unknown members, and values that are not objects."""
    text = json.dumps(body)
    promised = SCHEMAS.faults(place(f"schemas/{name}"), read_exactly(text)) == []
    try:
        MODELS[name].model_validate(read_json(text.encode()), strict=True)
        is_accepted = True
    except ValidationError:
        is_accepted = False
    assert is_accepted == promised
