"""Every way in which a request can be malformed, and its exact answer; the database is not needed.

The API's database is dropped before the first request. Requests that need it are answered 5xx from then on,
so a 400 or 422 proves that a malformed request never reaches the database.
"""

from __future__ import annotations

import asyncio
import socket
import time
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.drivers import Api
from tests.serving import serving
from tests.wrong_addresses import ADDRESSES
from tests.wrong_bodies import CREATE, UNACCEPTABLE, UNREADABLE, Case
from tests.wrong_headers import REST

if TYPE_CHECKING:
    from collections.abc import Iterator

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


async def _drop_database(url: str) -> None:
    name = urlsplit(url).path[1:]
    connection = await asyncpg.connect(url.replace(f"/{name}?", "/postgres?"))
    try:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def without_database(own_database_url: str, redis_url: str) -> Iterator[Api]:
    """An API whose database was dropped; its caller has a key of the settings, which needs no database."""
    key = "a key of the settings"
    setting = f"tests:write:{sha256(key.encode()).hexdigest()}"
    with serving(database=own_database_url, redis=redis_url, OMS_API_KEYS=setting) as (api, process):
        api.client.headers["Authorization"] = f"Bearer {key}"
        asyncio.run(_drop_database(own_database_url))
        yield api
        # Nothing was logged as an unexpected error. The request that needs the database comes last.
        assert "internal_error" not in process.log
        assert api.client.get("/orders/5").status_code >= 500
        answer = api.post_text("/orders", CREATE.body())
        assert answer.status_code >= 500, answer.text


def sent(api: Api, case: Case) -> httpx.Response:
    """Send a case's exact bytes."""
    headers = [(name.encode(), value.encode("latin-1")) for name, value in case.headers.items()]
    return api.client.request(case.method, case.path, content=case.body, headers=headers)


@pytest.mark.parametrize(
    "cases",
    [UNREADABLE, UNACCEPTABLE, ADDRESSES, REST],
    ids=["unreadable", "unacceptable", "addresses", "rest"],
)
def test_every_malformed_request_is_refused_without_asking_the_database(
    without_database: Api, cases: list[Case]
) -> None:
    """With its status, problem type and the place of every fault, and nothing about the implementation."""
    wrong = []
    for case in cases:
        answer = sent(without_database, case)
        expected = (case.status, "application/problem+json", f"/problems/{case.slug}")
        problem = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        answered = (answer.status_code, answer.headers.get("content-type"), problem.get("type"))
        places = tuple(
            fault.get("pointer", fault.get("parameter", fault.get("header")))
            for fault in problem.get("errors", ())
        )
        leaks = [word for word in INTERNALS if word in answer.text.replace(case.path, "")]
        if (
            answered != expected
            or (case.places and sorted(places) != sorted(case.places))
            or leaks
            or not (places or case.slug not in WITH_ERRORS)
        ):
            wrong.append((case.what[:200], answered, places, leaks))
        else:
            assert all(fault["detail"] for fault in problem.get("errors", ())), case.what
            assert problem["status"] == case.status, case.what
            assert problem["request_id"] == answer.headers["x-request-id"], case.what
    assert wrong == []


def test_the_table_of_malformed_requests_has_no_duplicates() -> None:
    """A duplicate would count as a case without testing one."""
    cases = [*UNREADABLE, *UNACCEPTABLE, *ADDRESSES, *REST]
    assert len({(case.method, case.path, case.body, tuple(case.headers.items())) for case in cases}) == len(
        cases
    )
    assert len(cases) > 1_000


@pytest.mark.parametrize("repeated", ["If-Match", "Idempotency-Key"])
def test_a_repeated_header_is_read_as_a_list_or_refused(without_database: Api, repeated: str) -> None:
    """Entity tags form a list (RFC 9110, 5.3); two idempotency keys are invalid."""
    twice = [("Content-Type", "application/json"), (repeated, "x"), (repeated, "x")]
    method, path = ("PUT", "/orders/5") if repeated == "If-Match" else ("POST", "/orders")
    answer = without_database.client.request(method, path, content=CREATE.body(), headers=twice)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["header"] == repeated


