"""A real PgBouncer: the one that ORDERS_TEST_PGBOUNCER names, or of the PATH (Debian's package pgbouncer)."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import warnings
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from stack.child_processes import start_process, stop_processes
from stack.embedded_valkey import free_port
from stack.server_user import claim_folder
from tests.drivers import wait_until
from tests.operations_guide import commands

if TYPE_CHECKING:
    from stack.embedded_postgres import EmbeddedPostgres

PROGRAM = "ORDERS_TEST_PGBOUNCER"
PASSWORD = "pooled"
ROLE = "oms"


def require_pgbouncer(*, least: tuple[int, int] = (1, 0)) -> str:
    """Return the program's path; skip the test, with a warning, if there is none that is new enough."""
    path = os.environ.get(PROGRAM) or shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    reason = f"no PgBouncer on this machine (Debian's package pgbouncer, or {PROGRAM})"
    if path is not None:
        text = subprocess.run([path, "--version"], check=True, capture_output=True, text=True).stdout
        version = re.match(r"PgBouncer (\d+)\.(\d+)", text)
        assert version, text
        if (int(version[1]), int(version[2])) >= least:
            return path
        reason = f"{path} is {version[0]}, and this test needs {'.'.join(map(str, least))} ({PROGRAM})"
    warnings.warn(f"{reason}: a pooler is NOT TESTED", stacklevel=1)
    pytest.skip(reason)


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
        if mode == "session":
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
