"""Behind a pooler that is not what the settings say, nothing works silently: ``oms doctor`` says what to do.

And so it is with a role that may not do what the migrations need.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from stack.embedded_postgres import EmbeddedPostgres
from stack.embedded_valkey import free_port
from tests.builders import later
from tests.command_steps import oms
from tests.drivers import Api, Database, wait_until
from tests.operations_guide import postgres_programs
from tests.pgbouncer import (
    LIMITS,
    OF_PREPARED_STATEMENTS,
    ROLE,
    PgBouncer,
    Server,
    of_mode,
    pooled_server,
    require_pgbouncer,
    version_of,
)
from tests.processes import NO_REDIS, ServiceProcess, migrate, run_command

EXTENSION = "extension btree_gist"
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose role has the settings that the guide says."""
    with pooled_server(tmp_path_factory.mktemp("pooled")) as server:
        yield server


@pytest.fixture
def transaction_pooler(server: Server, tmp_path: Path) -> Iterator[PgBouncer]:
    """A pooler of any version in transaction mode, set to drop time limits silently."""
    ignored = (
        "ignore_startup_parameters = statement_timeout,lock_timeout,idle_in_transaction_session_timeout,"
        "default_transaction_isolation,jit"
    )
    with PgBouncer(
        tmp_path / "pooler", server.postgres, "transaction", require_pgbouncer(), ignored
    ) as pooler:
        yield pooler


@pytest.mark.parametrize("declared", ["none", "session"])
def test_an_api_that_is_told_the_wrong_mode_is_not_ready_and_says_why(
    server: Server, transaction_pooler: PgBouncer, declared: str
) -> None:
    """Its time limits would not hold, or would hold for others."""
    port = free_port()
    process = ServiceProcess(
        "api.server",
        database=transaction_pooler.url,
        redis=NO_REDIS,
        port=port,
        OMS_DATABASE_POOLER=declared,
        OMS_DATABASE_DIRECT_URL=server.url,
        **LIMITS,
    )
    with process, Api(port) as api:
        wait_until(lambda: api.is_listening, "it listens")
        assert api.client.get("/health/ready").status_code == 503
        assert api.place_order(at=later(days=300)).status_code == 503
        assert "pooler_misused" in process.log


def test_no_relay_leads_through_a_pooler_in_transaction_mode(transaction_pooler: PgBouncer) -> None:
    """Its lock would stay with a session of the pooler's: two could lead."""
    process = ServiceProcess(
        "api.relay.main",
        database=transaction_pooler.url,
        redis=NO_REDIS,
        OMS_DATABASE_POOLER="transaction",
        OMS_DATABASE_DIRECT_URL=transaction_pooler.url,
    )
    with process:
        wait_until(lambda: "transaction mode" in process.log, "the log says why")
        assert "leading" not in process.log


def faults(**environment: str) -> dict[str, str]:
    """Run ``oms doctor``, which must find something in the database; return the advice by the sentence."""
    done = oms("doctor", "--json", OMS_REDIS_URL=NO_REDIS, **environment)
    findings = json.loads(done.stdout)["findings"]
    areas = {"pooler", "migrations"}
    return {
        finding["text"]: finding["advice"]
        for finding in findings
        if finding["level"] == "wrong" and finding["area"] in areas
    }


def test_doctor_says_which_settings_a_role_lacks_behind_a_pooler(server: Server, tmp_path: Path) -> None:
    """Its statements, and a RECONNECT, are all that is needed."""
    program = require_pgbouncer(least=OF_PREPARED_STATEMENTS)
    longer = {**of_mode("transaction", server), "OMS_STATEMENT_TIMEOUT": "9", "OMS_LOCK_WAIT": "0.2"}
    with PgBouncer(tmp_path / "pooler", server.postgres, "transaction", program) as pooler:
        named = {"OMS_DATABASE_URL": pooler.url, **longer}
        ((text, advice),) = faults(**named).items()
        assert text == "the sessions behind the pooler have statement_timeout = 4000, lock_timeout = 100"
        *statements, last = advice.split("; ")
        assert last.startswith("Then RECONNECT")
        with Database(pooler.url) as role:
            for statement in statements:
                role.rows(statement)
        try:
            pooler.console("RECONNECT")
            assert faults(**named) == {}
        finally:
            with Database(server.url) as role:
                role.rows(f"ALTER ROLE {ROLE} IN DATABASE orders SET statement_timeout = '4000'")
                role.rows(f"ALTER ROLE {ROLE} IN DATABASE orders SET lock_timeout = '100'")


