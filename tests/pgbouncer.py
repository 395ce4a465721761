"""A real PgBouncer: the one that ORDERS_TEST_PGBOUNCER names, or of the PATH (Debian's package pgbouncer)."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs, urlsplit

import asyncpg

from stack.child_processes import start_process, stop_processes
from stack.embedded_postgres import EmbeddedPostgres
from stack.embedded_valkey import free_port
from stack.server_user import claim_folder
from tests.debian_programs import find_program, skip_loudly
from tests.drivers import Database, wait_until
from tests.operations_guide import commands
from tests.processes import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = "ORDERS_TEST_PGBOUNCER"
PASSWORD = "pooled"
ROLE = "oms"

STATEMENT_TIMEOUT = 4
OF_PREPARED_STATEMENTS = (1, 21)
LIMITS = {"OMS_STATEMENT_TIMEOUT": f"{STATEMENT_TIMEOUT}", "OMS_LOCK_WAIT": "0.1"}


def require_pgbouncer(*, least: tuple[int, int] = (1, 0)) -> str:
    """Return the program's path; skip the test, with a warning, if there is none that is new enough."""
    path = os.environ.get(PROGRAM) or find_program("pgbouncer")
    if path is None:
        skip_loudly(f"no PgBouncer on this machine (Debian's package pgbouncer, or {PROGRAM})", "a pooler is")
    version = version_of(path)
    if version < least:
        numbers = [".".join(map(str, numbers)) for numbers in (version, least)]
        skip_loudly(f"{path} is {numbers[0]}, and this test needs {numbers[1]} ({PROGRAM})", "a pooler is")
    return path


def version_of(path: str) -> tuple[int, int]:
    """Ask a PgBouncer for its version."""
    text = subprocess.run([path, "--version"], check=True, capture_output=True, text=True).stdout
    version = re.match(r"PgBouncer (\d+)\.(\d+)", text)
    assert version, text
    return int(version[1]), int(version[2])


class PgBouncer:
    """A pooler in front of a database of the embedded server, configured as the operations guide says.

    Args:
        folder: for its configuration and log; created.
        postgres: a server that runs.
        mode: ``session`` or ``transaction``.
        program: its path.
        lines: more of its configuration, instead of the guide's.

    """

    def __init__(
        self, folder: Path, postgres: EmbeddedPostgres, mode: str, program: str, *lines: str
    ) -> None:
        self.port = free_port()
        owner, home = claim_folder(folder / "pgbouncer")
        self._owner, self._home, self._program = owner, home, program
        sockets = parse_qs(urlsplit(postgres.url).query)["host"][0]
        settings = {
            "listen_port": f"{self.port}",
            "auth_file": f"{home}/userlist.txt",
            "pool_mode": mode,
            "unix_socket_dir": "",
            "admin_users": ROLE,
            **dict(line.split(" = ", 1) for line in lines),
        }
        text = commands("poolers", "pgbouncer").replace("host=db.example", f"host={sockets}")
        for name, value in settings.items():
            text = re.sub(rf"^{name} = .*\n", "", text, flags=re.MULTILINE) + f"{name} = {value}\n"
        if mode == "session" or version_of(program) < OF_PREPARED_STATEMENTS:
            text = re.sub(r"^max_prepared_statements.*\n", "", text, flags=re.MULTILINE)
        (home / "pgbouncer.ini").write_text(text)
        (home / "userlist.txt").write_text(f'"{ROLE}" "{PASSWORD}"\n')
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The database, through the pooler."""
        return f"postgresql://{ROLE}:{PASSWORD}@127.0.0.1:{self.port}/orders"

    def console(self, command: str) -> None:
        """Run a command of its console."""

        async def run() -> None:
            connection = await asyncpg.connect(self.url, database="pgbouncer")
            try:
                await connection.execute(command)
            finally:
                await connection.close()

        asyncio.run(run())

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self._home / "pgbouncer.log").read_text()

    def __enter__(self) -> Self:
        with (self._home / "pgbouncer.log").open("wb") as log:
            self._process = start_process(
                [self._program, str(self._home / "pgbouncer.ini")],
                output=log,
                owner=self._owner,
                cwd=self._home,
            )
        wait_until(lambda: "process up" in self.log, "PgBouncer has started")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            stop_processes(self._process, grace=0.0, with_signal=signal.SIGKILL)


@dataclass
class Server:
    """A PostgreSQL with the database ``orders``, whose owner is no superuser."""

    postgres: EmbeddedPostgres

    @property
    def url(self) -> str:
        """The database, directly."""
        return self.postgres.url_of("orders").replace("postgres@", f"{ROLE}:{PASSWORD}@")

    def run(self, script: str, database: str = "postgres") -> None:
        """Run statements as the superuser."""
        with Database(self.postgres.url_of(database)) as admin:
            for statement in filter(str.strip, script.split(";")):
                admin.rows(statement)


@contextmanager
def pooled_server(folder: Path) -> Iterator[Server]:
    """Start a server whose role has the settings that the guide says, except ``LIMITS``."""
    with EmbeddedPostgres(folder / "postgres", durable=False) as postgres:
        rules = postgres.home / "data" / "pg_hba.conf"
        rules.write_text(f"local all {ROLE} scram-sha-256\n{rules.read_text()}")
        server = Server(postgres)
        server.run("SELECT pg_reload_conf()")
        server.run(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
        server.run(f"DROP DATABASE orders; CREATE DATABASE orders OWNER {ROLE}")
        migrate(server.url)
        with Database(server.url) as owner:
            owner.add_services()
            for statement in commands("poolers", "role").replace("15000", "4000").splitlines():
                owner.rows(statement)
        yield server


def of_mode(mode: str, server: Server) -> dict[str, str]:
    """Return the settings of a mode."""
    direct = {"OMS_DATABASE_DIRECT_URL": server.url} if mode == "transaction" else {}
    return {"OMS_DATABASE_POOLER": mode, **direct, **LIMITS}
