"""API keys in the database: made, used, rotated and revoked while the service runs."""

from __future__ import annotations

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from api.app import ROUTES
from api.http.access import needs_key
from api.http.key_texts import make_key_text, read_key_text
from api.http.scopes import ANY_KEY, SCOPES
from tests.builders import later, order_body
from tests.drivers import wait_until
from tests.key_steps import bearer, key_command, make_key
from tests.processes import NO_REDIS, run_command
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.drivers import Api, Database

WITHIN_SECONDS = 1.0


@pytest.fixture(scope="module")
def served(postgres_url: str) -> Iterator[Api]:
    """A server of two processes that always asks for keys."""
    with serving(database=postgres_url, redis=NO_REDIS, OMS_API_PROCESSES="2", OMS_ACCESS="keys") as (api, _):
        yield api


@pytest.fixture
def twice(served: Api, database: Database) -> Iterator[Api]:
    """The server, which knows no key of an earlier test."""
    database.add_services()
    yield served
    time.sleep(WITHIN_SECONDS)  # nobody sends a request meanwhile: then each process reads the keys again


@pytest.fixture
def admin(database: Database) -> dict[str, str]:
    """The header of a key that may do everything."""
    return bearer(make_key(database, "admin", "all"))


def statuses(api: Api, key: str, times: int = 24) -> set[int]:
    """List orders over many new connections, so that each process answers some; return the statuses."""

    def list_once(_: int) -> int:
        return httpx.get(f"{api.url}/orders", headers=bearer(key), trust_env=False).status_code

    with ThreadPoolExecutor(4) as threads:
        return set(threads.map(list_once, range(times)))


def created(api: Api, admin: dict[str, str], name: str = "shop", **members: Any) -> dict[str, Any]:
    """Make a key over the API, and return the answer's content."""
    answer = api.client.post(
        "/keys", json={"name": name, "scopes": ["orders:read"], **members}, headers=admin
    )
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    content: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/keys/{content['id']}"
    return content


def test_a_key_with_a_typing_error_is_recognised_by_its_checksum() -> None:
    """Each character counts; a key is 64 characters."""
    key = make_key_text()
    assert len(key.text) == 64
    assert read_key_text(key.text) == key
    for place in range(4, 64):
        wrong = "a" if key.text[place] != "a" else "b"
        assert read_key_text(key.text[:place] + wrong + key.text[place + 1 :]) is None, place
    assert read_key_text(key.text[:-1]) is None
    assert read_key_text("") is None


def test_a_key_opens_what_its_scope_names_and_nothing_else(twice: Api, database: Database) -> None:
    """Each route with each scope: 403 names the scope that is missing, and comes before all other faults."""
    keys = {scope: make_key(database, scope.replace(":", "-"), scope) for scope in SCOPES}
    time.sleep(WITHIN_SECONDS)
    for handler in ROUTES:
        for template in handler.paths:
            path = template.replace(":str", "").replace("{", "x").replace("}", "")
            if not needs_key(path) or "stream" in path:
                continue
            needed = handler.opt["scope"]
            for method in map(str, handler.http_methods):
                for scope, key in keys.items():
                    answer = twice.client.request(method, f"{path}?no_such=1", headers=bearer(key))
                    if needed in (scope, ANY_KEY):
                        assert answer.status_code == 400, (method, path, scope, answer.text)
                    else:
                        assert answer.status_code == 403, (method, path, scope)
                        if method != "HEAD":
                            name = scope.replace(":", "-")
                            detail = f"The key of {name} lacks the scope {needed}."
                            assert answer.json()["detail"] == detail


@pytest.mark.parametrize("key", ["wrong", "oms_", "mistyped", "unknown"])
def test_an_invalid_key_is_refused(twice: Api, database: Database, key: str) -> None:
    """A mistyped one is told from an unknown one."""
    valid = make_key(database, "shop", "orders:read")
    sent = {"mistyped": valid[:-1] + ("a" if valid[-1] != "a" else "b"), "unknown": make_key_text().text}
    answer = twice.client.get("/orders", headers=bearer(sent.get(key, key)))
    assert answer.status_code == 401
    is_checked = key in ("oms_", "mistyped")
    assert ("checksum" in answer.json()["detail"]) is is_checked


def test_a_key_counts_within_a_second_in_every_process(
    twice: Api, database: Database, admin: dict[str, str]
) -> None:
    """Made, rotated with and without overlap, and revoked; only hashes are stored."""
    shop = created(twice, admin)
    time.sleep(WITHIN_SECONDS)
    assert statuses(twice, shop["key"]) == {200}
    rotated = twice.client.post(
        f"/keys/{shop['id']}/rotation", json={"overlap": "PT2S"}, headers=admin
    ).json()
    assert rotated["old_valid_until"] is not None
    time.sleep(WITHIN_SECONDS)
    assert statuses(twice, rotated["key"]) == {200}
    time.sleep(1.5)
    assert statuses(twice, shop["key"]) == {401}
    last = twice.client.post(f"/keys/{shop['id']}/rotation", json={"overlap": "PT0S"}, headers=admin).json()
    time.sleep(WITHIN_SECONDS)
    assert (statuses(twice, rotated["key"]), statuses(twice, last["key"])) == ({401}, {200})
    assert twice.client.delete(f"/keys/{shop['id']}", headers=admin).status_code == 204
    time.sleep(WITHIN_SECONDS)
    assert statuses(twice, last["key"]) == {401}
    assert twice.client.delete(f"/keys/{shop['id']}", headers=admin).status_code == 404
    stored = str(database.rows("SELECT api_key::text FROM api_key"))
    assert not any(key["key"] in stored for key in (shop, rotated, last))


