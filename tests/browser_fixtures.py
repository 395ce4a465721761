"""Fixtures of tests in a browser: Chromium, and a whole system that its pages show, with keys or without."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import pytest

from api.http.key_texts import KeyText, make_key_text
from api.http.scopes import SCOPES
from tests.browser import Browser, running_chromium
from tests.console_steps import session
from tests.drivers import Api, Pipeline, wait_until
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser as Chromium
    from playwright.sync_api import Page

KEYS: dict[str, tuple[str, ...]] = {
    "admin": SCOPES,
    "dispatcher": ("orders:read", "orders:write", "changes:read"),
    "reader": ("orders:read", "changes:read", "summaries:read"),
    "finance": ("summaries:read",),
    "operator": ("webhooks:manage", "changes:read"),
}
"""The keys of ``guarded_console`` by name, with their scopes."""

_ADD_KEY = "INSERT INTO api_key (id, name, scopes, secret_hash) VALUES ($1, $2, $3, $4)"


@cache
def _key(name: str) -> KeyText:  # noqa: ARG001 (what it is cached by)
    # The same in every test of a run: an API that has read the keys of an earlier test knows them at once.
    return make_key_text()


@dataclass
class Console:
    """The system behind the pages, and the API that serves them."""

    api: Api
    pipeline: Pipeline

    @property
    def url(self) -> str:
        """Where the pages are, without a path."""
        return self.api.url

    @staticmethod
    def key(name: str) -> str:
        """Return the text of one of ``KEYS``, where keys are asked for."""
        return _key(name).text


@pytest.fixture
def console(pipeline: Pipeline) -> Console:
    """A running system that asks for no keys, without orders, with the sample's three services."""

    def is_open() -> bool:
        return pipeline.api.client.get("/caller").json().get("keys_required") is False

    wait_until(is_open, "keys of the test before are forgotten")
    return Console(pipeline.api, pipeline)


@pytest.fixture(scope="session")
def guarded_api(_pipeline_processes: Pipeline) -> Iterator[Api]:
    """An API that asks for keys, beside the one of ``pipeline``."""
    url, redis = _pipeline_processes.database.url, _pipeline_processes.redis_url
    with serving(database=url, redis=redis, OMS_ACCESS="keys", OMS_LOG_LEVEL="WARNING") as (api, _):
        yield api


@pytest.fixture
def guarded_console(pipeline: Pipeline, guarded_api: Api) -> Console:
    """The same system with an API that asks for keys, and has ``KEYS``."""
    for name, scopes in KEYS.items():
        pipeline.database.rows(_ADD_KEY, _key(name).id, name, list(scopes), _key(name).hash)

    def is_known(name: str) -> bool:
        headers = {"Authorization": f"Bearer {_key(name).text}"}
        return guarded_api.client.get("/caller", headers=headers).status_code == 200

    wait_until(lambda: all(map(is_known, KEYS)), "keys are known")
    return Console(guarded_api, pipeline)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """The browser of one file: it starts in half a second, and other files need its event loop gone."""
    with running_chromium() as chromium:
        yield chromium


@pytest.fixture
def browser(chromium: Chromium, request: pytest.FixtureRequest) -> Iterator[Browser]:
    """Opens pages, and fails the test for their faults."""
    browser = Browser(chromium, request.node.name)
    yield browser
    faults = browser.faults
    browser.close()
    assert faults == [], "\n".join(faults)


@pytest.fixture
def page(browser: Browser, console: Console) -> Page:
    """An empty page on a desktop in light colours, of ``console``."""
    return browser.open(console.url)


@pytest.fixture
def guarded(guarded_console: Console) -> Api:
    """An API that asks for keys."""
    return guarded_console.api


@pytest.fixture
def admin(guarded_console: Console) -> dict[str, str]:
    """The header of an administrator's session."""
    return session(guarded_console.api, guarded_console.key("admin"))
