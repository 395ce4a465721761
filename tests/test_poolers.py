"""Behind a real PgBouncer, in session and in transaction mode: everything works, and misuse is refused."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from shared.database.session_settings import TRACKED, open_session
from shared.database.sessions import Session
from shared.settings import settings
from stack.embedded_valkey import free_port
from tests.builders import later, order_body
from tests.command_steps import oms
from tests.drivers import Api, Database, wait_until
from tests.pgbouncer import (
    OF_PREPARED_STATEMENTS,
    STATEMENT_TIMEOUT,
    PgBouncer,
    Server,
    of_mode,
    pooled_server,
    require_pgbouncer,
)
from tests.processes import ServiceProcess, run_command

pytestmark = pytest.mark.timeout(180)

MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose role has the settings that the guide says."""
    with pooled_server(tmp_path_factory.mktemp("pooled")) as server:
        yield server


@dataclass
class System:
    """API, two relays and worker, with the pooler in front of the database."""

    api: Api
    relays: list[ServiceProcess]
    database: Database
    pooler: PgBouncer
    mode: str
    redis_url: str
    environment: dict[str, str]


@pytest.fixture(scope="module", params=["session", "transaction"])
def system(
    request: pytest.FixtureRequest,
    server: Server,
    redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[System]:
    """Everything behind a pooler of each mode; in transaction mode with few sessions: they are shared."""
    mode: str = request.param
    program = require_pgbouncer(least=OF_PREPARED_STATEMENTS if mode == "transaction" else (1, 0))
    size = "default_pool_size = " + ("3" if mode == "transaction" else "60")
    with ExitStack() as stack:
        pooler = stack.enter_context(
            PgBouncer(tmp_path_factory.mktemp("pooler"), server.postgres, mode, program, size)
        )
        of_all: dict[str, Any] = {"database": pooler.url, "redis": redis_url, **of_mode(mode, server)}
        port = free_port()
        stack.enter_context(ServiceProcess("api.server", port=port, **of_all))
        relays = [stack.enter_context(ServiceProcess("api.relay.main", **of_all)) for _ in range(2)]
        stack.enter_context(ServiceProcess("worker.main", **of_all))
        api = stack.enter_context(Api(port))
        api.wait_until_ready()
        database = stack.enter_context(Database(server.postgres.url_of("orders")))
        yield System(api, relays, database, pooler, mode, redis_url, of_mode(mode, server))


def wait_until_summed(database: Database) -> None:
    """Wait until the summaries include every change."""
    wait_until(
        lambda: bool(
            database.value(
                "SELECT (SELECT count(*) FROM order_change) = "
                "(SELECT position FROM consumer_cursor WHERE consumer = 'fee_summaries')"
            )
        ),
        "every change is summed",
    )


def test_the_whole_system_works_behind_a_pooler(system: System) -> None:
    """Orders are placed, refused, changed, deleted, listed, exported, followed and summed, and proved."""
    api, database = system.api, system.database
    database.clean()
    database.add_services()

    def place(number: int) -> dict[str, Any]:
        order = api.placed_order(at=later(hours=3 * number))
        assert api.client.get(f"/orders/{order['id']}").json() == order
        assert api.place_order(at=later(hours=3 * number + 1)).status_code == 409
        changed = api.client.patch(
            f"/orders/{order['id']}",
            json={"totalfee": 7},
            headers=MERGE_PATCH,
        )
        assert changed.status_code == 200, changed.text
        return order

    with ThreadPoolExecutor(8) as callers:
        orders = list(callers.map(place, range(0, 80, 2)))
    for order in orders[::4]:
        assert api.client.delete(f"/orders/{order['id']}").status_code == 204
    left = len(orders) - len(orders[::4])
    assert len(api.every_order()) == left
    exported = api.client.get("/orders/export", headers={"Accept": "application/x-ndjson"})
    assert len(exported.text.splitlines()) == left
    wait_until_summed(database)
    changes: list[dict[str, Any]] = []
    while page := api.client.get(f"/order-changes?limit=100&after={len(changes)}").json()["items"]:
        changes += page
    assert [int(change["sequence"]) for change in changes] == list(range(1, len(changes) + 1))
    assert len(changes) == 2 * len(orders) + len(orders[::4])
    assert database.wrong_summaries() == []
    assert database.too_close_pairs() == []
    urls = {"OMS_DATABASE_URL": system.pooler.url, "OMS_REDIS_URL": system.redis_url}
    findings = json.loads(oms("doctor", "--json", **urls, **system.environment).stdout)["findings"]
    assert [finding["text"] for finding in findings if finding["area"] == "pooler"] == [
        f"requests go through a pooler in {system.mode} mode"
    ]
    verified = run_command("oms", "verify", database=system.pooler.url, **system.environment)
    assert verified.returncode == 0, verified.stderr


def test_another_relay_takes_over_behind_a_pooler(system: System) -> None:
    """One leads at a time; when it dies, the other follows within five seconds."""
    wait_until(lambda: any("leading" in relay.log for relay in system.relays), "one leads")
    leads = [relay for relay in system.relays if "leading" in relay.log]
    assert len(leads) == 1
    leads[0].kill()
    began = time.monotonic()
    system.api.placed_order(at=later(days=100))
    wait_until_summed(system.database)
    assert time.monotonic() - began < 5


def test_time_limits_act_behind_a_pooler(system: System) -> None:
    """A lock that stays held is answered 503 in time; a long statement is ended."""
    order = system.api.placed_order(at=later(days=200))
    with locked(system.database, order["id"]):
        began = time.monotonic()
        refused = system.api.client.put(f"/orders/{order['id']}", json=order_body(at=later(days=201)))
        took = time.monotonic() - began
        assert refused.status_code == 503
        assert STATEMENT_TIMEOUT - 1 < took < STATEMENT_TIMEOUT + 2
    assert system.api.client.put(f"/orders/{order['id']}", json=order_body(at=later(days=201))).is_success
    with pytest.raises(asyncpg.QueryCanceledError, match="statement timeout"):
        asyncio.run(in_session(system, "SELECT pg_sleep(10)"))


async def in_session(system: System, sql: str) -> Any:
    """Run a statement in a session like the API's."""
    given = settings().model_copy(
        update={
            "database_pooler": system.mode,
            "database_direct_url": system.environment.get("OMS_DATABASE_DIRECT_URL", ""),
            "statement_timeout": float(STATEMENT_TIMEOUT),
            "lock_wait": 0.1,
        }
    )
    config = {"dsn": system.pooler.url, "connection_class": Session, "server_settings": TRACKED}
    session = await open_session(config, given, serving=True)
    try:
        return await session.fetchval(sql)
    finally:
        session.terminate()


@contextmanager
def locked(database: Database, order: str) -> Iterator[None]:
    """Lock an order's row in a transaction that stays open."""
    database.rows("BEGIN")
    try:
        database.rows("SELECT FROM orders WHERE id = $1 FOR UPDATE", int(order))
        yield
    finally:
        database.rows("ROLLBACK")
