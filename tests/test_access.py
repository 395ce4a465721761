"""API keys: who may read and who may write in a deployment with OMS_API_KEYS."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from api.app import ROUTES
from api.http.access import needs_key
from api.http.scopes import SCOPES
from shared.settings import SettingsError, settings
from tests.builders import later, order_body
from tests.drivers import Api
from tests.processes import ServiceProcess
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from tests.drivers import Database

KEYS = {
    "office": ("write", "key of the office"),
    "shop": ("write", "key of the shop"),
    "board": ("read", "key of the board"),
}
SETTING = ",".join(f"{name}:{role}:{sha256(key.encode()).hexdigest()}" for name, (role, key) in KEYS.items())


@dataclass
class Guarded:
    """An API with keys, and its process."""

    api: Api
    process: ServiceProcess

    def request(self, method: str, path: str, caller: str | None = None, **more: Any) -> httpx.Response:
        """Make a request with a caller's key."""
        headers = {**more.pop("headers", {})}
        if caller:
            headers["Authorization"] = f"Bearer {KEYS[caller][1]}"
        return self.api.client.request(method, path, headers=headers, **more)


@pytest.fixture(scope="module")
def _guarded_server(postgres_url: str, redis_url: str) -> Iterator[Guarded]:
    with serving(database=postgres_url, redis=redis_url, OMS_API_KEYS=SETTING) as (api, process):
        yield Guarded(api, process)


@pytest.fixture
def guarded(_guarded_server: Guarded, api: Api) -> Guarded:
    """An API with keys, with one order."""
    api.placed_order(id=5)
    return _guarded_server


READS = ("/orders", "/orders/5", "/services", "/services/123", "/calendars", "/fee-summaries")
WRITES = (
    *(("POST", "/orders"), ("POST", "/orders?dry_run=true"), ("POST", "/orders/batch"), ("PUT", "/orders/5")),
    *(("PATCH", "/orders/5"), ("DELETE", "/orders/5"), ("POST", "/services"), ("PUT", "/services/123")),
    ("DELETE", "/services/123"),
)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        "Basic a2V5OmtleQ==",
        "key of the office",
        "Bearer key of the offic",
        "Bearer KEY OF THE OFFICE",
        f"Bearer {sha256(b'key of the office').hexdigest()}",
        "Bearer office",
        "Bearer kéy",
    ],
)
def test_a_request_without_a_valid_key_is_answered_401_and_changes_nothing(
    guarded: Guarded, database: Database, authorization: str | None
) -> None:
    """The 401 says how to authenticate, and comes before anything else in the request is checked."""
    counts = database.counts()
    headers = [] if authorization is None else [(b"Authorization", authorization.encode("latin-1"))]
    for method, path in (*WRITES, *(("GET", path) for path in READS), ("GET", "/orders/abc?x=1")):
        answer = guarded.api.client.request(method, path, headers=headers, content=b"{")
        assert answer.status_code == 401, (method, path)
        assert answer.json()["type"] == "/problems/unauthenticated"
        assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert database.counts() == counts


def test_no_route_is_forgotten_where_keys_are_checked(guarded: Guarded) -> None:
    """Each answers 401 to each of its methods, except those for callers who have no key yet."""
    for handler in ROUTES:
        for template in handler.paths:
            path = re.sub(r"\{[^}]+\}", "1", template)
            for method in ("OPTIONS", *handler.http_methods):
                status = guarded.request(str(method), path).status_code
                assert (status == 401) is needs_key(path), (method, path, status)


@pytest.mark.parametrize("caller", ["board", "office"])
def test_any_key_may_read(guarded: Guarded, caller: str) -> None:
    """GET, HEAD and OPTIONS are allowed with either kind of key."""
    for path in READS:
        assert guarded.request("GET", path, caller).status_code == 200, path
        assert guarded.request("HEAD", path, caller).status_code == 200, path
        assert guarded.request("OPTIONS", path, caller).status_code == 204, path