def test_doctor_says_what_is_wrong_with_the_urls(server: Server, transaction_pooler: PgBouncer) -> None:
    """A pooler that is not declared, a direct URL that is missing, is a pooler, or names another database."""
    pooled = {"OMS_DATABASE_URL": transaction_pooler.url}
    declared = {**pooled, "OMS_DATABASE_POOLER": "transaction"}
    assert [*faults(**pooled)] == [
        "a pooler is between this process and PostgreSQL, and OMS_DATABASE_POOLER is none"
    ]
    assert "OMS_DATABASE_DIRECT_URL: must be set" in oms("doctor", **declared).stdout
    shared = faults(**declared, OMS_DATABASE_DIRECT_URL=transaction_pooler.url)
    assert [*shared] in (
        ["a pooler in transaction mode is where a session must keep its locks and settings"],
        ["the pooler is in transaction mode and keeps no prepared statements"],
    )
    elsewhere = faults(
        OMS_DATABASE_URL=server.url,
        OMS_DATABASE_DIRECT_URL=server.postgres.url_of("postgres"),
    )
    assert [*elsewhere] == ["OMS_DATABASE_DIRECT_URL leads to another database than OMS_DATABASE_URL"]


def test_doctor_knows_a_pooler_by_the_statements_of_another_client(
    server: Server, transaction_pooler: PgBouncer
) -> None:
    """PostgreSQL refuses a name that another client's statement has; PgBouncer 1.21 gives its own names."""
    asyncio.run(leave_statements(transaction_pooler.url))
    kept = version_of(require_pgbouncer()) >= OF_PREPARED_STATEMENTS
    declared = {"OMS_DATABASE_URL": transaction_pooler.url, **of_mode("transaction", server)}
    assert [*faults(**declared)] == (
        [] if kept else ["the pooler is in transaction mode and keeps no prepared statements"]
    )
    assert [*faults(OMS_DATABASE_URL=transaction_pooler.url)] == [
        "a pooler is between this process and PostgreSQL, and OMS_DATABASE_POOLER is none"
    ]


async def leave_statements(url: str) -> None:
    """Prepare statements under the names that asyncpg gives to a process's first ones."""
    session = await asyncpg.connect(url)
    for number in range(1, 16):
        await session.execute(f"PREPARE __asyncpg_stmt_{number:x}__ AS SELECT {number}")
    await session.close()


@pytest.fixture
def untrusted() -> Iterator[Path]:
    """A folder in which btree_gist is an extension that only a superuser may create."""
    with tempfile.TemporaryDirectory(prefix="oms-") as folder:
        copies = Path(folder) / "extension"
        copies.mkdir()
        for file in (postgres_programs().parent / "share" / "extension").glob("btree_gist*"):
            (copies / file.name).write_text(file.read_text().replace("trusted = true", "trusted = false"))
        Path(folder).chmod(0o755)  # the server runs as another user
        yield Path(folder)


def test_without_a_superuser_doctor_says_what_the_migrations_need(tmp_path: Path, untrusted: Path) -> None:
    """As on a managed PostgreSQL that trusts no extension: its administrator runs the statements once."""
    path = {"extension_control_path": f"{untrusted}:$system"}
    with EmbeddedPostgres(tmp_path / "postgres", durable=False, settings=path) as postgres:
        server = Server(postgres)
        server.run(f"CREATE ROLE {ROLE} LOGIN")
        needs = faults(OMS_DATABASE_URL=server.url)
        assert [*needs] == ["the role may not create tables", f"the role may not create the {EXTENSION}"]
        schema, extension = (advice.partition(": ")[2] for advice in needs.values())
        server.run(f"{schema} GRANT CREATE ON DATABASE orders TO {ROLE}", "orders")
        assert f"permission denied to create {EXTENSION}" in failing_migration(server.url)
        server.run(f"{extension} REVOKE CREATE ON DATABASE orders FROM {ROLE}", "orders")
        assert faults(OMS_DATABASE_URL=server.url) == {}
        migrate(server.url)


def test_without_a_superuser_a_role_that_lacks_create_is_told_what_to_ask_for(server: Server) -> None:
    """As on a managed PostgreSQL that trusts btree_gist: CREATE on the database is enough to migrate."""
    server.run("CREATE DATABASE managed")
    server.run(f"GRANT CREATE ON SCHEMA public TO {ROLE}", "managed")
    url = server.url.replace("/orders", "/managed")
    ((text, advice),) = faults(OMS_DATABASE_URL=url).items()
    assert text == f"the role may not create the {EXTENSION}: it lacks CREATE on the database"
    assert f"permission denied to create {EXTENSION}" in failing_migration(url)
    server.run(advice.partition(" Or: ")[2])
    assert faults(OMS_DATABASE_URL=url) == {}
    migrate(url)


def failing_migration(url: str) -> str:
    """Migrate, which must fail; return what it says."""
    done = run_command("shared.database.migrate", database=url)
    assert done.returncode == 1
    return done.stderr.replace('"', "")