def test_a_caller_learns_its_scopes_and_when_what_it_sent_expires(twice: Api, admin: dict[str, str]) -> None:
    """A secret that was rotated expires with its overlap, the new one with the key."""
    time.sleep(WITHIN_SECONDS)
    end = "2199-01-01T00:00:00.000Z"
    shop = created(twice, admin, scopes=["orders:write", "orders:read"], expires_at=end)
    time.sleep(WITHIN_SECONDS)
    mine = {"name": "shop", "scopes": ["orders:read", "orders:write"], "reads_all": False}
    caller = twice.client.get("/caller", headers=bearer(shop["key"]))
    assert caller.json() == {**mine, "expires_at": end, "keys_required": True}
    rotated = twice.client.post(f"/keys/{shop['id']}/rotation", headers=admin).json()
    time.sleep(WITHIN_SECONDS)
    old, new = (twice.client.get("/caller", headers=bearer(key["key"])).json() for key in (shop, rotated))
    assert (old["expires_at"], new["expires_at"]) == (rotated["old_valid_until"], end)
    assert twice.client.get("/caller", headers=admin).json()["expires_at"] is None


def test_the_default_overlap_lets_both_secrets_in(twice: Api, admin: dict[str, str]) -> None:
    """A rotation without a body leaves a day to switch over."""
    shop = created(twice, admin)
    rotated = twice.client.post(f"/keys/{shop['id']}/rotation", headers=admin).json()
    time.sleep(WITHIN_SECONDS)
    assert statuses(twice, shop["key"]) == statuses(twice, rotated["key"]) == {200}


def test_a_secret_outlives_its_rotation_however_many_came_before(twice: Api, admin: dict[str, str]) -> None:
    """Of more than are kept, older ones give way, also if all of them end at the same time."""
    for name in ("one", "two", "three", "four"):
        shop = created(twice, admin, name)
        url = f"/keys/{shop['id']}/rotation"
        for _ in range(9):
            shop = twice.client.post(url, json={"overlap": "P30D"}, headers=admin).json()
        rotated = twice.client.post(url, json={"overlap": "P1D"}, headers=admin).json()
        for key in (shop["key"], rotated["key"]):
            time.sleep(WITHIN_SECONDS)
            assert twice.client.get("/orders", headers=bearer(key)).status_code == 200


def test_a_key_expires(twice: Api, admin: dict[str, str]) -> None:
    """It is refused from that time on, and can still be seen and revoked."""
    shop = created(twice, admin, expires_at=_soon(2))
    assert statuses(twice, shop["key"]) <= {200, 401}
    time.sleep(2)
    answer = twice.client.get("/orders", headers=bearer(shop["key"]))
    assert (answer.status_code, answer.json()["detail"]) == (401, "This API key has expired.")
    assert twice.client.get(f"/keys/{shop['id']}", headers=admin).json()["name"] == "shop"


