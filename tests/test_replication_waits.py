"""Commits that wait for a standby: their waits may be cancelled, and then they are not confirmed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from shared.database.engine import ANSWER_GRACE_SECONDS
from stack.child_processes import working_in
from stack.embedded_postgres import EmbeddedPostgres
from tests.builders import order_body
from tests.drivers import Api, Database, wait_until
from tests.processes import NO_REDIS, ROOT, environment, migrate
from tests.serving import serving

WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
OUTCOME_UNKNOWN = "either all of it was stored or nothing"
QUICK = {"OMS_STATEMENT_TIMEOUT": "2"}


@dataclass
class WaitingServer:
    """A primary whose standby can be taken away, and an API on it."""

    postgres: EmbeddedPostgres
    database: Database
    api: Api

    @property
    def url(self) -> str:
        """The URL of its database."""
        return self.postgres.url

    @contextmanager
    def without_standby(self) -> Iterator[None]:
        """Have commits wait for a standby that is absent, except those of ``database``."""
        self.database.rows("SET synchronous_commit = local")
        self._name_standbys("absent")
        try:
            yield
        finally:
            self._name_standbys("")
        wait_until(lambda: not self.database.rows(WAITING), "no commit waits")

    def _name_standbys(self, names: str) -> None:
        self.database.rows(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        self.database.rows("SELECT pg_reload_conf()")
        wait_until(
            lambda: self.database.value("SHOW synchronous_standby_names") == names, "the setting is in effect"
        )

    def end_waits(self, how: str) -> None:
        """Wait until a commit waits, and cancel that, or end its session."""
        wait_until(lambda: bool(self.database.rows(WAITING)), "a commit waits")
        self.database.rows(f"SELECT {how}(pid) FROM ({WAITING}) AS waiting")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WaitingServer]:
    folder: Path = tmp_path_factory.mktemp("primary")
    with ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres", durable=False))
        migrate(postgres.url)
        database = stack.enter_context(Database(postgres.url))
        database.add_services()
        api, _ = stack.enter_context(serving(database=postgres.url, redis=NO_REDIS, **QUICK))
        yield WaitingServer(postgres, database, api)


def _answer_to(request: Callable[[], httpx.Response], meanwhile: Callable[[], object]) -> httpx.Response:
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(request()))
    thread.start()
    meanwhile()
    thread.join(20)
    (answer,) = answers
    return answer


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
def test_a_create_whose_wait_for_standbys_ended_early_is_not_confirmed(
    server: WaitingServer, how: str
) -> None:
    """PostgreSQL says that it succeeded, and warns. With its key it is confirmed later, and stored once."""
    server.api.placed_order(calendar=how)  # its calendar exists
    at = "2034-01-01T00:00:00Z"

    def create() -> httpx.Response:
        return server.api.client.post(
            "/orders", json=order_body(calendar=how, at=at), headers={"Idempotency-Key": how}
        )

    with server.without_standby():
        answer = _answer_to(create, lambda: server.end_waits(how))
    assert (answer.status_code, OUTCOME_UNKNOWN in answer.text) == (503, True)
    repeated = create()
    assert repeated.status_code == 201
    assert len(server.api.every_item(f"/orders?calendar={how}")) == 2


@pytest.mark.parametrize(("method", "done"), [("POST", 201), ("PATCH", 200)])
def test_no_repeat_is_confirmed_before_a_standby_has_the_first_try(
    server: WaitingServer, method: str, done: int
) -> None:
    """What was stored is visible when its wait was cancelled, and a failover may lose it all the same."""
    order = server.api.placed_order(calendar=method)
    body = order_body(calendar=method, at="2034-01-01T00:00:00Z") if method == "POST" else {"totalfee": 7}
    path = "/orders" if method == "POST" else f"/orders/{order['id']}"

    def write() -> httpx.Response:
        return server.api.client.request(method, path, json=body, headers={"Idempotency-Key": "repeated"})

    with server.without_standby():
        assert _answer_to(write, lambda: server.end_waits("pg_cancel_backend")).status_code == 503
        repeated = write()
        assert (repeated.status_code, OUTCOME_UNKNOWN in repeated.text) == (503, True), repeated.text
    assert write().status_code == done


def test_an_update_whose_wait_for_standbys_was_cancelled_is_not_confirmed(server: WaitingServer) -> None:
    order = server.api.placed_order(calendar="update")
    change = {"totalfee": 7}
    with server.without_standby():
        answer = _answer_to(
            lambda: server.api.client.patch(f"/orders/{order['id']}", json=change),
            lambda: server.end_waits("pg_cancel_backend"),
        )
    assert (answer.status_code, OUTCOME_UNKNOWN in answer.text) == (503, True)


def test_a_write_that_no_standby_confirms_is_answered_in_time_and_waits_on(server: WaitingServer) -> None:
    """It is stored in the end, and nobody sees it before a standby could have it."""
    server.api.placed_order(calendar="waits")
    at = "2034-01-01T00:00:00Z"
    with server.without_standby():
        answer = server.api.client.post("/orders", json=order_body(calendar="waits", at=at))
        assert (answer.status_code, OUTCOME_UNKNOWN in answer.text) == (503, True)
        assert len(server.database.rows(WAITING)) == 1
        assert len(server.api.every_item("/orders?calendar=waits")) == 1
    assert len(server.api.every_item("/orders?calendar=waits")) == 2


def test_a_request_to_a_server_that_hangs_is_answered_in_time(server: WaitingServer) -> None:
    """Its kernel acknowledges every packet, and its time limits of statements hang too."""
    server.api.placed_order(calendar="hangs")  # the API has a session
    processes = working_in(server.postgres.home / "data", "postgres")
    for process in processes:
        process.suspend()
    try:
        began = time.monotonic()
        answer = server.api.place_order(calendar="hangs", at="2034-01-01T00:00:00Z")
        seconds = time.monotonic() - began
    finally:
        for process in processes:
            process.resume()
    assert answer.status_code == 503
    assert seconds < 2 * (
        2 + ANSWER_GRACE_SECONDS
    )  # OMS_STATEMENT_TIMEOUT, and the time that it takes to tell


_ASSIGN_LIKE_THE_RELAY = """
import asyncio
from shared.change_log import assign_positions
from shared.database.engine import DB, DatabaseUnavailableError

async def assign():
    await DB.start(1, positioning=True)
    try:
        await assign_positions()
    except DatabaseUnavailableError as error:
        print(type(error).__name__)
    finally:
        await DB.stop()

asyncio.run(assign())
"""


def test_no_position_is_seen_before_a_standby_has_it(server: WaitingServer) -> None:
    """However long the relay waits: it gives up in the end, and its commit is not cancelled."""
    server.api.placed_order(calendar="positions")
    with server.without_standby():
        done = subprocess.run(
            [sys.executable, "-c", _ASSIGN_LIKE_THE_RELAY],
            env=environment(server.url, NO_REDIS, OMS_STATEMENT_TIMEOUT="1"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "DatabaseUnavailableError"
        assert len(server.database.rows(WAITING)) == 1
        assert server.api.client.get("/order-changes/latest").json() == {"position": 0}
    assert server.api.client.get("/order-changes/latest").json()["position"] > 0