def test_a_read_only_key_cannot_write(guarded: Guarded, database: Database) -> None:
    """403 whatever the body is, also for a dry run."""
    counts = database.counts()
    for method, path in WRITES:
        answer = guarded.request(method, path, "board", json=order_body())
        assert answer.status_code == 403, (method, path)
        assert answer.json()["type"] == "/problems/forbidden"
    assert database.counts() == counts


def test_a_write_key_may_write(guarded: Guarded) -> None:
    """The name of the authentication scheme is case-insensitive (RFC 9110, 11.1)."""
    assert guarded.request("POST", "/orders", "office", json=order_body(at=later(days=1))).status_code == 201
    headers = {"Authorization": f"bearer {KEYS['office'][1]}"}
    assert guarded.api.client.delete("/orders/5", headers=headers).status_code == 204


def test_health_contract_and_problem_pages_need_no_key(guarded: Guarded) -> None:
    """Callers read them before they have a key."""
    for path in (
        "/health/live",
        "/health/ready",
        "/openapi.yaml",
        "/openapi.json",
        "/docs",
        "/docs/start.js",
        "/problems/forbidden",
    ):
        assert guarded.request("GET", path).status_code == 200, path


def test_a_caller_learns_what_its_key_of_the_settings_allows(guarded: Guarded) -> None:
    """A `read` key also opens what needs a scope that it lacks: that is said apart from its scopes."""
    reading, writing = (guarded.request("GET", "/caller", caller).json() for caller in ("board", "office"))
    assert reading == {
        "name": "board",
        "scopes": ["orders:read", "changes:read", "summaries:read"],
        "reads_all": True,
        "expires_at": None,
        "keys_required": True,
    }
    assert guarded.request("GET", "/webhooks", "board").status_code == 200
    assert (writing["name"], writing["reads_all"]) == ("office", False)
    assert writing["scopes"] == [scope for scope in SCOPES if scope != "keys:manage"]


def test_where_no_keys_are_required_the_caller_is_anyone(api: Api) -> None:
    """Whatever the request has as its key: it is ignored."""
    for headers in ({}, {"Authorization": "Bearer no such key"}):
        assert api.client.get("/caller", headers=headers).json() == {
            "name": "anyone",
            "scopes": list(SCOPES),
            "reads_all": False,
            "expires_at": None,
            "keys_required": False,
        }


def test_an_idempotency_key_is_private_to_the_api_key_that_sent_it(guarded: Guarded) -> None:
    """Two callers may use the same one; neither sees the other's answer."""
    key = {"Idempotency-Key": "try-1"}
    first = guarded.request("POST", "/services", "office", json={"name": "One"}, headers=key)
    other = guarded.request("POST", "/services", "shop", json={"name": "Two"}, headers=key)
    assert (first.status_code, other.status_code) == (201, 201)
    assert "idempotency-replayed" not in other.headers
    again = guarded.request("POST", "/services", "shop", json={"name": "Two"}, headers=key)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.content == other.content


def test_no_key_is_ever_logged(guarded: Guarded) -> None:
    """Valid and invalid keys are both kept out of the log."""
    guarded.request("GET", "/orders", "office")
    guarded.api.client.get("/orders", headers={"Authorization": "Bearer a wrong guess"})
    log = guarded.process.log
    assert "answered" in log
    assert "key of the" not in log
    assert "wrong guess" not in log


@pytest.mark.parametrize(
    "keys",
    [
        "office",
        "office:write",
        "office:write:secret",
        f"office:admin:{'0' * 64}",
        f"office:write:{'G' * 64}",
        f"office:write:{'0' * 63}",
        f":write:{'0' * 64}",
        f"a:read:{'0' * 64},a:write:{'1' * 64}",
        f"a:read:{'0' * 64};b:write:{'1' * 64}",
    ],
)
def test_the_service_does_not_start_with_malformed_api_keys(setting: Callable[..., None], keys: str) -> None:
    """A setting that was half understood might allow every request."""
    setting(api_keys=keys)
    with pytest.raises(SettingsError, match=r"OMS_API_KEYS: .*name:read:sha256"):
        settings()
