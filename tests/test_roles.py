"""The database roles of shared/database/roles.sql: each process works as its role, which may do no more."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import asyncpg
import pytest
import redis

from stack.embedded_valkey import free_port
from tests.builders import later, order_body
from tests.drivers import Api, Database, wait_until
from tests.processes import ROOT, ServiceProcess, environment, run_command
from tests.webhook_steps import subscribe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.webhook_receiver import Receiver

SCRIPT = (ROOT / "shared" / "database" / "roles.sql").read_text()
SAMPLE = str(ROOT / "sample-data" / "orders.json")
PASSWORD = "a-password"

RETENTION = """
import asyncio
from api.relay.retention import delete_expired_once
print(asyncio.run(delete_expired_once()))
"""


def as_role(url: str, role: str) -> str:
    """Return a database's URL with the login that is a member of a role."""
    return re.sub(r"//[^@/]*@", f"//login_{role}:{PASSWORD}@", url)


@pytest.fixture(scope="module")
def owner(own_database_url: str) -> Iterator[Database]:
    """A migrated database with the roles, and a login in each, as its owner sees it."""
    with Database(own_database_url) as database:
        database.clean()
        for _ in range(2):  # it is run again after each migration
            database.run_script(SCRIPT)
        for role in ("api", "relay", "worker"):
            database.rows(f"DROP ROLE IF EXISTS login_{role}")
            database.rows(f"CREATE ROLE login_{role} LOGIN PASSWORD '{PASSWORD}' IN ROLE oms_{role}")
        yield database


@pytest.fixture(scope="module")
def api(owner: Database, redis_url: str) -> Iterator[Api]:
    """The whole system, each process as its role."""
    port = free_port()
    modules = {"api": "api.server", "relay": "api.relay.main", "worker": "worker.main"}
    with ExitStack() as stack:
        for role, module in modules.items():
            url = as_role(owner.url, role)
            stack.enter_context(
                ServiceProcess(module, database=url, redis=redis_url, port=port if role == "api" else 0)
            )
        caller = stack.enter_context(Api(port))
        caller.wait_until_ready()
        yield caller


