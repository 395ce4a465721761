"""Sessions of the console: signing in and out, and whose cookie counts."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from console import sessions
from shared.secret_keys import SecretKeys, make_secret_key, read_secret_keys
from tests.browser_fixtures import KEYS
from tests.builders import order_body
from tests.console_steps import OWN, cookie_of, is_signed_in, post_key, session
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
