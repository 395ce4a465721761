"""Requests with malformed or invalid bodies, and their answers: tables of ``test_malformed_requests``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ORDER = {"datetime": '"2030-06-01T12:00:00Z"', "totalfee": "100", "services": '[{"id":"123"}]'}
SERVICE = {"name": '"Inspection"'}


@dataclass(frozen=True)
class Operation:
    """An operation with a body: the members of a valid one, and the text around them."""

    method: str
    path: str
    members: Mapping[str, str]
    content_type: str = "application/json"
    around: str = "{%s}"
    pointer: str = "#"

    def body(self, **members: str | None) -> bytes:
        """Write the body with other members; None leaves one out."""
        kept = {name: text for name, text in {**self.members, **members}.items() if text is not None}
        return (self.around % ",".join(f'"{name}":{text}' for name, text in kept.items())).encode()


CREATE = Operation("POST", "/orders", ORDER)
BATCH = Operation("POST", "/orders/batch", ORDER, around='{"orders":[{%s}]}', pointer="#/orders/0")
REPLACE = Operation("PUT", "/orders/5", ORDER)
PATCH = Operation("PATCH", "/orders/5", ORDER, "application/merge-patch+json")
PATCH_MANY = Operation(
    "PATCH", "/orders/batch", {**ORDER, "id": '"5"'}, around='{"orders":[{%s}]}', pointer="#/orders/0"
)
CANCEL_MANY, DELETE_MANY = (
    Operation("POST", f"/orders/batch/{how}", {"id": '"5"'}, around='{"orders":[{%s}]}', pointer="#/orders/0")
    for how in ("cancel", "delete")
)
ADD_SERVICE = Operation("POST", "/services", SERVICE)
RENAME = Operation("PUT", "/services/5", SERVICE)
OF_ORDERS = (CREATE, BATCH, REPLACE, PATCH, PATCH_MANY)
TO_END = (CANCEL_MANY, DELETE_MANY)
OF_SERVICES = (ADD_SERVICE, RENAME)


@dataclass(frozen=True)
class Case:
    """A request and its answer: status, problem type, and the places of the faults."""

    what: str
    method: str
    path: str
    status: int
    slug: str
    places: tuple[str, ...] = ()
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def unreadable(what: str, operation: Operation, body: bytes) -> Case:
    """Build a request whose body is not JSON."""
    return Case(
        f"{operation.method} {operation.path} {what}",
        operation.method,
        operation.path,
        400,
        "malformed-request",
        body=body,
        headers={"Content-Type": operation.content_type},
    )


def unacceptable(operation: Operation, *places: str, **members: str | None) -> Case:
    """Build a request whose body is JSON with invalid content."""
    return Case(
        f"{operation.method} {operation.path} {members}",
        operation.method,
        operation.path,
        422,
        "validation-failed",
        tuple(f"{operation.pointer}/{place}" for place in places),
        operation.body(**members),
        {"Content-Type": operation.content_type},
    )


# --- malformed bodies: 400 -------------------------------------------------------------------------


def _unreadable_bodies(operation: Operation) -> Iterator[tuple[str, bytes]]:
    valid = operation.body()
    name = next(iter(operation.members))
    yield "empty", b""
    yield "not JSON", b"totalfee=100"
    yield "cut off", valid[:-1]
    yield "trailing data", valid + b"{}"
    yield "trailing letters", valid + b" x"
    yield "a trailing NUL", valid + b"\0"
    yield "a byte order mark", b"\xef\xbb\xbf" + valid
    yield "UTF-16", valid.decode().encode("utf-16")
    yield "a duplicate key", operation.body(more='1,"more":1')
    yield "a duplicate known key", operation.body(**{name: f'1,"{name}":{operation.members[name]}'})
    yield "a duplicate key, escaped once", operation.body(more='1,"mor\\u0065":1')
    yield "a duplicate key in a nested object", operation.body(more='{"a":1,"a":1}')
    yield "NaN", operation.body(more="NaN")
    yield "Infinity", operation.body(more="Infinity")
    yield "-Infinity", operation.body(more="-Infinity")
    yield "an integer of 10,000 digits", operation.body(more="9" * 10_000)
    yield "a huge exponent", operation.body(more="1e99999999999999999999")
    yield "a leading zero", operation.body(more="01")
    yield "a plus sign", operation.body(more="+1")
    yield "a hexadecimal number", operation.body(more="0x1")
    yield "a NUL", operation.body(more='"a\0"')
    yield "an escaped NUL", operation.body(more='"a\\u0000"')
    yield "a NUL in a key", operation.body(**{"a\\u0000": "1"})
    yield "a lone surrogate", operation.body(more='"\\ud83d"')
    yield "a lone low surrogate", operation.body(more='"\\ude00"')
    yield "a surrogate pair in reverse order", operation.body(more='"\\ude00\\ud83d"')
    yield "a lone surrogate in a key", operation.body(**{"\\ud83d": "1"})
    yield "a lone surrogate in a nested value", operation.body(more='[{"a":[{"b":"\\ud83d"}]}]')
    yield "invalid UTF-8", operation.body(more='"#"').replace(b"#", b"\xff")
    yield "UTF-8 of a surrogate", operation.body(more='"#"').replace(b"#", b"\xed\xa0\x80")
    yield "overlong UTF-8", operation.body(more='"#"').replace(b"#", b"\xc0\x80")
    yield "UTF-8 cut off", operation.body(more='"#"').replace(b"#", b"\xf0\x9f\x98")
    yield "60,000 unclosed arrays", b"[" * 60_000
    yield "60,000 bytes of unclosed objects", (b'{"a":' * 13_000)[:60_000]
    yield "30,000 nested arrays", operation.body(more="[" * 30_000 + "]" * 30_000)


UNREADABLE = [
    unreadable(what, operation, body)
    for operation in (*OF_ORDERS, *TO_END, *OF_SERVICES)
    for what, body in _unreadable_bodies(operation)
]

# --- well-formed bodies with invalid content: 422 --------------------------------------------------

INVALID_FEES = (
    '"1"',
    '"100.00"',
    "true",
    "null",
    "[]",
    "{}",
    "-0.01",
    "-1",
    "1e999",
    "-1e999",
    "1e10",
    "10000000000",
)
TOO_MANY_DECIMALS = ("0.001", "1.005", "1e-7", "1e-999", "9999999999.999", "0." + "0" * 5_000 + "1")
INVALID_DATETIMES = (
    '"2030-06-01T12:00:00"',
    '"2030-06-01 12:00:00Z"',
    '"2030-06-01"',
    '"20300601T120000Z"',
    '"2030-06-01t12:00:00z"',
    '"1969-12-31T23:59:59.999999Z"',
    '"1970-01-01T00:00:00+00:01"',
    '"2200-01-01T00:00:00Z"',
    '"2199-12-31T23:59:59.999999-00:01"',
    '"0001-01-01T00:00:00+14:00"',
    '"9999-12-31T23:59:59-12:00"',
    '"10000-01-01T00:00:00Z"',
    '"2030-02-30T12:00:00Z"',
    '"2029-02-29T12:00:00Z"',
    '"2100-02-29T12:00:00Z"',
    '"2030-00-01T12:00:00Z"',
    '"2030-13-01T12:00:00Z"',
    '"2030-06-31T12:00:00Z"',
    '"2030-06-01T24:00:00Z"',
    '"2030-06-01T12:60:00Z"',
    '"2030-06-01T23:59:60Z"',
    '"2030-06-01T12:00:00.Z"',
    '"2030-06-01T12:00:00.1234567Z"',
    '"2030-06-01T12:00:00,5Z"',
    '"2030-06-01T12:00Z"',
    '"2030-06-01T12:00:00+24:00"',
    '"2030-06-01T12:00:00+05:60"',
    '"2030-06-01T12:00:00+0530"',
    '"2030-06-01T12:00:00Z "',
    '"2030-06-01T12:00:00Z\\n"',
    '"٢٠٣٠-06-01T12:00:00Z"',
    '"now"',
    '""',
    "1893456000",
    "1893456000.5",
    '"2030-06-01T12:00:00.1234Z"',
    '"2030-06-01T12:00:00.000000001Z"',
    "true",
    "{}",
)
INVALID_IDS = (
    *('"abc"', '"0"', '"-1"', '"1_000"', '"+5"', '"٣"', '"12345678901234567890"', '"9223372036854775808"'),
    *('""', '" 5"', '"5 "', '"5\\n"', '"05"', '"5.0"', '"1e3"', '"0x5"', "0", "-1", "1.5", "1e999", "1e19"),
    *("9223372036854775808", "12345678901234567890", "true", "null", "[]", "{}"),
)
IDS_OF_THE_SERVER = ("1000000000000000", '"1000000000000000"', "9223372036854775807")
INVALID_CALENDARS = (
    '""',
    '" a"',
    '"a b"',
    '"a/b"',
    '"-a"',
    '".a"',
    '"é"',
    '"a\\n"',
    f'"{"a" * 65}"',
    "5",
    "true",
    "[]",
)
INVALID_NAMES = (
    '""',
    '"\u2800"',
    '"a\u200bb"',
    '"a\u200d"',
    '"a\u202eb"',
    '"a\u2066b\u2069"',
    '"a\ufe0f"',
    '"a\u00adb"',
    '"\ufeffa"',
    '"\U000e0041a"',
    '" a"',
    '"a "',
    '"a\\nb"',
    '"a\\u007f"',
    '"a\\u2028"',
    f'"{"a" * 101}"',
    "5",
    "true",
    "null",
    "{}",
)
MANY_SERVICES = "[" + ",".join(f'{{"id":{n}}}' for n in range(1, 52)) + "]"
INVALID_SERVICES = ("[]", "{}", "null", '"123"', "123", MANY_SERVICES)

UNACCEPTABLE = [
    case
    for operation in OF_ORDERS
    for case in (
        *(unacceptable(operation, "totalfee", totalfee=text) for text in (*INVALID_FEES, *TOO_MANY_DECIMALS)),
        *(unacceptable(operation, "datetime", datetime=text) for text in INVALID_DATETIMES),
        *(unacceptable(operation, "calendar", calendar=text) for text in INVALID_CALENDARS),
        *(unacceptable(operation, "services", services=text) for text in INVALID_SERVICES),
        *(unacceptable(operation, "services/0/id", services=f'[{{"id":{text}}}]') for text in INVALID_IDS),
        *(
            unacceptable(operation, "services/0", services=f"[{text}]")
            for text in ("1", '"123"', "null", "[]")
        ),
        unacceptable(operation, "services/0/id", services="[{}]"),
        unacceptable(operation, "services/0/title", services='[{"id":"123","title":"Inspection"}]'),
        unacceptable(operation, "services", services='[{"id":"123"},{"id":123}]'),
        *(unacceptable(operation, name, **{name: "1"}) for name in ("import_id", "total_fee", "Id")),
        unacceptable(operation, "a~1b~0c", **{"a/b~c": "1"}),
    )
]
UNACCEPTABLE += [
    *(
        unacceptable(operation, name, **{name: "null"})
        for operation in (PATCH, PATCH_MANY)
        for name in ("datetime", "calendar", "version")
    ),
    *(
        unacceptable(operation, "id", id=text)
        for operation in (PATCH_MANY, *TO_END)
        for text in (*INVALID_IDS, None)
    ),
    *(unacceptable(operation, "totalfee", totalfee="100") for operation in TO_END),
    unacceptable(REPLACE, "datetime", datetime="null"),
    *(
        unacceptable(operation, "version", version=text)
        for operation in (REPLACE, PATCH, PATCH_MANY, *TO_END)
        for text in ("0", "-1", "1.5", '"1"', "true", "[]", "1e999", "2147483648")
    ),
    *(
        unacceptable(operation, name, **{name: None})
        for operation in (CREATE, BATCH)
        for name in ("totalfee", "services")
    ),
    *(unacceptable(REPLACE, name, **{name: None}) for name in ORDER),
    *(unacceptable(PATCH, "id", id=text) for text in (*INVALID_IDS, '"6"', "6")),
    *(
        unacceptable(operation, "id", id=text)
        for operation in (CREATE, BATCH)
        for text in (*set(INVALID_IDS) - {"null"}, *IDS_OF_THE_SERVER)
    ),
    *(unacceptable(REPLACE, "id", id=text) for text in (*set(INVALID_IDS) - {"null"}, '"6"', "6")),
    *(unacceptable(operation, "name", name=text) for operation in OF_SERVICES for text in INVALID_NAMES),
    *(unacceptable(operation, "name", name=None) for operation in OF_SERVICES),
    *(unacceptable(operation, "archived", archived="false") for operation in OF_SERVICES),
    *(
        unacceptable(ADD_SERVICE, "id", id=text)
        for text in (*set(INVALID_IDS) - {"null"}, *IDS_OF_THE_SERVER)
    ),
    *(unacceptable(RENAME, "id", id=text) for text in (*set(INVALID_IDS) - {"null"}, '"6"', "6")),
    *(
        Case(
            f"{operation.method} {operation.path} {body!r}",
            operation.method,
            operation.path,
            422,
            "validation-failed",
            ("#",),
            body,
            {"Content-Type": operation.content_type},
        )
        for operation in (*OF_ORDERS, *TO_END, *OF_SERVICES)
        for body in (b"[]", b'"order"', b"1", b"null", b"true", b"1e999")
    ),
    Case(
        "PATCH {}",
        "PATCH",
        "/orders/5",
        422,
        "validation-failed",
        ("#",),
        b"{}",
        {"Content-Type": "application/json"},
    ),
    *(
        Case(
            f"batch {body!r}",
            "POST",
            "/orders/batch",
            422,
            "validation-failed",
            places,
            body,
            {"Content-Type": "application/json"},
        )
        for body, places in (
            (b"{}", ("#/orders",)),
            (b'{"orders":[]}', ("#/orders",)),
            (b'{"orders":{}}', ("#/orders",)),
            (b'{"orders":[1]}', ("#/orders/0",)),
            (b'{"orders":[' + b",".join([CREATE.body()] * 101) + b"]}", ("#/orders",)),
            (b'{"orders":[' + b",".join([CREATE.body(id='"7"'), CREATE.body(id="7")]) + b"]}", ("#/orders",)),
            (b'{"orders":[' + CREATE.body() + b'],"dry_run":true}', ("#/dry_run",)),
        )
    ),
]
