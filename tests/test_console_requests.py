"""What requests of the console may do: those of its scripts, of other origins, and the rules of its pages."""

from __future__ import annotations

import json
import re
import socket
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest

from console.rendering import HEADERS
from tests.builders import order_body
from tests.console_steps import OWN, post_key, session
from tests.processes import NO_REDIS
from tests.serving import serving
from tests.test_access import KEYS as SETTING_KEYS
from tests.test_access import SETTING

if TYPE_CHECKING:
    from tests.browser_fixtures import Console
    from tests.drivers import Api, Database

PAGE_HEADERS = {name.lower(): value for name, value in HEADERS.items()}


def test_the_api_itself_ignores_the_cookie_and_the_console_ignores_the_header(
    guarded_console: Console, admin: dict[str, str]
) -> None:
    """So a browser's cookie counts only where requests that write have to be of the same origin."""
    client = guarded_console.api.client
    bearer = {"Authorization": f"Bearer {guarded_console.key('admin')}"}
    assert client.get("/orders", headers=admin).status_code == 401
    assert client.post("/orders", headers=admin | OWN, json=order_body()).status_code == 401
    assert client.get("/console/api/orders", headers=bearer).status_code == 401
    reader = session(guarded_console.api, guarded_console.key("reader"))
    caller = client.get("/console/api/caller", headers=bearer | reader).json()
    assert caller["name"] == "reader"
    assert client.get("/console/health", headers=bearer).status_code == 303


FOREIGN: tuple[dict[str, str], ...] = (
    {},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": ""},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://{host}"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Origin": "http://{host}.evil.example"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://evil.example/{host}"},
    {"Origin": "{host}"},
)


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_pages_of_other_origins_write_nothing(
    guarded: Api, admin: dict[str, str], headers: dict[str, str]
) -> None:
    """Even if a browser sent the cookie for them. The refusal is a problem like the API's."""
    host = guarded.url.removeprefix("http://")
    sent = admin | {name: value.format(host=host) for name, value in headers.items()}
    for method, path in (
        ("POST", "/orders"),
        ("PUT", "/orders/5"),
        ("PATCH", "/orders/5"),
        ("DELETE", "/orders/5"),
        ("POST", "/no/such/path"),
    ):
        answer = guarded.client.request(method, f"/console/api{path}", headers=sent, json=order_body())
        assert answer.status_code == 403, (method, path)
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert (problem["type"], problem["status"]) == ("/problems/forbidden", 403)
        assert problem["request_id"] == answer.headers["x-request-id"]
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    for path in ("/console/sign-in", "/console/sign-out"):
        answer = guarded.client.post(path, headers=sent, data={"key": "x"})
        assert (answer.status_code, answer.headers.get_list("set-cookie")) == (403, []), path
    assert guarded.client.get("/console/api/orders", headers=sent).json()["items"] == []


def test_over_plain_http_the_origin_counts_and_the_form_says_that_browsers_keep_no_session(
    guarded_console: Console, admin: dict[str, str]
) -> None:
    """Browsers send no Sec-Fetch-Site there, and drop the cookie: without words, the form would return."""
    api, key = guarded_console.api, guarded_console.key("reader")
    plain, tls = {"Origin": api.url}, {"Origin": api.url.replace("http:", "https:")}
    written = api.client.post("/console/api/services", headers=admin | plain, json={"name": "New"})
    assert written.status_code == 201
    answer = api.client.post("/console/sign-in", headers=plain, data={"key": key})
    assert (answer.status_code, answer.headers.get_list("set-cookie")) == (400, [])
    assert "only over HTTPS" in answer.text
    assert api.client.post("/console/sign-in", headers=tls, data={"key": key}).status_code == 303


