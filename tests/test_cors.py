"""Cross-origin requests: what pages of OMS_CORS_ORIGINS may do, and no others."""

from __future__ import annotations

import socket
from hashlib import sha256
from typing import TYPE_CHECKING

import httpx
import pytest

from api.http.cors import REQUEST_HEADERS, RESPONSE_HEADERS
from api.http.request import METHODS
from contract.checks.document import operations, parameters
from shared.settings import SettingsError, settings
from tests.builders import later, order_body
from tests.contract_schemas import CONTRACT
from tests.processes import NO_REDIS
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.drivers import Api, Database

APP = "https://app.example.com"
LOCAL = "http://localhost:5173"
KEY = {"Authorization": "Bearer key of the board"}
READABLE = {"access-control-allow-origin", "access-control-expose-headers"}
SAFELISTED = {
    "Cache-Control",
    "Content-Type",
    "Content-Length",
    "Content-Language",
    "Expires",
    "Last-Modified",
}
"""What every page may read (Fetch standard, 2.2.2)."""


@pytest.fixture(scope="module")
def _guarded(postgres_url: str) -> Iterator[Api]:
    more = {
        "OMS_API_KEYS": f"board:write:{sha256(b'key of the board').hexdigest()}",
        "OMS_CORS_ORIGINS": f"{APP}:443, {LOCAL.upper()}",
        "OMS_ALLOWED_HOSTS": "127.0.0.1",
    }
    with serving(database=postgres_url, redis=NO_REDIS, **more) as (api, _):
        yield api


@pytest.fixture
def guarded(_guarded: Api, database: Database) -> Api:
    """An API with keys, for the pages of two origins."""
    database.add_services()
    return _guarded


def preflight(
    api: Api, origin: str, path: str = "/orders", method: str = "POST", **more: str
) -> httpx.Response:
    """Ask as a browser does before a request."""
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
        "Sec-Fetch-Site": "cross-site",
        **more,
    }
    return api.client.options(path, headers=headers)


def what_varies(answer: httpx.Response) -> list[str]:
    """Return the headers that an answer depends on; some routes have one of their own there."""
    return answer.headers.get_list("vary", split_commas=True)


@pytest.mark.parametrize("origin", [APP, LOCAL])
def test_a_page_of_an_allowed_origin_uses_the_api(guarded: Api, origin: str) -> None:
    """The preflight needs no key, as browsers send none with it; the request does."""
    asked = preflight(guarded, origin)
    assert (asked.status_code, asked.content) == (204, b"")
    assert asked.headers["access-control-allow-origin"] == origin
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert {"Authorization", "If-Match"} <= set(asked.headers["access-control-allow-headers"].split(", "))
    assert asked.headers["access-control-max-age"] == "600"
    assert asked.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in asked.headers
    page = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
    placed = guarded.client.post("/orders", json=order_body(at=later(days=1)), headers=KEY | page)
    assert placed.status_code == 201
    assert placed.headers["access-control-allow-origin"] == origin
    assert {"ETag", "Location"} <= set(placed.headers["access-control-expose-headers"].split(", "))
    with guarded.client.stream("GET", "/order-changes/stream", headers=KEY | page) as stream:
        assert stream.headers["access-control-allow-origin"] == origin


def test_errors_can_be_read_by_the_page_too(guarded: Api) -> None:
    """Those of routes, those before any route, and those while a body arrives."""
    page = {"Origin": APP}
    json_body = KEY | {"Content-Type": "application/json"}
    cases: list[tuple[str, str, dict[str, str], bytes, int]] = [
        ("GET", "/orders", {}, b"", 401),
        ("GET", "/orders/999", KEY, b"", 404),
        ("GET", "/no/such/path", KEY, b"", 404),
        ("PURGE", "/orders", KEY, b"", 405),
        ("POST", "/orders", KEY, b"{", 415),
        ("POST", "/orders", json_body, b" " * 600_000, 413),
        ("GET", "/orders", KEY | {"Host": "evil.example"}, b"", 400),
        ("GET", f"/orders?x={'x' * 9_000}", KEY, b"", 414),
        ("GET", "/orders", KEY | {"X-Long": "x" * 33_000}, b"", 431),
        ("OPTIONS", "/orders", {}, b"", 401),
    ]
    for method, path, headers, content, status in cases:
        answer = guarded.client.request(method, path, headers=headers | page, content=content)
        assert answer.status_code == status, (method, path, answer.text)
        assert answer.headers.get_list("access-control-allow-origin") == [APP], (method, path)
        assert "Retry-After" in answer.headers["access-control-expose-headers"], (method, path)
        assert answer.headers["vary"] == "Origin", (method, path)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "https://evil.example",
        f"{APP}.evil.example",
        f"{APP}:444",
        APP.replace("https", "http"),
        f"{APP}/",
        f"{APP}, {APP}",
        "https://APP.example.com.",
        "*",
    ],
)
def test_pages_of_other_origins_can_read_nothing(guarded: Api, origin: str) -> None:
    """Neither an answer nor a preflight; caches keep the answers apart."""
    answers = [preflight(guarded, origin), guarded.client.get("/orders", headers=KEY | {"Origin": origin})]
    assert [answer.status_code for answer in answers] == [401, 200]
    for answer in answers:
        assert not any(name.startswith("access-control-") for name in answer.headers)
        assert "Origin" in what_varies(answer)


