"""Host names, origins, repeated credentials, and the headers that every answer has."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from shared.settings import SettingsError, check_listening
from stack.embedded_valkey import free_port
from tests.builders import order_body, tags
from tests.drivers import Api, Database, wait_until
from tests.processes import ServiceProcess, run_command
from tests.serving import serving
from tests.test_access import KEYS, SETTING

EVERY_KIND_OF_PATH = (
    "/orders",
    "/no/such/path",
    "/docs",
    "/openapi.yaml",
    "/problems/not-found",
    "/metrics",
    "//",
)


def _port(api: Api) -> str:
    return api.url.rpartition(":")[2]


@pytest.fixture(scope="module")
def named(postgres_url: str, redis_url: str) -> Iterator[Api]:
    """An API with keys that answers under some names only."""
    hosts = "orders.example.com, *.shop.example,10.0.0.5"
    guarded = {"OMS_ALLOWED_HOSTS": hosts, "OMS_API_KEYS": SETTING}
    with serving(database=postgres_url, redis=redis_url, **guarded) as (api, _):
        yield api


@pytest.fixture(scope="module")
def with_keys(postgres_url: str, redis_url: str) -> Iterator[Api]:
    """An API with keys and no list of names."""
    with serving(database=postgres_url, redis=redis_url, OMS_API_KEYS=SETTING) as (api, _):
        yield api


@pytest.fixture(scope="module")
def open_to_all(postgres_url: str, redis_url: str) -> Iterator[Api]:
    """An API without keys on every address."""
    everywhere = {"OMS_HOST": "0.0.0.0", "OMS_ACCESS": "open"}
    with serving(database=postgres_url, redis=redis_url, **everywhere) as (api, _):
        yield api


LOOPBACK = (
    "localhost",
    "LocalHost:8000",
    "localhost.",
    "api.localhost",
    "127.0.0.1:1",
    "127.8.9.1",
    "[::1]:80",
)
FOREIGN = (
    "evil.example",
    "localhost.evil.example",
    "evil-localhost",
    "10.0.0.5",
    "127.0.0.1.nip.io",
    "[2001:db8::1]",
)
NO_NAMES = (
    "a b",
    "a/b",
    "user@localhost",
    "localhost:abc",
    "localhost:8000:8000",
    "localhost,evil",
    "[::1",
    "é",
    "?",
)


@pytest.mark.parametrize("host", LOOPBACK)
def test_without_keys_the_api_answers_under_names_of_this_machine(api: Api, host: str) -> None:
    """In any case, with any port, with a dot at the end."""
    assert api.client.get("/orders", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", [*FOREIGN, *NO_NAMES])
def test_without_keys_any_other_name_is_refused_on_every_path(api: Api, host: str) -> None:
    """So a page can't reach it by giving its own name this machine's address. Nothing is stored."""
    for path in EVERY_KIND_OF_PATH:
        answer = api.client.get(path, headers=[(b"Host", host.encode())])
        assert (answer.status_code, answer.json()["type"]) == (400, "/problems/malformed-request"), path
        assert answer.json()["errors"][0]["header"] == "Host"
    answer = api.client.post("/orders", json=order_body(), headers=[(b"Host", host.encode())])
    assert answer.status_code == 400
    assert api.client.get("/orders").json()["items"] == []


def test_health_checks_are_answered_under_any_name(api: Api, named: Api) -> None:
    """Kubernetes sends the pod's address, load balancers their own; nothing private is in the answer."""
    for one in (api, named):
        for path in ("/health/live", "/health/ready"):
            for host in ("10.1.2.3:8000", "evil.example"):
                assert one.client.get(path, headers={"Host": host}).status_code == 200
            assert one.client.get(path, headers={"Host": "a b"}).status_code == 400


def test_with_a_list_of_names_no_other_is_accepted(named: Api) -> None:
    """Not even a loopback name; with a valid key too."""
    key = {"Authorization": f"Bearer {KEYS['office'][1]}"}
    for host in (
        "orders.example.com",
        "ORDERS.example.com:443",
        "a.shop.example",
        "a.b.shop.example",
        "10.0.0.5",
    ):
        assert named.client.get("/orders", headers=key | {"Host": host}).status_code == 200, host
    for host in (
        "localhost",
        "127.0.0.1",
        "shop.example",
        "xorders.example.com",
        "evilshop.example",
        "10.0.0.6",
    ):
        assert named.client.get("/orders", headers=key | {"Host": host}).status_code == 400, host


def test_with_keys_and_no_list_any_name_is_accepted(with_keys: Api) -> None:
    """A key protects: a page has none. What is no name is refused all the same."""
    key = {"Authorization": f"Bearer {KEYS['office'][1]}"}
    assert with_keys.client.get("/orders", headers=key | {"Host": "evil.example"}).status_code == 200
    assert with_keys.client.get("/orders", headers=key | {"Host": "a/b"}).status_code == 400


