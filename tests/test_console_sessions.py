"""Sessions of the console: signing in and out, whose cookie counts, and what its requests may do."""

from __future__ import annotations

import json
import re
import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

from console import sessions
from console.rendering import HEADERS
from shared.secret_keys import SecretKeys, make_secret_key, read_secret_keys
from tests.browser_fixtures import KEYS
from tests.builders import order_body
from tests.drivers import wait_until
from tests.processes import NO_REDIS
from tests.serving import serving
from tests.test_access import KEYS as SETTING_KEYS
from tests.test_access import SETTING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.browser import Browser
    from tests.browser_fixtures import Console
    from tests.drivers import Api, Database

OWN = {"Sec-Fetch-Site": "same-origin"}
PAGE_HEADERS = {name.lower(): value for name, value in HEADERS.items()}


def post_key(api: Api, key: str, **more: Any) -> httpx.Response:
    """Send the form of the sign-in, as a browser does."""
    form = {"key": key, **more.pop("form", {})}
    return api.client.post("/console/sign-in", data=form, headers=OWN | more.pop("headers", {}))


def cookie_of(answer: httpx.Response) -> str:
    """Return name and value of the cookie that an answer sets."""
    (header,) = answer.headers.get_list("set-cookie")
    return str(header.partition(";")[0])


def session(api: Api, key: str) -> dict[str, str]:
    """Sign in, and return the header of further requests."""
    answer = post_key(api, key)
    assert answer.status_code == 303, answer.text
    return {"Cookie": cookie_of(answer)}


def is_signed_in(api: Api, cookie: str) -> bool:
    """Return whether a cookie opens the console's part of the API."""
    status = api.client.get("/console/api/caller", headers={"Cookie": cookie}).status_code
    assert status in (200, 401)
    return status == 200


@pytest.fixture
def guarded(guarded_console: Console) -> Api:
    """An API that asks for keys."""
    return guarded_console.api


@pytest.fixture
def admin(guarded_console: Console) -> dict[str, str]:
    """The header of an administrator's session."""
    return session(guarded_console.api, guarded_console.key("admin"))


def test_a_visitor_signs_in_reads_and_signs_out_in_a_browser(
    browser: Browser, guarded_console: Console
) -> None:
    """Chromium keeps the cookie from this machine's HTTP, and no script can read it."""
    page = browser.open(guarded_console.url)
    page.goto("/console")
    assert page.url.endswith("/console/sign-in?next=%2Fconsole")
    browser.expect("status of 401")
    page.get_by_label("API key").fill("no key")
    page.get_by_role("button", name="Sign in").click()
    refusal = guarded_console.api.client.get("/orders", headers={"Authorization": "Bearer no key"}).json()
    assert page.get_by_role("alert").inner_text() == refusal["detail"]
    page.get_by_label("API key").fill(guarded_console.key("reader"))
    page.keyboard.press("Enter")
    page.get_by_role("navigation", name="Pages").wait_for()
    (cookie,) = [each for each in page.context.cookies() if each["name"] == sessions.COOKIE]
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Strict")
    assert cookie["path"] == "/"
    assert sessions.LIFETIME_SECONDS - 60 < cookie["expires"] - time.time() <= sessions.LIFETIME_SECONDS
    assert sessions.COOKIE not in page.evaluate("document.cookie")
    assert page.evaluate("document.body.dataset.scopes") == "changes:read orders:read summaries:read"
    page.goto("/console/health?a=1&b=/x")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/console/sign-in")
    assert [each for each in page.context.cookies() if each["name"] == sessions.COOKIE] == []
    page.goto("/console/health?a=1&b=/x")
    page.get_by_label("API key").fill(guarded_console.key("reader"))
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/health?a=1&b=/x")


def test_a_session_is_one_cookie_of_this_host_alone(guarded_console: Console) -> None:
    """With all that keeps it from scripts, other sites and plain HTTP; and the key can't be seen in it."""
    key = guarded_console.key("reader")
    answer = post_key(guarded_console.api, f"  {key}\n")
    assert (answer.status_code, answer.headers["location"]) == (303, "/console")
    (header,) = answer.headers.get_list("set-cookie")
    value, *attributes = header.split("; ")
    assert value.startswith("__Host-oms-session=")
    assert key not in header
    assert set(attributes) == {"Max-Age=43200", "Path=/", "Secure", "HttpOnly", "SameSite=Strict"}
    ended = guarded_console.api.client.post("/console/sign-out", headers=OWN | {"Cookie": value})
    assert (ended.status_code, ended.headers["location"]) == (303, "/console/sign-in")
    assert "__Host-oms-session=; Max-Age=0; Path=/; Secure" in ended.headers["set-cookie"]


