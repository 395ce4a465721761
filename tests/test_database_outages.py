"""Whatever PostgreSQL refuses for a while: callers are answered 503, and everything heals by itself."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest

from stack.child_processes import working_in
from stack.embedded_postgres import EmbeddedPostgres
from tests.builders import order_body
from tests.drivers import Database, wait_until
from tests.faults import Deployment
from tests.processes import NO_REDIS, migrate, run_command
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)

HEALING_SECONDS = 5.0
PHASE_SECONDS = 2.0
"""Longer than a session may stay read-only, so that sessions are made in the middle of it."""


@dataclass
class Server:
    """A PostgreSQL of its own, with a database whose owner, ``oms``, has a password and is no superuser."""

    postgres: EmbeddedPostgres
    admin: Database

    @property
    def url(self) -> str:
        """The database, for the services."""
        return self.postgres.url_of("shop").replace("postgres@", "oms:first@")

    def run(self, *statements: str) -> None:
        """Run statements as the superuser, on another database."""
        for statement in statements:
            self.admin.rows(statement)

    def end_sessions(self) -> None:
        """End all sessions of the services."""
        self.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'oms'")

    def in_shop(self, statements: str) -> None:
        """Run statements as the superuser, in the services' database."""
        with Database(self.postgres.url_of("shop")) as shop:
            shop.run_script(statements)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may be broken."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("outages") / "postgres", durable=False) as postgres:
        rules = postgres.home / "data" / "pg_hba.conf"
        rules.write_text(f"local all oms scram-sha-256\n{rules.read_text()}")
        with Database(postgres.url_of("postgres")) as admin:
            server = Server(postgres, admin)
            server.run(
                "SELECT pg_reload_conf()",
                "CREATE ROLE oms LOGIN PASSWORD 'first'",
                "CREATE DATABASE shop OWNER oms",
            )
            migrate(server.url)
            yield server


