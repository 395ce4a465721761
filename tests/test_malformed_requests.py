"""Every way in which a request can be wrong by itself: its exact answer, given without the database.

The API's database is taken away before the first request. Whatever needs it is answered 5xx from then on,
so a 400 or 422 here is proof that nothing wrong got that far.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.drivers import Api
from tests.processes import ServiceProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import httpx

WITH_ERRORS = ("malformed-request", "validation-failed")
INTERNALS = (
    "Traceback",
    "asyncpg",
    "postgres",
    "SELECT",
    "INSERT",
    "pydantic",
    "litestar",
    "msgspec",
    ".py",
    "0x",
)

ORDER = {"datetime": '"2030-06-01T12:00:00Z"', "totalfee": "100", "services": '[{"id":"123"}]'}
SERVICE = {"name": '"Inspection"'}
WINDOW = "from=2030-06-01T00:00:00Z&to=2030-06-02T00:00:00Z"


@dataclass(frozen=True)
class Operation:
    """An operation that takes a body: a valid one, member by member, and what stands around it."""

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
ADD_SERVICE = Operation("POST", "/services", SERVICE)
RENAME = Operation("PUT", "/services/5", SERVICE)
OF_ORDERS = (CREATE, BATCH, REPLACE, PATCH)
OF_SERVICES = (ADD_SERVICE, RENAME)


@dataclass(frozen=True)
class Case:
    """A request and its answer: status, kind of problem, and where the faults are."""

    what: str
    method: str
    path: str
    status: int
    slug: str
    places: tuple[str, ...] = ()
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def unreadable(what: str, operation: Operation, body: bytes) -> Case:
    """Build a body that is no JSON text."""
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
    """Build a body that is JSON and says something impossible."""
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


def wrong_address(method: str, path: str, *places: str) -> Case:
    """Build a request whose path or query can't be read."""
    return Case(f"{method} {path}", method, path, 400, "malformed-request", places)


# --- bodies that can't be read: 400 ------------------------------------------------------------------


def _unreadable_bodies(operation: Operation) -> Iterator[tuple[str, bytes]]:
    valid = operation.body()
    name = next(iter(operation.members))
    yield "empty", b""
    yield "no JSON", b"totalfee=100"
    yield "cut off", valid[:-1]
    yield "trailing data", valid + b"{}"
    yield "trailing letters", valid + b" x"
    yield "a trailing NUL", valid + b"\0"
    yield "a byte order mark", b"\xef\xbb\xbf" + valid
    yield "UTF-16", valid.decode().encode("utf-16")
    yield "a duplicate key", operation.body(more='1,"more":1')
    yield "a duplicate known key", operation.body(**{name: f'1,"{name}":{operation.members[name]}'})
    yield "a duplicate key, escaped once", operation.body(more='1,"mor\\u0065":1')
    yield "a duplicate key further in", operation.body(more='{"a":1,"a":1}')
    yield "NaN", operation.body(more="NaN")
    yield "Infinity", operation.body(more="Infinity")
    yield "-Infinity", operation.body(more="-Infinity")
    yield "an integer of 10,000 digits", operation.body(more="9" * 10_000)
    yield "an endless exponent", operation.body(more="1e99999999999999999999")
    yield "a leading zero", operation.body(more="01")
    yield "a plus sign", operation.body(more="+1")
    yield "a hexadecimal number", operation.body(more="0x1")
    yield "a NUL", operation.body(more='"a\0"')
    yield "an escaped NUL", operation.body(more='"a\\u0000"')
    yield "a NUL in a key", operation.body(**{"a\\u0000": "1"})
    yield "a lone surrogate", operation.body(more='"\\ud83d"')
    yield "the other half of a pair", operation.body(more='"\\ude00"')
    yield "a pair the wrong way round", operation.body(more='"\\ude00\\ud83d"')
    yield "a lone surrogate in a key", operation.body(**{"\\ud83d": "1"})
    yield "a lone surrogate deep inside", operation.body(more='[{"a":[{"b":"\\ud83d"}]}]')
    yield "invalid UTF-8", operation.body(more='"#"').replace(b"#", b"\xff")
    yield "UTF-8 of a surrogate", operation.body(more='"#"').replace(b"#", b"\xed\xa0\x80")
    yield "overlong UTF-8", operation.body(more='"#"').replace(b"#", b"\xc0\x80")
    yield "UTF-8 cut off", operation.body(more='"#"').replace(b"#", b"\xf0\x9f\x98")
    yield "60,000 arrays that open", b"[" * 60_000
    yield "60,000 objects", (b'{"a":' * 13_000)[:60_000]
    yield "30,000 arrays in each other", operation.body(more="[" * 30_000 + "]" * 30_000)