@pytest.mark.parametrize(
    "key", ["", " ", "wrong", "oms_0123", "a b", "é", "x" * 2_501, "a\x00b", "eyJ.eyJ.x"]
)
def test_a_wrong_key_begins_no_session(guarded: Api, key: str) -> None:
    """The form says why, and does not repeat the key."""
    answer = post_key(guarded, key, form={"next": "/console/health"})
    assert answer.status_code == 401
    assert answer.headers.get_list("set-cookie") == []
    assert 'role="alert"' in answer.text
    assert 'value="/console/health"' in answer.text
    assert len(key) < 5 or key not in answer.text


def test_the_longest_token_fits_into_a_cookie() -> None:
    """Browsers ignore a cookie of which name and value have more than 4,096 bytes (RFC 6265bis)."""
    pair = sessions.begin_session("x" * sessions.LONGEST_KEY).partition(";")[0]
    assert len(pair) <= 4_096


def test_a_revoked_key_opens_nothing_a_second_later(guarded_console: Console, admin: dict[str, str]) -> None:
    """The page leads to the sign-in, and from there back."""
    api, reader = guarded_console.api, session(guarded_console.api, guarded_console.key("reader"))
    assert api.client.get("/console/health", headers=reader).status_code == 200
    keys = api.client.get("/console/api/keys", headers=admin).json()["items"]
    (key,) = [each for each in keys if each["name"] == "reader"]
    revoked = api.client.delete(f"/console/api/keys/{key['id']}", headers=OWN | admin)
    assert revoked.status_code == 204
    wait_until(lambda: not is_signed_in(api, reader["Cookie"]), "the session has ended", 2)
    answer = api.client.get("/console/health?a=1&b=%2F", headers=reader)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/console/sign-in?next=%2Fconsole%2Fhealth%3Fa%3D1%26b%3D%252F"