@pytest.fixture(scope="module")
def deployment(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """API, two relays and worker on that server."""
    with Deployment(tmp_path_factory.mktemp("deployment"), server.url) as deployment:
        yield deployment


def _altered(what: str, on: str, off: str) -> tuple[Callable[[Server], None], Callable[[Server], None]]:
    return (lambda server: server.run(f"{what} {on}"), lambda server: server.run(f"{what} {off}"))


def _read_only_everywhere(server: Server) -> None:
    server.run("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")


def _writable_again(server: Server) -> None:
    server.run(
        "SET default_transaction_read_only = off",
        "ALTER SYSTEM RESET default_transaction_read_only",
        "SELECT pg_reload_conf()",
    )


READ_ONLY_ROLE = _altered("ALTER ROLE oms", "SET default_transaction_read_only = on", "RESET ALL")
OUTAGES = {
    "the server is read-only": (_read_only_everywhere, _writable_again),
    "the role is read-only": READ_ONLY_ROLE,
    "the database is read-only": _altered(
        "ALTER DATABASE shop", "SET default_transaction_read_only = on", "RESET ALL"
    ),
    "the role may not log in": _altered("ALTER ROLE oms", "NOLOGIN", "LOGIN"),
    "the role has another password": _altered("ALTER ROLE oms", "PASSWORD 'second'", "PASSWORD 'first'"),
    "the role may have no connection": _altered(
        "ALTER ROLE oms", "CONNECTION LIMIT 0", "CONNECTION LIMIT -1"
    ),
    "the database accepts no connections": _altered(
        "ALTER DATABASE shop", "ALLOW_CONNECTIONS false", "ALLOW_CONNECTIONS true"
    ),
    "the role may not write orders": (
        lambda server: server.in_shop("REVOKE INSERT ON orders FROM oms"),
        lambda server: server.in_shop("GRANT INSERT ON orders TO oms"),
    ),
    "the role looks for tables elsewhere": _altered(
        "ALTER ROLE oms", "SET search_path = nowhere", "RESET ALL"
    ),
}


def placing(deployment: Deployment, until: float) -> Counter[int]:
    """Place orders and read until a moment, and count the answers; 503 says when to try again."""
    answers: Counter[int] = Counter()
    while time.monotonic() < until:
        for answer in (
            deployment.api.place_order(calendar=f"outage-{time.monotonic_ns()}"),
            deployment.api.client.get("/orders"),
            deployment.api.client.get("/health/live"),
        ):
            answers[answer.status_code] += 1
            if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["type"] == "/problems/unavailable"
        time.sleep(0.05)
    return answers


def assert_healed(deployment: Deployment) -> None:
    """Orders are stored and summed again within five seconds, and from then on without any refusal."""
    began = time.monotonic()

    def placed() -> bool:
        answer = deployment.api.place_order(calendar=f"healed-{time.monotonic_ns()}")
        return answer.status_code == httpx.codes.CREATED

    wait_until(placed, "an order is stored", HEALING_SECONDS)
    for _ in range(12):  # each connection of the pool
        deployment.api.placed_order(calendar=f"healed-{time.monotonic_ns()}")
    print(f"stored after {time.monotonic() - began:.1f} s", end=", ")
    deployment.wait_until_exact(HEALING_SECONDS)
    print(f"summed after {time.monotonic() - began:.1f} s")
    assert deployment.faults() == []


@pytest.mark.parametrize("name", OUTAGES)
def test_an_outage_causes_503_and_heals_by_itself(server: Server, deployment: Deployment, name: str) -> None:
    """The sessions end as it begins, so those of the pools are made in the middle of it."""
    begin, end = OUTAGES[name]
    assert_healed(deployment)
    begin(server)
    try:
        server.end_sessions()
        answers = placing(deployment, time.monotonic() + PHASE_SECONDS)
    finally:
        end(server)
    print(f"{name}: {dict(answers)}")
    assert set(answers) == {200, 503}
    assert_healed(deployment)


@pytest.mark.parametrize("name", ["the server is read-only", "the role is read-only"])
def test_old_sessions_may_outlive_an_outage(server: Server, deployment: Deployment, name: str) -> None:
    """Nothing ends them: of the server's setting they hear, of the role's they don't."""
    begin, end = OUTAGES[name]
    begin(server)
    try:
        answers = placing(deployment, time.monotonic() + PHASE_SECONDS)
    finally:
        end(server)
    print(f"{name}: {dict(answers)}")
    assert set(answers) <= {200, 201, 503}
    assert_healed(deployment)


def test_a_database_that_is_renamed_and_named_back_is_used_again(
    server: Server, deployment: Deployment
) -> None:
    """As in a swap of two databases."""
    server.run("ALTER DATABASE shop ALLOW_CONNECTIONS false")
    server.end_sessions()
    wait_until(
        lambda: server.admin.value("SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop'") == 0,
        "no session is left",
    )
    server.run("ALTER DATABASE shop RENAME TO elsewhere", "ALTER DATABASE elsewhere ALLOW_CONNECTIONS true")
    try:
        answers = placing(deployment, time.monotonic() + PHASE_SECONDS)
    finally:
        server.run("ALTER DATABASE elsewhere RENAME TO shop")
    assert set(answers) == {200, 503}
    assert_healed(deployment)


def test_cancelled_statements_cause_503_at_worst(server: Server, deployment: Deployment) -> None:
    """Whatever is running, again and again."""
    answers: Counter[int] = Counter()
    for _ in range(20):
        server.run("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'oms'")
        answers += placing(deployment, time.monotonic() + 0.05)
    assert set(answers) <= {200, 201, 503}
    assert_healed(deployment)


@pytest.mark.parametrize(
    ("module", "arguments", "status"),
    [
        ("shared.database.migrate", (), 1),
        ("oms", ("import", "sample-data/orders.json"), 1),
        ("oms", ("verify",), 2),
        ("oms", ("rebuild",), 2),
    ],
)
@pytest.mark.parametrize(
    "name", ["the server is read-only", "the role has another password", "the role may have no connection"]
)
def test_commands_say_what_is_wrong_in_one_line(
    server: Server, name: str, module: str, arguments: tuple[str, ...], status: int
) -> None:
    """And end with a status that is not 0; a migrator of an up-to-date database needs not write."""
    begin, end = OUTAGES[name]
    begin(server)
    try:
        done = run_command(module, *arguments, database=server.url)
    finally:
        end(server)
    if module == "shared.database.migrate" and name == "the server is read-only":
        assert (done.returncode, done.stderr) == (0, "")
        return
    assert done.returncode == status, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "first" not in done.stderr


REASONS = {
    "the server is read-only": ("read_only", "the database is read-only"),
    "the role is read-only": ("read_only", "the database is read-only"),
    "the role may not log in": ("refused", "the database refuses the role or the password"),
    "the role has another password": ("refused", "the database refuses the role or the password"),
    "the role may have no connection": ("unavailable", "the database allows no more connections"),
    "the database accepts no connections": ("refused", "the database accepts no connections"),
    "the role may not write orders": ("not_permitted", "the database role lacks INSERT on orders"),
}


@pytest.mark.parametrize("name", REASONS)
def test_readiness_says_why_orders_cannot_be_stored(
    server: Server, deployment: Deployment, name: str
) -> None:
    """Within two seconds; and that they can be stored again, as soon."""
    begin, end = OUTAGES[name]
    database, reason = REASONS[name]
    begin(server)
    try:
        server.end_sessions()
        wait_until(
            lambda: (
                deployment.api.client.get("/health/ready").json().get("detail")
                == f"Orders can't be stored: {reason}."
            ),
            reason,
            2,
        )
        answer = deployment.api.client.get("/health/ready")
        assert (answer.status_code, answer.json()["checks"]["database"]) == (503, database)
        assert int(answer.headers["retry-after"]) >= 1
    finally:
        end(server)
    wait_until(lambda: deployment.api.client.get("/health/ready").status_code == 200, "ready again", 2)
    assert_healed(deployment)


NEXT_VERSION = "INSERT INTO migration (name, app_name) VALUES ('of the next version', 'shared')"
OLDEST = """
CREATE OR REPLACE FUNCTION oldest_compatible_migration() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '{}'
"""
UNUSABLE_SCHEMAS = {
    "pending": (
        "UPDATE migration SET app_name = 'another' WHERE name = (SELECT max(name) FROM migration)",
        "1 of the migrations are pending; run shared.database.migrate",
    ),
    "newer": (
        f"{NEXT_VERSION}; {OLDEST.format('of the next version')}",
        "a newer version of this service has removed from the schema what this one needs; stop this instance",
    ),
}
AS_MIGRATED = f"""
UPDATE migration SET app_name = 'shared';
DELETE FROM migration WHERE name = 'of the next version';
{OLDEST.format("2026-11-29T13:20:00:000000")}
"""


@pytest.mark.parametrize("migrations", UNUSABLE_SCHEMAS)
def test_an_api_is_not_ready_on_a_schema_that_it_cannot_work_on(
    server: Server, deployment: Deployment, migrations: str
) -> None:
    """One that lacks something, or from which a newer version has removed something."""
    begin, reason = UNUSABLE_SCHEMAS[migrations]
    server.in_shop(begin)
    try:
        answer = deployment.api.client.get("/health/ready")
        migrated = run_command("shared.database.migrate", database=server.url)
    finally:
        server.in_shop(AS_MIGRATED)
    assert (answer.status_code, answer.json()["checks"]["migrations"]) == (503, migrations)
    assert answer.json()["detail"] == f"Orders can't be stored: {reason}."
    if migrations == "newer":
        assert (migrated.returncode, migrated.stderr) == (1, f"migrate: {reason.partition(';')[0]}\n")
    assert deployment.api.client.get("/health/ready").status_code == 200


def test_an_api_is_ready_on_the_schema_of_the_next_version(server: Server, deployment: Deployment) -> None:
    """Its migrations only add, so this version serves on while the next one takes over."""
    server.in_shop(NEXT_VERSION)
    try:
        answer = deployment.api.client.get("/health/ready")
        migrated = run_command("shared.database.migrate", database=server.url)
    finally:
        server.in_shop(AS_MIGRATED)
    assert (answer.status_code, answer.json()["status"]) == (200, "ready")
    assert answer.json()["checks"]["migrations"] == "newer"
    assert (migrated.returncode, migrated.stdout) == (0, "migrations applied: 0\n")
    assert deployment.api.client.get("/health/ready").json()["checks"]["migrations"] == "ok"


def test_a_role_with_exactly_the_privileges_that_readiness_asks_for_can_write_orders(
    server: Server, deployment: Deployment
) -> None:
    """And each of them is needed: without it the API is not ready."""
    assert_healed(deployment)  # it has also added the services
    from api.operations.readiness import NEEDED_PRIVILEGES

    server.run("CREATE ROLE clerk LOGIN")
    server.in_shop("GRANT SELECT ON migration TO clerk")
    for what, privileges in NEEDED_PRIVILEGES.items():
        kind = "SEQUENCE" if what.endswith("_seq") else "TABLE"
        server.in_shop(f"GRANT {', '.join(privileges)} ON {kind} {what} TO clerk")
    url = server.postgres.url_of("shop").replace("postgres@", "clerk@")
    with serving(database=url, redis=NO_REDIS) as (api, process):
        order = api.placed_order(calendar=f"clerk-{time.monotonic_ns()}")
        assert api.client.patch(f"/orders/{order['id']}", json={"totalfee": 3}).status_code == 200
        assert api.client.delete(f"/orders/{order['id']}").status_code == 204
        numbered = {"Idempotency-Key": "clerk"}
        body = order_body(id=77, calendar=f"clerk-{time.monotonic_ns()}")
        assert api.client.post("/orders", json=body, headers=numbered).status_code == 201
        assert "internal_error" not in process.log
        for what, privileges in NEEDED_PRIVILEGES.items():
            for privilege in privileges:
                kind = "SEQUENCE" if what.endswith("_seq") else "TABLE"
                server.in_shop(f"REVOKE {privilege} ON {kind} {what} FROM clerk")
                answer = api.client.get("/health/ready")
                assert answer.json()["detail"] == (
                    f"Orders can't be stored: the database role lacks {privilege} on {what}."
                )
                server.in_shop(f"GRANT {privilege} ON {kind} {what} TO clerk")
    server.in_shop("DROP OWNED BY clerk")
    server.run("DROP ROLE clerk")


def test_health_and_metrics_answer_in_time_while_the_database_does_not_answer(
    server: Server, deployment: Deployment
) -> None:
    """All of its processes are stopped, which still accepts connections, and answers none."""
    stopped = working_in(server.postgres.home / "data", "postgres")
    assert_healed(deployment)
    try:
        for process in stopped:
            process.suspend()
        for path, status, seconds in (
            ("/health/live", 200, 0.5),
            ("/health/ready", 503, 4),
            ("/metrics", 200, 4),
            ("/health/live", 200, 0.5),
        ):
            before = time.monotonic()
            answer = deployment.api.client.get(path)
            assert (path, answer.status_code) == (path, status)
            assert time.monotonic() - before < seconds, path
    finally:
        for process in stopped:
            process.resume()
    assert_healed(deployment)


def test_a_standby_is_never_used_and_a_promoted_one_is(tmp_path: Path) -> None:
    """The server is stopped, comes back as a standby, and is then promoted; a restart heals too."""
    with EmbeddedPostgres(tmp_path / "postgres", durable=False) as postgres:
        migrate(postgres.url)
        with Deployment(tmp_path, postgres.url, postgres) as deployment:
            assert_healed(deployment)
            postgres.stop()
            postgres.start()
            assert_healed(deployment)
            postgres.stop()
            (postgres.home / "data" / "standby.signal").touch()
            postgres.start()
            answers = placing(deployment, time.monotonic() + PHASE_SECONDS)
            answer = deployment.api.client.get("/health/ready")
            done = run_command("oms", "verify", "summaries", database=postgres.url)
            with Database(postgres.url) as database:
                assert database.value("SELECT pg_is_in_recovery()")
                database.rows("SELECT pg_promote()")
            assert_healed(deployment)
            assert set(answers) == {200, 503}  # 200: /health/live
            assert (answer.status_code, answer.json()["checks"]["database"]) == (503, "standby")
            assert answer.json()["detail"] == "Orders can't be stored: the database server is a standby."
            assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