def test_two_origins_are_none(guarded: Api) -> None:
    """A browser sends one."""
    with socket.create_connection(("127.0.0.1", int(guarded.url.rpartition(":")[2])), timeout=10) as client:
        lines = ("GET /health/live HTTP/1.1", "Host: 127.0.0.1", *(f"Origin: {one}" for one in (APP, LOCAL)))
        client.sendall(("\r\n".join((*lines, "Connection: close")) + "\r\n\r\n").encode())
        answer = b""
        while received := client.recv(65_536):
            answer += received
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"access-control" not in answer.lower()


def test_without_the_setting_nothing_is_allowed(api: Api) -> None:
    """A preflight is answered as any OPTIONS, and no answer differs by origin."""
    answers = [
        preflight(api, APP),
        api.client.get("/orders", headers={"Origin": APP}),
        api.client.post("/orders", json=order_body(), headers={"Origin": APP}),
    ]
    assert [answer.status_code for answer in answers] == [204, 200, 403]
    for answer in answers:
        assert not READABLE.intersection(answer.headers), answer.headers
        assert "Origin" not in what_varies(answer)


def test_without_keys_pages_of_allowed_origins_may_write_and_others_may_not(
    postgres_url: str, database: Database
) -> None:
    """The origin decides then, also for forms, which browsers send without a preflight."""
    database.add_services()
    with serving(database=postgres_url, redis=NO_REDIS, OMS_CORS_ORIGINS=APP) as (api, _):
        for origin, status in ((APP, 201), (LOCAL, 403), ("null", 403)):
            page = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
            body = order_body(at=later(days=1))
            assert api.client.post("/orders", json=body, headers=page).status_code == status, origin
        unnamed = {"Sec-Fetch-Site": "cross-site"}
        assert api.client.post("/orders", json=order_body(), headers=unnamed).status_code == 403


def test_all_origins_may_be_allowed_where_keys_are_asked_for(postgres_url: str, database: Database) -> None:
    """Then the key alone decides, and the answer is the same for all origins."""
    database.add_services()
    more = {"OMS_CORS_ORIGINS": "*", "OMS_ACCESS": "keys"}
    with serving(database=postgres_url, redis=NO_REDIS, **more) as (api, _):
        for origin in ("https://any.example", "null"):
            assert preflight(api, origin).headers["access-control-allow-origin"] == "*"
            answer = api.client.get("/orders", headers={"Origin": origin})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, "*")
            assert "vary" not in answer.headers


def test_every_header_of_the_contract_can_be_sent_and_read_by_a_page() -> None:
    """And every method can be used."""
    sent: set[str] = set()
    read: set[str] = set()
    methods: set[str] = set()
    for path, method, operation in operations(CONTRACT):
        methods.add(method.upper())
        sent |= {name for where, name in parameters(CONTRACT, path, operation) if where == "header"}
        for response in operation.members("responses").values():
            read |= set(response.members("headers"))
    assert sent <= {name.lower() for name in REQUEST_HEADERS}, sent
    assert read - SAFELISTED <= set(RESPONSE_HEADERS), read - SAFELISTED - set(RESPONSE_HEADERS)
    assert methods <= set(METHODS)


@pytest.mark.parametrize(
    "origins",
    [
        "app.example.com",
        "https://app.example.com/",
        "https://*.example.com",
        "null",
        "*, https://app.example.com",
        "https://app.example.com,",
        "https://user@app.example.com",
        "ftp://app.example.com",
        "https://",
        "https://app.example.com https://b.example.com",
    ],
)
def test_a_malformed_origin_is_refused_at_the_start(setting: Callable[..., None], origins: str) -> None:
    """What no browser sends would never match."""
    setting(cors_origins=origins)
    with pytest.raises(SettingsError, match=r"OMS_CORS_ORIGINS: must be origins"):
        settings()


def test_all_origins_without_keys_are_refused_at_the_start(setting: Callable[..., None]) -> None:
    """Every page that a user of this machine visits could do everything."""
    setting(cors_origins="*")
    with pytest.raises(SettingsError, match=r"OMS_CORS_ORIGINS: without keys, \*"):
        settings()