def test_a_huge_malformed_request_is_refused_without_delaying_others(without_database: Api) -> None:
    """Checking equal keys or list separators in quadratic time could take hours."""
    keys = b'{"orders":[{' + b'"a":1,' * 150_000 + b'"a":1}]}'
    assert without_database.post_text("/orders/batch", keys).status_code == 400
    tags = {"If-None-Match": '"1"' + " ," * 2_000 + "x"}
    assert without_database.client.get("/orders/5", headers=tags).status_code == 400
    before = time.monotonic()
    assert without_database.client.get("/health/live").status_code == 200
    assert time.monotonic() - before < 5


def raw(api: Api, request: bytes) -> bytes:
    """Send exactly these bytes, and return everything until the server closes the connection."""
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def create(*headers: bytes, body: bytes = b"") -> bytes:
    """Write a create with these header lines, after which the connection is closed."""
    lines = (b"POST /orders HTTP/1.1", b"Connection: close", *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "chunks",
    [b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n", b"fffffffffffffffff\r\n"],
)
def test_invalid_chunked_encoding_is_answered_400(without_database: Api, chunks: bytes) -> None:
    """Not 500 with a stack trace in the log."""
    key = f"Authorization: {without_database.client.headers['Authorization']}".encode()
    headers = (b"Host: x", key, b"Content-Type: application/json", b"Transfer-Encoding: chunked")
    answer = raw(without_database, create(*headers, body=chunks))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"/problems/malformed-request" in answer


def test_a_client_that_disconnects_while_sending_its_body_is_not_logged_as_an_error(
    without_database: Api,
) -> None:
    """The process's log is searched at the end."""
    host, port = without_database.url.removeprefix("http://").split(":")
    head = create(b"Host: x", b"Content-Type: application/json", b"Content-Length: 100")
    for _ in range(3):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(head + b"{")
    assert without_database.client.get("/health/live").status_code == 200


@pytest.mark.parametrize("hosts", [(), (b"Host: a", b"Host: b")])
def test_a_request_without_exactly_one_host_header_is_refused(
    without_database: Api, hosts: tuple[bytes, ...]
) -> None:
    """400 (RFC 9112, section 3.2): of two, a proxy in front might have used the other."""
    for head in (create(*hosts), create(*hosts).replace(b"POST /orders", b"GET /health/live")):
        answer = raw(without_database, head)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'"header":"Host"' in answer
    old = create().replace(b"POST /orders HTTP/1.1", b"GET /health/live HTTP/1.0")
    assert raw(without_database, old).startswith(b"HTTP/1.0 200 ")


@pytest.mark.parametrize(
    ("name", "values", "status"),
    [
        ("Content-Type", ("application/json", "text/plain"), 415),
        ("Content-Type", ("application/json", "application/json"), 415),
        ("Content-Encoding", ("identity", "gzip"), 415),
        ("Content-Encoding", ("gzip", "identity"), 415),
        ("Content-Encoding", ("identity, gzip",), 415),
        ("Content-Encoding", ("Identity",), 400),
        ("Content-Encoding", ("identity", "identity"), 400),
        ("Content-Encoding", ("",), 400),
    ],
)
def test_a_request_with_contradictory_headers_about_its_body_is_refused(
    without_database: Api, name: str, values: tuple[str, ...], status: int
) -> None:
    """415 before the body is read; 400 afterwards, as it is empty. Codings ignore case (RFC 9110, 8.4.1)."""
    headers = [(name, value) for value in values]
    if name != "Content-Type":
        headers.append(("Content-Type", "application/json"))
    assert without_database.client.post("/orders", content=b"", headers=headers).status_code == status


def test_the_faults_reported_for_a_body_are_limited(without_database: Api) -> None:
    """A megabyte of unknown keys must cost neither seconds nor an answer of several megabytes."""
    many = b",".join(b'"%x":1' % n for n in range(10_001))
    answer = without_database.post_text("/orders/batch", b'{"orders":[{' + many + b"}]}")
    assert answer.status_code == 400
    assert "more than 10,000 keys" in answer.json()["detail"]
    few = b",".join(b'"%x":1' % n for n in range(5_000))
    answer = without_database.post_text("/orders", b"{" + few + b"}")
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 100
    assert "5,000 more" in answer.json()["detail"]


def test_a_request_target_that_http_does_not_allow_is_refused_by_the_http_server(
    without_database: Api,
) -> None:
    """Before any of our code runs."""
    host, port = without_database.url.removeprefix("http://").split(":")
    for target in (b"/orders/\xff", b"/orders/5?a=\xff", b"/orders/ 5"):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
