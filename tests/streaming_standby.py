"""A real standby that follows a primary by streaming replication, and what may happen to it."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import psutil

from stack.embedded_postgres import EmbeddedPostgres
from stack.server_user import claim_folder
from tests.drivers import Database, wait_until
from tests.operations_guide import postgres_programs
from tests.processes import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator


class StreamingStandby:
    """A standby in a folder of its own, with the primary's data as of now."""

    def __init__(self, primary: EmbeddedPostgres, folder: Path) -> None:
        owner, home = claim_folder(folder)
        sockets = parse_qs(urlsplit(primary.url).query)["host"][0]
        done = subprocess.run(
            [
                *(str(postgres_programs() / "pg_basebackup"), "-D", str(home / "data"), "-h", sockets),
                *("-U", "postgres", "-R", "-c", "fast", "-X", "stream", "--no-sync"),
            ],
            check=False,
            capture_output=True,
            text=True,
            cwd=home,
            user=owner and owner.pw_uid,
            group=owner and owner.pw_gid,
            extra_groups=owner and [],
        )
        assert done.returncode == 0, done.stderr
        self.server = EmbeddedPostgres(folder, durable=False)

    @property
    def url(self) -> str:
        """The URL of its database."""
        return self.server.url

    def pause_replay(self) -> None:
        """Have it show no later changes, though it receives them."""
        with Database(self.url) as database:
            database.value("SELECT pg_wal_replay_pause()")
            state = "SELECT pg_get_wal_replay_pause_state() = 'paused'"
            wait_until(lambda: bool(database.value(state)), "the replay is paused")

    def resume_replay(self) -> None:
        """Have it show what it has received."""
        with Database(self.url) as database:
            database.value("SELECT pg_wal_replay_resume()")

    def freeze(self) -> None:
        """Stop all its processes, so that it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue all its processes."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        process = self.server.process
        if process is None:  # it was stopped, or killed
            return
        for one in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
            with suppress(ProcessLookupError):  # a session that has just ended
                os.kill(one.pid, number)


@contextmanager
def primary_with_standby(folder: Path) -> Iterator[tuple[EmbeddedPostgres, StreamingStandby]]:
    """Run a migrated primary and its standby."""
    folder.chmod(0o711)
    with EmbeddedPostgres(folder / "primary", durable=False) as primary:
        migrate(primary.url)
        standby = StreamingStandby(primary, folder / "standby")
        with standby.server:
            try:
                yield primary, standby
            finally:
                standby.thaw()