def test_every_process_and_command_works_as_its_role(
    owner: Database, api: Api, receiver: Receiver, redis_url: str
) -> None:
    """Orders are stored, changed, deleted, summed and delivered; imports, keys, proofs and a rebuild work.

    Nothing secret is in Redis after all that.
    """

    def command(role: str, module: str, *arguments: str) -> str:
        done = run_command(module, *arguments, database=as_role(owner.url, role))
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    services = str(ROOT / "sample-data" / "services.json")
    assert "imported 3 orders" in command("api", "oms", "import", SAMPLE, "--services", services)
    (key,) = re.findall(r"oms_\w+", command("api", "api.keys.first_key"))
    api.client.headers["Authorization"] = f"Bearer {key}"
    command("api", "oms", "key", "make", "another", "--scopes", "orders:read")
    command("api", "oms", "key", "rotate", "another")
    command("api", "oms", "key", "revoke", "another")
    webhook = subscribe(api, receiver.url)
    assert api.client.post(f"/webhooks/{webhook['id']}/secret/rotation", json={}).status_code == 200
    order = api.client.post(
        "/orders", json=order_body(at=later(days=700)), headers={"Idempotency-Key": "one"}
    )
    path = order.headers["location"]
    assert api.client.patch(path, json={"totalfee": 7}, headers={"If-Match": "*"}).status_code == 200
    assert api.client.post(f"{path}/cancel", json={}).status_code == 200
    assert api.client.delete(path).status_code == 204
    assert api.client.put("/calendars/other", json={"spacing": "PT1H"}).status_code == 201
    assert api.client.post("/services", json={"name": "Cleaning"}).status_code == 201
    assert api.client.post("/stream-tickets").status_code == 201
    wait_until(lambda: len(receiver.positions) == 4, "every change is delivered")
    wait_until(lambda: api.client.get("/fee-summaries").json()["totals"]["totalfee"] == 300, "all is summed")
    seen = run_command("oms", "doctor", database=as_role(owner.url, "api"), OMS_REDIS_URL=redis_url)
    for what in ("database: orders can be stored", "relay: it works", "worker: ", "webhooks: 1 webhooks"):
        assert f"ok       {what}" in seen.stdout, seen.stdout
    command("worker", "oms", "verify")
    command("worker", "oms", "rebuild")
    assert api.client.delete(f"/webhooks/{webhook['id']}").status_code == 204
    assert api.client.get("/metrics").status_code == 200
    owner.rows("UPDATE order_change SET recorded_at = now() - interval '1 year'")
    owner.rows("UPDATE webhook_delivery SET created_at = now() - interval '1 year'")
    trimmed = subprocess.run(
        [sys.executable, "-c", RETENTION],
        env=environment(as_role(owner.url, "relay"), redis_url),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert trimmed.stdout == "True\n", trimmed.stderr
    assert owner.value("SELECT count(*) FROM order_change") == 0
    in_redis = everything_in(redis_url)
    assert "order.created" in in_redis
    assert "whsec_" not in in_redis
    assert "oms_" not in in_redis


def everything_in(redis_url: str) -> str:
    """Return all keys and values of a Redis database."""
    with redis.from_url(redis_url, decode_responses=True) as client:
        readers = {
            "stream": client.xrange,
            "list": lambda name: client.lrange(name, 0, -1),
            "set": client.smembers,
            "string": client.get,
            "hash": client.hgetall,
            "zset": lambda name: client.zrange(name, 0, -1),
        }
        return str({name: readers[client.type(name)](name) for name in client.scan_iter()})


# Each role, and what it may not do: read what it needs no part of, alter history or the schema.
FORBIDDEN = {
    "api": [
        "UPDATE order_change SET actor = 'somebody else'",
        "DELETE FROM order_change",
        "UPDATE fee_summary SET share = 0",
        "UPDATE change_log SET last_position = 0",
        "UPDATE consumer_cursor SET position = 0",
        "DELETE FROM api_key",
    ],
    "relay": [
        "SELECT secret FROM webhook_secret",
        "SELECT secret_hash FROM api_key",
        "SELECT answer FROM idempotency_key",
        "SELECT totalfee FROM orders",
        "UPDATE order_change SET actor = 'somebody else'",
        "UPDATE webhook SET url = 'http://elsewhere'",
        "INSERT INTO order_change DEFAULT VALUES",
    ],
    "worker": [
        "SELECT secret_hash FROM api_key",
        "SELECT answer FROM idempotency_key",
        "UPDATE orders SET totalfee = 0",
        "DELETE FROM orders",
        "UPDATE order_change SET actor = 'somebody else'",
        "UPDATE webhook SET url = 'http://elsewhere'",
        "UPDATE webhook_secret SET secret = ''",
    ],
}
FORBIDDEN_TO_ALL = [
    "TRUNCATE orders",
    "ALTER TABLE orders DISABLE TRIGGER ALL",
    "DROP TABLE orders",
    "CREATE TABLE mine (id int)",
    "UPDATE migration SET name = ''",
    "COPY orders TO PROGRAM 'cat'",
]


@pytest.mark.parametrize("role", FORBIDDEN)
def test_a_role_may_do_nothing_that_its_process_does_not_do(owner: Database, role: str) -> None:
    """PostgreSQL refuses each of these statements to whoever has taken over the process."""

    async def refusals() -> list[str]:
        connection = await asyncpg.connect(as_role(owner.url, role))
        allowed = []
        try:
            for statement in [*FORBIDDEN[role], *FORBIDDEN_TO_ALL]:
                try:
                    await connection.execute(statement)
                except asyncpg.InsufficientPrivilegeError:
                    continue
                allowed.append(statement)
        finally:
            await connection.close()
        return allowed

    assert not asyncio.run(refusals())


def test_the_roles_know_every_table(owner: Database) -> None:
    """A table that a later migration adds has to be given to those who need it, and to no others."""
    granted = owner.rows(
        "SELECT DISTINCT table_name FROM information_schema.table_privileges WHERE grantee = 'oms_api'"
    )
    assert {row["table_name"] for row in granted} >= {*owner.every_table, "migration"}
    unwritten = owner.rows(
        """
        SELECT relname FROM pg_class AS c
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND NOT EXISTS (
            SELECT FROM unnest(ARRAY['oms_api', 'oms_relay', 'oms_worker']) AS role
            WHERE has_any_column_privilege(role, c.oid, 'INSERT, UPDATE')
        )
        """
    )
    assert {row["relname"] for row in unwritten} == {"migration", "cell"}