def test_a_cookie_that_was_changed_or_cut_or_is_of_another_secret_is_nobodys(
    guarded: Api, admin: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the service itself can make one."""
    cookie = admin["Cookie"]
    assert is_signed_in(guarded, cookie)
    name, _, value = cookie.partition("=")
    for at in range(0, len(value) - 4, 7):  # the last character of base64 has bits that mean nothing
        other = "A" if value[at] != "A" else "B"
        assert not is_signed_in(guarded, f"{name}={value[:at]}{other}{value[at + 1 :]}"), at
    key = SETTING_KEYS["office"][1]
    others = read_secret_keys(make_secret_key())
    monkeypatch.setattr(sessions, "_secret_keys", lambda: others)
    foreign = sessions.begin_session(key).partition(";")[0]
    for forged in (
        foreign,
        f"{name}={value[:-8]}",
        f"{name}={value}AAAA",
        f"{name}={value}!",
        f'{name}="{value}"',
        f"{name}=",
        f"{name}",
        f"{name}=enc1:",
        f"{name}=enc1:00000000:AAAA",
        f'{name}=["{key}",99999999999]',
        f"__Host-OMS-session={value}",
        f"x={value}",
        f"{name}=x; {name}={value}",
    ):
        assert not is_signed_in(guarded, forged), forged
    assert is_signed_in(guarded, f'theme={{"a": "b, c"}}; x="; {cookie}; y=[]')


def test_a_session_ends_after_twelve_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the browser still sends."""
    cookie = sessions.begin_session("key").partition(";")[0].encode()
    scope: Any = {"headers": [(b"cookie", cookie)]}
    began = time.time()
    assert sessions.key_of(scope) == "key"
    monkeypatch.setattr(time, "time", lambda: began + 12 * 3600 - 2)
    assert sessions.key_of(scope) == "key"
    monkeypatch.setattr(time, "time", lambda: began + 12 * 3600 + 1)
    assert sessions.key_of(scope) is None


def test_what_the_database_keeps_encrypted_is_no_session() -> None:
    """The same key encrypts both: a cookie is sealed as a session's."""
    key = read_secret_keys(make_secret_key()).keys
    sealed = SecretKeys(key, encrypts=True).encrypt(json.dumps(["key", 10**11]), ("webhook", "1"))
    scope: Any = {"headers": [(b"cookie", f"{sessions.COOKIE}={sealed}".encode())]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "_secret_keys", lambda: SecretKeys(key, encrypts=True))
        assert sessions.key_of(scope) is None


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


NOT_PAGES = (
    "//evil.example",
    "/\\evil.example",
    "https://evil.example",
    "javascript:alert(1)",
    "/orders",
    "/consoles",
    "/console/..",
    "/console/../..//evil.example",
    "/console/%2e%2E/orders",
    "/console/health/.%2e/../orders",
    "/console/./",
    "/console//evil.example",
    "/console/%2fevil.example",
    "/console/sign-in?next=/console/sign-in",
    "/console/sign%2din",
    "/console/sign-out",
    "/console/api/orders",
    "/console/static/icon.svg",
    "/console/\tx",
    "/console/x\r\nSet-Cookie: a=b",
    "",
)


@pytest.mark.parametrize("address", NOT_PAGES)
def test_the_way_back_never_leaves_the_console(guarded_console: Console, address: str) -> None:
    """What a link to the sign-in says of it is anybody's."""
    api, key = guarded_console.api, guarded_console.key("reader")
    answer = post_key(api, key, form={"next": address})
    assert (answer.status_code, answer.headers["location"]) == (303, "/console")
    assert "a=b" not in answer.headers.get_list("set-cookie")
    form = api.client.get("/console/sign-in", params={"next": address})
    assert 'name="next" value="/console"' in form.text


def test_the_way_back_keeps_pages_with_their_queries(guarded_console: Console) -> None:
    """Percent-encoded characters too; a backslash is one that the path has."""
    for address, location in (
        ("/console/orders/5", "/console/orders/5"),
        ("/console/x?calendar=a%26b&q=ä#y", "/console/x?calendar=a%26b&q=%C3%A4%23y"),
        ("/console/x?next=//evil.example/..", "/console/x?next=//evil.example/.."),
        ("/console/\\..\\..", "/console/%5C..%5C.."),
    ):
        answer = post_key(guarded_console.api, guarded_console.key("reader"), form={"next": address})
        assert answer.headers["location"] == location


def test_pages_offer_what_the_key_may_do(guarded_console: Console) -> None:
    """Their scripts read it from the page; the API decides all the same."""
    api = guarded_console.api
    for name, scopes in KEYS.items():
        text = api.client.get("/console/health", headers=session(api, guarded_console.key(name))).text
        assert f'data-scopes="{" ".join(sorted(scopes))}"' in text
        assert (' action="/console/search"' in text) == ("orders:read" in scopes), name
    reader = session(api, guarded_console.key("reader"))
    refused = api.client.post("/console/api/orders", headers=reader | OWN, json=order_body())
    assert (refused.status_code, refused.json()["detail"]) == (
        403,
        "The key of reader lacks the scope orders:write.",
    )


@pytest.fixture(params=["with OMS_SECRET_KEY", "without"])
def several(request: pytest.FixtureRequest, postgres_url: str, database: Database) -> Iterator[Api]:
    """A server of two processes."""
    database.add_services()
    secret = {"OMS_SECRET_KEY": make_secret_key()} if request.param.startswith("with ") else {}
    with serving(
        database=postgres_url, redis=NO_REDIS, OMS_API_PROCESSES="2", OMS_API_KEYS=SETTING, **secret
    ) as (api, _):
        yield api


def test_processes_of_one_server_read_each_others_cookies(several: Api) -> None:
    """Over new connections, so that each answers some."""
    cookies = []
    for _ in range(8):
        with httpx.Client(base_url=several.url, trust_env=False) as client:
            form = {"key": SETTING_KEYS["office"][1]}
            cookies.append(cookie_of(client.post("/console/sign-in", data=form, headers=OWN)))
    for cookie in cookies * 5:
        with httpx.Client(base_url=several.url, trust_env=False) as client:
            assert client.get("/console/api/caller", headers={"Cookie": cookie}).status_code == 200


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