def _soon(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


def test_nobody_can_give_what_they_do_not_have(twice: Api, database: Database, admin: dict[str, str]) -> None:
    """Neither to a new key nor by reading the new secret of a key that may more."""
    clerk = bearer(make_key(database, "clerk", "keys:manage", "orders:read"))
    time.sleep(WITHIN_SECONDS)
    answer = twice.client.post("/keys", json={"name": "x", "scopes": ["orders:write"]}, headers=clerk)
    assert (answer.status_code, "orders:write" in answer.json()["detail"]) == (403, True)
    strong = created(twice, admin, "strong", scopes=["orders:write"])
    assert twice.client.post(f"/keys/{strong['id']}/rotation", json={}, headers=clerk).status_code == 403
    assert created(twice, clerk, "weak")["scopes"] == ["orders:read"]


def test_a_repeated_create_does_not_show_the_key_again(
    twice: Api, database: Database, admin: dict[str, str]
) -> None:
    """Nor is it kept for the repeat."""
    body, key = {"name": "shop", "scopes": ["orders:read"]}, {**admin, "Idempotency-Key": "one"}
    first, again = (twice.client.post("/keys", json=body, headers=key) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == {**first.json(), "key": None}
    assert first.json()["key"] not in str(database.rows("SELECT answer FROM idempotency_key"))
    assert twice.client.post("/keys", json=body, headers=admin).status_code == 409


def test_the_last_use_of_a_key_is_written_once_a_minute(twice: Api, admin: dict[str, str]) -> None:
    """By all processes together."""
    shop = created(twice, admin)
    statuses(twice, shop["key"])

    def last_use() -> Any:
        return twice.client.get(f"/keys/{shop['id']}", headers=admin).json()["last_used_at"]

    wait_until(lambda: last_use() is not None, "the last use is written")
    first = last_use()
    statuses(twice, shop["key"])
    time.sleep(0.5)
    assert last_use() == first


def test_changes_name_the_key_that_made_them(twice: Api, database: Database) -> None:
    """The actor is the key's name."""
    shop = bearer(make_key(database, "shop", "orders:write"))
    time.sleep(WITHIN_SECONDS)
    assert twice.client.post("/orders", json=order_body(at=later(days=1)), headers=shop).status_code == 201
    assert database.value("SELECT actor FROM order_change") == "shop"


def test_an_open_deployment_asks_for_keys_from_the_first_one_on(
    postgres_url: str, database: Database
) -> None:
    """The operator makes it; callers can't, and revoking the last one opens nothing."""
    with serving(database=postgres_url, redis=NO_REDIS) as (api, _):
        assert api.client.get("/orders").status_code == 200
        assert api.client.get("/keys").json()["items"] == []
        answer = api.client.post("/keys", json={"name": "mine", "scopes": ["keys:manage"]})
        assert answer.status_code == 403
        key = make_key(database, "shop", "orders:read")
        time.sleep(WITHIN_SECONDS)
        assert api.client.get("/orders").status_code == 401
        assert api.client.get("/orders", headers=bearer(key)).status_code == 200
        key_command(database, "revoke", "shop")
        time.sleep(WITHIN_SECONDS)
        both = {api.client.get("/orders", headers=headers).status_code for headers in ({}, bearer(key))}
        assert both == {401}


def test_a_live_stream_ends_when_its_key_is_revoked(
    twice: Api, database: Database, admin: dict[str, str]
) -> None:
    """No later change is sent on it."""
    reader = created(twice, admin, "reader", scopes=["changes:read"])
    url = f"{twice.url}/order-changes/stream"
    with httpx.stream("GET", url, headers=bearer(reader["key"]), timeout=30, trust_env=False) as stream:
        events = stream.iter_text()
        assert "position" in next(events)
        assert twice.client.delete(f"/keys/{reader['id']}", headers=admin).status_code == 204
        time.sleep(WITHIN_SECONDS)
        order = order_body(at=later(days=1))
        assert twice.client.post("/orders", json=order, headers=admin).status_code == 201
        database.rows("SELECT assign_positions(100)")
        assert "order.created" not in "".join(events)


def test_a_revoked_key_changes_nothing_with_a_body_that_was_half_sent_before(
    twice: Api, admin: dict[str, str], database: Database
) -> None:
    """Neither an order nor, which would outlive the revocation, another key."""
    thief = created(twice, admin, "thief", scopes=["orders:write", "keys:manage"])
    bodies = {"/keys": {"name": "mine", "scopes": ["keys:manage"]}, "/orders": order_body(at=later(days=1))}
    with ExitStack() as opened:
        unfinished = []
        for path, content in bodies.items():
            connection = http.client.HTTPConnection(twice.url.removeprefix("http://"), timeout=20)
            opened.enter_context(closing(connection))
            body = json.dumps(content).encode()
            connection.putrequest("POST", path)
            for name, value in {**bearer(thief["key"]), "Content-Type": "application/json"}.items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body[:20])
            unfinished.append((connection, body[20:]))
        time.sleep(0.2)
        assert twice.client.delete(f"/keys/{thief['id']}", headers=admin).status_code == 204
        time.sleep(WITHIN_SECONDS)
        for connection, rest in unfinished:
            connection.send(rest)
            assert connection.getresponse().status == 401
    assert database.rows("SELECT name FROM api_key WHERE revoked_at IS NULL") == [{"name": "admin"}]
    assert database.value("SELECT count(*) FROM orders") == 0


def test_the_operators_command_lists_rotates_and_refuses(database: Database) -> None:
    """Keys go to standard output, refusals to standard error with status 1; 2 for a wrong command line."""
    first = make_key(database, "shop", "orders:read", expires="2199-01-01T00:00:00Z")
    second = key_command(database, "rotate", "shop", "--overlap", "PT1H")
    assert None not in (read_key_text(first), read_key_text(second))
    assert first != second
    listed = key_command(database, "list")
    assert "shop  orders:read  expires 2199-01-01T00:00:00.000Z  last used never" in listed
    wrong = {
        ("make", "shop", "--scopes", "orders:read"): 1,
        ("revoke", "nobody"): 1,
        ("make", "x", "--scopes", "orders:eat"): 2,
        ("make", "anyone", "--scopes", "orders:read"): 2,
        ("make", "x", "--scopes", "orders:read", "--expires", "2020-01-01T00:00:00Z"): 2,
        ("rotate", "shop", "--overlap", "P1M"): 2,
    }
    for arguments, status in wrong.items():
        ran = run_command("oms", "key", *arguments, database=database.url)
        assert ran.returncode == status, (arguments, ran.stderr)
        assert ran.stderr
        assert "Traceback" not in ran.stderr