def test_open_to_all_it_answers_under_any_address_and_under_no_foreign_name(open_to_all: Api) -> None:
    """An address cannot be rebound; a name can."""
    for host in ("192.168.1.7:8000", "[2001:db8::1]", "localhost"):
        assert open_to_all.client.get("/orders", headers={"Host": host}).status_code == 200
    assert open_to_all.client.get("/orders", headers={"Host": "evil.example"}).status_code == 400


def _status(api: Api, path: str, *headers: str) -> bytes:
    lines = (f"GET {path} HTTP/1.1", "Connection: close", *headers)
    with socket.create_connection(("127.0.0.1", int(_port(api))), timeout=5) as connection:
        connection.sendall("\r\n".join((*lines, "", "")).encode())
        return b"".join(iter(lambda: connection.recv(4096), b""))


def test_two_of_a_header_that_decides_about_access_are_refused_on_every_path(
    api: Api, with_keys: Api
) -> None:
    """Equal ones too: of two, a proxy in front might have used the other."""
    key = f"Authorization: Bearer {KEYS['office'][1]}"
    for one in (api, with_keys):
        for path in EVERY_KIND_OF_PATH:
            for name, headers in (
                ("Host", ("Host: localhost", key, "Host: localhost")),
                ("Host", ("Host: localhost", key, "host: evil.example")),
                ("Authorization", (key, "Host: localhost", key)),
                ("Authorization", (key, "Host: localhost", "authorization: Bearer x")),
            ):
                answer = _status(one, path, *headers)
                assert answer.startswith(b"HTTP/1.1 400 ")
                assert f'"header":"{name}"'.encode() in answer


@pytest.mark.parametrize("value", ["gzip, chunked", "chunked, chunked", "identity, chunked"])
def test_a_body_in_an_unusual_transfer_coding_is_refused(api: Api, value: str) -> None:
    """Where a proxy in front reads the body's end elsewhere, a second request could hide in it."""
    for codings in ((f"Transfer-Encoding: {value}",), ("Transfer-Encoding: chunked",) * 2):
        host, port = api.url.removeprefix("http://").split(":")
        lines = ("POST /orders HTTP/1.1", "Host: localhost", *codings, "Connection: close", "", "0", "", "")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall("\r\n".join(lines).encode())
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'"header":"Transfer-Encoding"' in answer