UNREADABLE = [
    unreadable(what, operation, body)
    for operation in (*OF_ORDERS, *OF_SERVICES)
    for what, body in _unreadable_bodies(operation)
]

# --- bodies that can be read and are not acceptable: 422 ---------------------------------------------

NO_FEES = (
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
NO_CENTS = ("0.001", "1.005", "1e-7", "1e-999", "9999999999.999", "0." + "0" * 5_000 + "1")
NO_DATETIMES = (
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
    "true",
    "null",
    "{}",
)
NO_IDS = (
    *('"abc"', '"0"', '"-1"', '"1_000"', '"+5"', '"٣"', '"12345678901234567890"', '"9223372036854775808"'),
    *('""', '" 5"', '"5 "', '"5\\n"', '"05"', '"5.0"', '"1e3"', '"0x5"', "0", "-1", "1.5", "1e999", "1e19"),
    *("9223372036854775808", "12345678901234567890", "true", "null", "[]", "{}"),
)
NOT_THE_CALLERS = ("1000000000000", '"1000000000000"', "9223372036854775807")
NO_CALENDARS = (
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
NO_NAMES = (
    '""',
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
MANY_SERVICES = "[" + ",".join('{"id":%d}' % n for n in range(1, 52)) + "]"
NO_SERVICES = ("[]", "{}", "null", '"123"', "123", MANY_SERVICES)

UNACCEPTABLE = [
    case
    for operation in OF_ORDERS
    for case in (
        *(unacceptable(operation, "totalfee", totalfee=text) for text in (*NO_FEES, *NO_CENTS)),
        *(unacceptable(operation, "datetime", datetime=text) for text in NO_DATETIMES),
        *(unacceptable(operation, "calendar", calendar=text) for text in NO_CALENDARS),
        *(unacceptable(operation, "services", services=text) for text in NO_SERVICES),
        *(unacceptable(operation, "services/0/id", services=f'[{{"id":{text}}}]') for text in NO_IDS),
        *(
            unacceptable(operation, "services/0", services=f"[{text}]")
            for text in ("1", '"123"', "null", "[]")
        ),
        unacceptable(operation, "services/0/id", services="[{}]"),
        unacceptable(operation, "services/0/name", services='[{"id":"123","name":"Inspection"}]'),
        unacceptable(operation, "services", services='[{"id":"123"},{"id":123}]'),
        *(
            unacceptable(operation, name, **{name: "1"})
            for name in ("version", "created_at", "total_fee", "Id")
        ),
        unacceptable(operation, "a~1b~0c", **{"a/b~c": "1"}),
    )
]
UNACCEPTABLE += [
    *(unacceptable(operation, "calendar", calendar="null") for operation in (CREATE, BATCH, REPLACE)),
    *(
        unacceptable(operation, name, **{name: None})
        for operation in (CREATE, BATCH)
        for name in ("totalfee", "services")
    ),
    *(unacceptable(REPLACE, name, **{name: None}) for name in ORDER),
    *(unacceptable(PATCH, "id", id=text) for text in ('"5"', "5", "null")),
    *(
        unacceptable(operation, "id", id=text)
        for operation in (CREATE, BATCH)
        for text in (*NO_IDS, *NOT_THE_CALLERS)
    ),
    *(unacceptable(REPLACE, "id", id=text) for text in (*NO_IDS, '"6"', "6")),
    *(unacceptable(operation, "name", name=text) for operation in OF_SERVICES for text in NO_NAMES),
    *(unacceptable(operation, "name", name=None) for operation in OF_SERVICES),
    *(unacceptable(operation, "archived_at", archived_at="null") for operation in OF_SERVICES),
    *(unacceptable(ADD_SERVICE, "id", id=text) for text in (*NO_IDS, *NOT_THE_CALLERS)),
    unacceptable(RENAME, "id", id="5"),
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
        for operation in (*OF_ORDERS, *OF_SERVICES)
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

# --- paths and queries: 400 --------------------------------------------------------------------------

NO_PATH_IDS = (
    *(
        "abc",
        "0",
        "-1",
        "1_000",
        "+5",
        "%2B5",
        "%00",
        "5%00",
        "%D9%A3",
        "٣",
        "12345678901234567890",
        "05",
        "5.0",
    ),
    *(
        "9223372036854775808",
        "%20",
        "5%20",
        "5%0a",
        "1e3",
        "0x5",
        "%FF",
        "5%FF",
        "%ED%A0%80",
        "%C0%80",
        "null",
        "*",
    ),
    *("1%20OR%201=1", "'", "%EF%BB%BF5", "9" * 1_000),
)
NO_LIMITS = (
    "0",
    "101",
    "-1",
    "+5",
    "1_0",
    "05.0",
    "%D9%A3",
    "",
    "abc",
    "1e1",
    "NaN",
    "9" * 5_000,
    "%00",
    "%FF",
)
NO_QUERY_TIMES = (
    "",
    "now",
    "2030-06-01",
    "2030-06-01T12:00:00",
    "2030-02-30T12:00:00Z",
    "1969-12-31T23:59:59Z",
    "2200-01-01T00:00:00Z",
    "2030-06-01T12:00:00+05:30",
    "2030-06-01T12:00:00Z%00",
    "%FF",
    "9" * 5_000,
)
NO_CURSORS = ("", "abc", "%00", "%FF", "W10", "bnVsbA", "MQ", "=", "a" * 5_000, "W1tbW1tb")

ADDRESSES = [
    *(
        wrong_address(method, f"/orders/{text}", "order_id")
        for text in NO_PATH_IDS
        for method in ("GET", "PUT", "PATCH", "DELETE")
    ),
    *(
        wrong_address(method, f"/services/{text}", "service_id")
        for text in NO_PATH_IDS
        for method in ("GET", "PUT", "DELETE")
    ),
    *(
        wrong_address("GET", f"/calendars/{text}/availability?{WINDOW}", "calendar")
        for text in ("%00", "%FF", "-a", "a%20b", "%C3%A9", "a" * 65, "%ED%A0%80")
    ),
    *(
        wrong_address("GET", f"{path}?limit={text}", "limit")
        for text in NO_LIMITS
        for path in ("/orders", "/services", "/calendars", "/fee-summaries")
    ),
    *(
        wrong_address("GET", f"/orders?{name}={text}", name)
        for text in NO_QUERY_TIMES
        for name in ("from", "to")
    ),
    *(
        wrong_address("GET", f"/calendars/a/availability?from={text}&to=2030-06-02T00:00:00Z", "from")
        for text in NO_QUERY_TIMES
    ),
    *(
        wrong_address("GET", f"/fee-summaries?from={text}", "from")
        for text in ("", "2030-02-30", "2030-6-1", "1969-12-31x", "%D9%A3", "20300601", "%00")
    ),
    *(
        wrong_address("GET", f"/orders?service={text}", "service")
        for text in ("", "abc", "0", "-1", "1_000", "%2B5", "%00", "%D9%A3", "12345678901234567890")
    ),
    *(
        wrong_address("GET", f"/orders?calendar={text}", "calendar")
        for text in ("", "%00", "%FF", "a%20b", "%C3%A9", "a" * 65, "%ED%A0%80")
    ),
    *(
        wrong_address("GET", f"/orders?sort={text}", "sort")
        for text in ("", "fee", "--id", "ID", "datetime,id", "%00")
    ),
    *(
        wrong_address("POST", f"/orders?dry_run={text}", "dry_run")
        for text in ("", "1", "yes", "True", "%00", "%FF")
    ),
    *(
        wrong_address("GET", f"/services?include_archived={text}", "include_archived")
        for text in ("", "1", "TRUE")
    ),
    *(
        wrong_address(method, f"{path}?{query}", name)
        for query, name in (
            ("colour=red", "colour"),
            ("%FF=1", "%FF"),
            ("%00=1", "\0"),
            ("=1", ""),
            ("Limit=1", "Limit"),
        )
        for method, path in (
            *(("GET", "/orders"), ("POST", "/orders"), ("POST", "/orders/batch"), ("GET", "/orders/5")),
            *(("PUT", "/orders/5"), ("PATCH", "/orders/5"), ("DELETE", "/orders/5"), ("GET", "/services")),
            *(
                ("POST", "/services"),
                ("GET", "/services/5"),
                ("PUT", "/services/5"),
                ("DELETE", "/services/5"),
            ),
            *(("GET", "/calendars"), ("GET", "/fee-summaries"), ("GET", "/problems/not-found")),
            *(("GET", "/openapi.yaml"), ("GET", "/openapi.json"), ("GET", "/docs")),
            *(("GET", "/health/live"), ("GET", "/health/ready"), ("GET", "/docs/start.js")),
        )
    ),
    wrong_address("GET", "/orders?limit=1&limit=1", "limit"),
    wrong_address("GET", "/orders?limit=1&%6Cimit=2", "limit"),
    wrong_address("POST", "/orders?dry_run=true&dry_run=false", "dry_run"),
    wrong_address(
        "GET",
        "/orders?limit=0&calendar=&colour=red&from=now&to=%FF",
        "limit",
        "calendar",
        "colour",
        "from",
        "to",
    ),
    wrong_address("GET", "/orders?from=2030-06-02T00:00:00Z&to=2030-06-01T00:00:00Z", "from"),
    wrong_address("GET", "/calendars/a/availability", "from", "to"),
    wrong_address(
        "GET", "/calendars/a/availability?from=2030-06-02T00:00:00Z&to=2030-06-01T00:00:00Z", "from"
    ),
    wrong_address(
        "GET", "/calendars/a/availability?from=2030-06-01T00:00:00Z&to=2030-07-03T00:00:00.000001Z", "to"
    ),
    wrong_address("GET", "/problems/%FF", "slug"),
    *(
        Case(
            f"GET {path}?cursor={text}",
            "GET",
            f"{path}?cursor={text}",
            400,
            "malformed-request" if text == "%FF" else "invalid-cursor",
        )
        for text in NO_CURSORS
        for path in ("/orders", "/services", "/calendars", "/fee-summaries")
    ),
]

# --- headers, methods, media types, sizes -------------------------------------------------------------

JSON = {"Content-Type": "application/json"}
REST = [
    *(
        Case(f"{name}: {value!r} on {method} {path}", method, path, 400, "malformed-request", (name,), body, {**JSON, name: value})
        for name, method, path, body in (
            ("If-Match", "PUT", "/orders/5", REPLACE.body()),
            ("If-Match", "PATCH", "/orders/5", PATCH.body()),
            ("If-Match", "DELETE", "/orders/5", None),
            ("If-None-Match", "GET", "/orders/5", None),
        )
        for value in ("1", "", '"1', "W/1", 'w/"1"', '"1" "2"', '*, "1"', '"1",*', ",", '"a b"', '"1"' + " ," * 500 + "x")
    ),
    *(
        Case(f"Idempotency-Key: {value!r}", "POST", path, 400, "malformed-request", ("Idempotency-Key",), body, {**JSON, "Idempotency-Key": value})
        for path, body in (("/orders", CREATE.body()), ("/orders/batch", BATCH.body()), ("/services", ADD_SERVICE.body()))
        for value in ("", "a b", "a" * 256, "é", "a\tb")
    ),
    *(
        Case(f"{operation.method} {operation.path} as {content_type!r}", operation.method, operation.path, 415, "unsupported-media-type", body=operation.body(), headers={"Content-Type": content_type})
        for operation in (*OF_ORDERS, *OF_SERVICES)
        for content_type in ("", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "application/xml")
    ),
    *(
        Case(f"{path} as a merge patch", "POST", path, 415, "unsupported-media-type", body=body, headers={"Content-Type": "application/merge-patch+json"})
        for path, body in (("/orders", CREATE.body()), ("/services", ADD_SERVICE.body()))
    ),
    *(
        Case(f"{operation.method} {operation.path} gzip", operation.method, operation.path, 415, "unsupported-media-type", body=b"\x1f\x8b", headers={"Content-Type": operation.content_type, "Content-Encoding": "gzip"})
        for operation in (*OF_ORDERS, *OF_SERVICES)
    ),
    *(
        Case(f"{operation.method} {operation.path} of {size} bytes", operation.method, operation.path, 413, "body-too-large", body=b" " * size, headers={"Content-Type": operation.content_type})
        for operation in (*OF_ORDERS, *OF_SERVICES)
        for size in ((1_048_577,) if operation is BATCH else (65_537, 1_000_000))
    ),
    *(
        Case(f"{method} {path} accepting {accept}", method, path, 406, "not-acceptable", body=body, headers={**JSON, "Accept": accept})
        for method, path, body in (
            ("GET", "/orders", None),
            ("POST", "/orders", CREATE.body()),
            ("PUT", "/orders/5", REPLACE.body()),
            ("GET", "/services", None),
            ("GET", "/openapi.yaml", None),
            ("GET", "/docs", None),
            ("GET", "/health/live", None),
        )
        for accept in ("application/xml", "image/*", "*/*;q=0", "application/jsonp", "json")
    ),
    *(
        Case(f"{method} {path}", method, path, 405, "method-not-allowed")
        for method, path in (
            *(("DELETE", "/orders"), ("PUT", "/orders"), ("PATCH", "/orders"), ("TRACE", "/orders"), ("FOO", "/orders")),
            *(("POST", "/orders/5"), ("GET", "/orders/batch"), ("PUT", "/orders/batch")),
            *(("DELETE", "/orders/batch"), ("TRACE", "/orders/batch"), ("PATCH", "/services/5"), ("POST", "/calendars")),
            *(("POST", "/fee-summaries"), ("POST", "/health/live"), ("DELETE", "/docs"), ("PUT", "/problems/not-found")),
        )
    ),
    *(
        Case(f"{method} {path}", method, path, 404, "not-found")
        for path in ("/", "/order", "/orders/5/services", "/nope/%FF", "/nope?%FF", "/calendars/a", "/%00", "/.env", "/docs/../api", "/problems/nope", "/docs/package.json", "/orders%2F5", "/orders/5%2F", "/orders/", "/orders/5/", "//orders")
        for method in ("GET", "OPTIONS")
        if method == "GET" or path in ("/", "/order", "/nope?%FF", "/.env")
    ),
]  # fmt: skip


# --- the tests ---------------------------------------------------------------------------------------


async def _take_away(url: str) -> None:
    name = urlsplit(url).path[1:]
    connection = await asyncpg.connect(url.replace(f"/{name}?", "/postgres?"))
    try:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def without_database(own_database_url: str, redis_url: str) -> Iterator[Api]:
    """Give an API whose database is gone."""
    port = free_port()
    with (
        ServiceProcess("api.server", database=own_database_url, redis=redis_url, port=port) as process,
        Api(port) as api,
    ):
        api.wait_until_ready()
        asyncio.run(_take_away(own_database_url))
        yield api
        # Nothing was unforeseen, whatever was sent; what needs the database is tried last.
        assert "internal_error" not in process.log
        assert api.client.get("/orders/5").status_code >= 500
        answer = api.post_text("/orders", CREATE.body())
        assert answer.status_code >= 500, answer.text


def sent(api: Api, case: Case) -> httpx.Response:
    """Send exactly this."""
    headers = {name: value.encode("latin-1") for name, value in case.headers.items()}
    return api.client.request(case.method, case.path, content=case.body, headers=headers)


@pytest.mark.parametrize("group", ["UNREADABLE", "UNACCEPTABLE", "ADDRESSES", "REST"])
def test_whatever_is_wrong_with_a_request_is_told_without_asking_the_database(
    without_database: Api, group: str
) -> None:
    """Each by its status, the kind of problem, and the place of every fault; and never how we are made."""
    wrong = []
    for case in globals()[group]:
        answer = sent(without_database, case)
        expected = (case.status, "application/problem+json", f"/problems/{case.slug}")
        problem = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        found = (answer.status_code, answer.headers.get("content-type"), problem.get("type"))
        places = tuple(
            fault.get("pointer", fault.get("parameter", fault.get("header")))
            for fault in problem.get("errors", ())
        )
        leaks = [word for word in INTERNALS if word in answer.text.replace(case.path, "")]
        if (
            found != expected
            or (case.places and sorted(places) != sorted(case.places))
            or leaks
            or not (places or case.slug not in WITH_ERRORS)
        ):
            wrong.append((case.what[:200], found, places, leaks))
        else:
            assert all(fault["detail"] for fault in problem.get("errors", ())), case.what
            assert problem["status"] == case.status, case.what
            assert problem["request_id"] == answer.headers["x-request-id"], case.what
    assert wrong == []


def test_the_table_says_nothing_twice() -> None:
    """A case that hides another would show less than it seems."""
    cases = [*UNREADABLE, *UNACCEPTABLE, *ADDRESSES, *REST]
    assert len({(case.method, case.path, case.body, tuple(case.headers.items())) for case in cases}) == len(
        cases
    )
    assert len(cases) > 1_000


@pytest.mark.parametrize("repeated", ["If-Match", "Idempotency-Key"])
def test_a_header_that_stands_twice_is_read_as_a_list_or_refused(
    without_database: Api, repeated: str
) -> None:
    """Entity tags make a list (RFC 9110, 5.3); a key that is two keys is none."""
    twice = [("Content-Type", "application/json"), (repeated, "x"), (repeated, "x")]
    method, path = ("PUT", "/orders/5") if repeated == "If-Match" else ("POST", "/orders")
    answer = without_database.client.request(method, path, content=CREATE.body(), headers=twice)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["header"] == repeated


def test_a_request_that_is_expensive_to_refuse_does_not_keep_others_waiting(without_database: Api) -> None:
    """Equal keys and list separators were once looked through again and again, for hours."""
    keys = b'{"orders":[{' + b'"a":1,' * 150_000 + b'"a":1}]}'
    assert without_database.post_text("/orders/batch", keys).status_code == 400
    tags = {"If-None-Match": '"1"' + " ," * 2_000 + "x"}
    assert without_database.client.get("/orders/5", headers=tags).status_code == 400
    assert without_database.client.get("/health/live").elapsed.total_seconds() < 5


def test_no_url_reaches_past_the_servers_own_limits(without_database: Api) -> None:
    """What HTTP itself can't carry is refused by the server before any of our code runs."""
    import socket

    host, port = without_database.url.removeprefix("http://").split(":")
    for target in (b"/orders/\xff", b"/orders/5?a=\xff", b"/orders/ 5"):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