def test_requests_of_scripts_reach_the_api_unchanged(guarded_console: Console, admin: dict[str, str]) -> None:
    """Bodies, queries, percent-encoded paths, entity tags, HEAD and the words of its problems."""
    client = guarded_console.api.client
    bearer = {"Authorization": f"Bearer {guarded_console.key('admin')}"}
    order = client.post(
        "/console/api/orders",
        headers=admin | OWN | {"Idempotency-Key": "k1", "Change-Reason": "%C3%BC"},
        json=order_body(id="5", reference="ä&=?/"),
    )
    assert order.status_code == 201, order.text
    again = client.post(
        "/console/api/orders",
        headers=admin | OWN | {"Idempotency-Key": "k1"},
        json=order_body(id="5", reference="ä&=?/"),
    )
    assert again.headers["idempotency-replayed"] == "true"
    guarded_console.pipeline.wait_until_summed()  # the change has its position
    for method, path in (
        ("GET", "/orders/5"),
        ("HEAD", "/orders/5"),
        ("OPTIONS", "/orders"),
        ("GET", "/orders?reference=%C3%A4%26%3D%3F%2F"),
        ("GET", "/orders?reference=a&reference=b"),
        ("GET", "/orders?x=%FF"),
        ("GET", "/orders/5/"),
        ("GET", "/orders%2F5"),
        ("GET", "/orders/%2e%2e/services"),
        ("GET", "/calendars/a%26b%20c"),
        ("GET", "/no/such/path"),
        ("GET", f"/orders?reference={'x' * 9_000}"),
        ("GET", f"/{'x' * 3_000}"),
        ("GET", "/order-changes?after=0"),
        ("GET", "/console/health"),
    ):
        by_cookie = client.request(method, f"/console/api{path}", headers=admin)
        by_key = client.request(method, path, headers=bearer)
        if path == "/console/health":  # the API has no such path
            assert by_cookie.status_code == 404
            continue
        assert by_cookie.status_code == by_key.status_code, path
        assert _without_id(by_cookie) == _without_id(by_key), path
        for name in ("etag", "content-type", "content-length", "allow", "cache-control", "link"):
            assert by_cookie.headers.get_list(name) == by_key.headers.get_list(name), (path, name)
    tag = {"If-None-Match": client.get("/orders/5", headers=bearer).headers["etag"]}
    kept = client.get("/console/api/orders/5", headers=admin | tag)
    assert (kept.status_code, kept.content) == (304, b"")
    stale = {"If-Match": '"20000000009"'}
    assert client.delete("/console/api/orders/5", headers=admin | OWN | stale).status_code == 412
    large = client.post(
        "/console/api/orders",
        headers=admin | OWN | {"Content-Type": "application/json"},
        content=b'"' + b"x" * 530_000 + b'"',
    )
    assert (large.status_code, large.json()["type"]) == (413, "/problems/body-too-large")
    events = {"Accept": "text/event-stream"}
    with client.stream("GET", "/console/api/order-changes/stream?after=0", headers=admin | events) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        line = next(line for line in stream.iter_lines() if '"order.created"' in line)
    change = json.loads(line.removeprefix("data: "))
    assert (change["type"], change["actor"], change["reason"]) == ("order.created", "admin", "ü")


def _without_id(answer: httpx.Response) -> bytes:
    return re.sub(rb'"request_id":"[^"]*"', b"", answer.content)


def test_a_body_that_stalls_ends_in_time(postgres_url: str, database: Database) -> None:
    """408 of the API for a script's request; for the form of the sign-in likewise."""
    database.add_services()
    quick = {"OMS_API_KEYS": SETTING, "OMS_BODY_TIMEOUT": "3"}
    with serving(database=postgres_url, redis=NO_REDIS, **quick) as (api, _):
        cookie = session(api, SETTING_KEYS["office"][1])["Cookie"]
        host, _, port = api.url.removeprefix("http://").partition(":")
        for path, kind in (
            ("/console/api/orders", "application/json"),
            ("/console/sign-in", "application/x-www-form-urlencoded"),
        ):
            with closing(socket.create_connection((host, int(port)), timeout=10)) as caller:
                caller.sendall(
                    f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nCookie: {cookie}\r\n"
                    f"Sec-Fetch-Site: same-origin\r\nContent-Type: {kind}\r\n"
                    "Content-Length: 50\r\n\r\nk".encode()
                )
                assert caller.recv(1000).startswith(b"HTTP/1.1 408 "), path