OF_OTHERS: list[dict[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://localhost:3000"},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "https://127.0.0.1"},
    {"Origin": "http://127.0.0.1:{port}/path"},
    {"Origin": "http://user@127.0.0.1:{port}"},
    {"Origin": "http://127.0.0.1:{port}.evil.example"},
    {"Origin": "http://127.0.0.1:{port}, http://evil.example"},
    {"Origin": "file://127.0.0.1:{port}"},
    {"Origin": "http://[::1]:{port}"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:{port}"},
]


@pytest.mark.parametrize("headers", OF_OTHERS, ids=str)
def test_a_write_that_a_page_of_another_origin_sends_is_refused(
    api: Api, database: Database, headers: dict[str, str]
) -> None:
    """With or without a body, whatever the method and path: 403, and nothing is stored."""
    filled = {name: value.format(port=_port(api)) for name, value in headers.items()}
    before = database.counts()
    for method, path, more in (
        ("POST", "/services/123/archive", {}),
        ("POST", "/orders", {"json": order_body()}),
        ("POST", "/orders", {"content": b"{}", "headers": {"Content-Type": "text/plain"}}),
        ("DELETE", "/services/123", {}),
        ("PUT", "/orders/5", {"json": order_body()}),
        ("PATCH", "/orders/5", {}),
        ("POST", "/no/such/path", {}),
    ):
        settings: dict[str, Any] = dict(more)
        sent = settings.pop("headers", {}) | filled
        answer = api.client.request(method, path, headers=sent, **settings)
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden"), path
    assert database.counts() == before


def test_a_page_of_this_service_may_write_and_any_page_may_be_followed_to_it(api: Api) -> None:
    """The documentation's own requests, and links from elsewhere."""
    own = {"Origin": api.url, "Sec-Fetch-Site": "same-origin"}
    assert api.client.post("/orders", json=order_body(), headers=own).status_code == 201
    typed = {"Sec-Fetch-Site": "none"}
    assert api.client.post("/services", json={"name": "New"}, headers=typed).status_code == 201
    link = {"Sec-Fetch-Site": "cross-site", "Origin": "https://other.example"}
    assert api.client.get("/orders", headers=link).status_code == 200
    behind_tls = {"Host": "localhost", "Origin": "https://localhost"}
    assert api.client.post("/services", json={"name": "Other"}, headers=behind_tls).status_code == 201


def test_with_keys_the_key_alone_decides(with_keys: Api, database: Database) -> None:
    """A page that has a key may use it; a browser adds none by itself."""
    database.add_services()
    foreign = {"Origin": "https://shop.example", "Sec-Fetch-Site": "cross-site"}
    key = {"Authorization": f"Bearer {KEYS['office'][1]}"}
    assert with_keys.client.post("/services", json={"name": "N"}, headers=foreign).status_code == 401
    assert with_keys.client.post("/services", json={"name": "N"}, headers=foreign | key).status_code == 201


def test_every_answer_forbids_guessing_its_type_and_keeping_it(api: Api) -> None:
    """Errors too. With an entity tag the caller's own cache may keep it, and has to ask before each use."""
    order = api.placed_order(id=5)
    assert order["id"] == "5"
    tag = {"If-None-Match": tags('"1"')}
    kept, private, static = "no-store", "private, no-cache", "max-age=86400"
    too_large = {"content": b'"' + b"x" * 530_000 + b'"', "headers": {"Content-Type": "application/json"}}
    cases: tuple[tuple[str, str, dict[str, Any], int, str], ...] = (
        ("GET", "/orders/5", {}, 200, private),
        ("HEAD", "/orders/5", {}, 200, private),
        ("GET", "/orders/5", {"headers": tag}, 304, private),
        ("GET", "/fee-summaries", {}, 200, private),
        ("PUT", "/orders/5", {"json": order_body()}, 200, kept),
        ("DELETE", "/orders/5", {"headers": {"If-Match": '"9"'}}, 412, kept),
        ("GET", "/orders", {}, 200, kept),
        ("GET", "/orders/export", {"headers": {"Accept": "text/csv"}}, 200, kept),
        ("GET", "/orders/export", {"headers": {"Accept": "application/x-ndjson"}}, 200, kept),
        ("GET", "/orders/999", {}, 404, kept),
        ("GET", "/no/such/path", {}, 404, kept),
        ("PURGE", "/orders", {}, 405, kept),
        ("OPTIONS", "/orders", {}, 204, kept),
        ("POST", "/orders", too_large, 413, kept),
        ("POST", "/orders", {"content": b"{"}, 415, kept),
        ("GET", "/orders?x=1", {}, 400, kept),
        ("GET", "/orders", {"headers": {"Host": "evil.example"}}, 400, kept),
        ("POST", "/orders", {"headers": {"Origin": "null"}}, 403, kept),
        ("GET", "/health/live", {}, 200, kept),
        ("GET", "/health/ready", {}, 200, kept),
        ("GET", "/metrics", {}, 200, kept),
        ("GET", "/openapi.yaml", {}, 200, kept),
        ("GET", "/problems/not-found", {}, 200, kept),
        ("GET", "/docs", {}, 200, kept),
        ("GET", "/docs/start.js", {}, 200, static),
        ("GET", "/docs/swagger-ui.css", {}, 200, static),
        ("GET", "/docs/no-such-file", {}, 404, kept),
    )
    for method, path, more, status, expected in cases:
        answer = api.client.request(method, path, **more)
        seen = (answer.status_code, answer.headers.get_list("cache-control"))
        assert seen == (status, [expected]), (method, path)
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"], (method, path)
    with api.client.stream("GET", "/order-changes/stream") as stream:
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-content-type-options"] == "nosniff"


ANYWHERE = ("0.0.0.0", "::", "192.0.2.7", "0", "[::]", "no-such-name.invalid", "::ffff:0.0.0.0")


@pytest.mark.parametrize("host", ANYWHERE)
def test_hosts_that_others_can_reach_are_refused_without_keys(
    setting: Callable[..., None], host: str
) -> None:
    """In one line that says what to do."""
    setting(host=host)
    with pytest.raises(SettingsError, match=r"OMS_HOST: .*OMS_ACCESS=open"):
        check_listening()


def test_the_api_does_not_listen_beyond_this_machine_without_keys(postgres_url: str) -> None:
    """In one line that says what to do; other processes, which listen nowhere, do not mind."""
    host = "0.0.0.0"
    done = run_command("api.server", database=postgres_url, OMS_HOST=host, OMS_PORT=str(free_port()))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "OMS_HOST: " in line
    assert "OMS_ACCESS=open" in line
    assert done.stdout == ""
    assert run_command("shared.settings", database=postgres_url, OMS_HOST=host).returncode == 1
    assert run_command("shared.database.migrate", database=postgres_url, OMS_HOST=host).returncode == 0


@pytest.mark.parametrize("host", ["127.3.2.1", "localhost", "::1"])
def test_the_api_listens_on_loopback_without_keys(postgres_url: str, redis_url: str, host: str) -> None:
    """Whatever loopback address or name it is given; most other tests give it 127.0.0.1."""
    port = free_port()
    with ServiceProcess("api.server", database=postgres_url, redis=redis_url, port=port, OMS_HOST=host):
        address = f"[{host}]" if ":" in host else host

        def answers() -> bool:
            try:
                return httpx.get(f"http://{address}:{port}/orders").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, f"it answers on {host}", 20)


def test_the_api_listens_anywhere_with_keys(postgres_url: str, redis_url: str) -> None:
    """The key decides then."""
    everywhere = {"OMS_HOST": "0.0.0.0", "OMS_API_KEYS": SETTING}
    with serving(database=postgres_url, redis=redis_url, **everywhere) as (api, _):
        assert api.client.get("/orders").status_code == 401
        socket.create_connection(("127.0.0.1", int(_port(api))), timeout=5).close()