def test_pages_are_under_the_policy_and_the_rules_of_every_answer(
    guarded_console: Console, admin: dict[str, str]
) -> None:
    """Each header once; also of errors. HEAD has them without a body."""
    client = guarded_console.api.client
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    for path, status in (
        ("/console/sign-in", 200),
        ("/console/health", 200),
        ("/console/no-such-page", 404),
        ("/console/static/no-such-file.js", 404),
        ("/console/static/..%2fapp.py", 404),
        ("/console/static/%2e%2e/app.py", 404),
        ("/console/static/", 404),
        ("/console/api", 404),
        ("/console/%61pi/orders", 405),  # the path is another for a proxy in front: not passed on
    ):
        answers = [client.request(method, path, headers=admin) for method in ("GET", "HEAD")]
        for answer in answers:
            assert answer.status_code == status, path
            assert answer.headers.get_list("content-security-policy") == [policy]
            assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
            assert answer.headers.get_list("cache-control") == ["no-store"]
            assert answer.headers.get_list("referrer-policy") == ["same-origin"]
            assert answer.headers["content-type"].startswith("text/html")
            assert "access-control-allow-origin" not in answer.headers
        assert "<h1>" in answers[0].text
        assert answers[1].content == b""
    for method in ("GET", "HEAD"):
        assert client.request(method, "/console", headers=admin).headers["location"] == "/console/schedule"
    assert client.post("/console/health", headers=admin | OWN).status_code == 405
    style = client.get("/console/static/console.css")
    assert style.headers.get_list("x-content-type-options") == ["nosniff"]
    tag = {"If-None-Match": style.headers["etag"]}
    assert client.get("/console/static/console.css", headers=tag).status_code == 304


def test_pages_answer_only_under_names_of_this_machine_without_keys(console: Console) -> None:
    """So no page elsewhere reaches the console by giving its own name this machine's address."""
    for path in ("/console", "/console/sign-in", "/console/health", "/console/api/orders"):
        answer = console.api.client.get(path, headers={"Host": "evil.example"})
        assert answer.status_code == 400, path
    written = console.api.client.post(
        "/console/api/services", headers={"Host": "evil.example", **OWN}, json={"name": "x"}
    )
    assert written.status_code == 400


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"key=" + b"x" * 20_000, "application/x-www-form-urlencoded", 413),
        (b"key=%FF%FE&next=%00", "application/x-www-form-urlencoded", 401),
        (b"key=a&key=b", "application/x-www-form-urlencoded", 401),
        (b'{"key": "a"}', "application/json", 401),
        (b"--x\r\nnonsense", "multipart/form-data; boundary=x", 400),
        (b"--x\r\n", "multipart/form-data", 400),
        (b"&".join(b"a%d=" % i for i in range(2000)), "application/x-www-form-urlencoded", 401),
        (b"", "text/plain", 401),
    ],
)
def test_forms_that_no_browser_sends_are_refused_as_a_page(
    guarded: Api, content: bytes, kind: str, status: int
) -> None:
    """Too large, or not a form."""
    answer = guarded.client.post("/console/sign-in", content=content, headers=OWN | {"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert "<h1>" in answer.text


def test_keys_are_in_no_line_of_the_log(postgres_url: str, database: Database) -> None:
    """Neither those that are accepted nor those that are refused, nor the cookie."""
    database.add_services()
    with serving(database=postgres_url, redis=NO_REDIS, OMS_API_KEYS=SETTING) as (api, process):
        key = SETTING_KEYS["office"][1]
        cookie = session(api, key)
        post_key(api, "a-wrong-key-that-is-secret")
        for path in ("/console/health", "/console/api/orders", "/console/no-such-page"):
            api.client.get(path, headers=cookie)
        api.client.post("/console/api/orders", headers=cookie)
        log = process.log
    assert "/console/sign-in" in log
    for secret in (key, "a-wrong-key-that-is-secret", cookie["Cookie"].partition("=")[2]):
        assert secret not in log
    unknown = [line for line in log.splitlines() if "no-such-page" in line]
    assert unknown
    assert all("route=unknown" in line for line in unknown)


def test_commands_are_shown_with_the_address_that_the_browser_sees() -> None:
    """Behind a proxy that speaks TLS, that begins with https."""
    from console.rendering import _address_of

    class _Request:
        def __init__(self, **headers: str) -> None:
            self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
            self.url = urlsplit(f"http://{headers['host']}/console")

    for headers, address in (
        ({"host": "127.0.0.1:8000", "sec_fetch_site": "none"}, "http://127.0.0.1:8000"),
        ({"host": "localhost"}, "http://localhost"),
        ({"host": "[::1]:80", "sec_fetch_site": "none"}, "http://[::1]:80"),
        ({"host": "orders.example"}, "http://orders.example"),
        ({"host": "orders.example", "sec_fetch_site": "none"}, "https://orders.example"),
        ({"host": "localhost:8443", "x_forwarded_proto": "https, http"}, "https://localhost:8443"),
    ):
        assert _address_of(_Request(**headers)) == address  # type: ignore[arg-type]  # what it reads of one
