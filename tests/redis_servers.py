"""Redis-compatible servers with their sentinel, or on a Unix socket: the embedded server's own binary."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.sentinel import MasterNotFoundError, Sentinel

from stack.child_processes import start_process, stop_processes
from stack.embedded_valkey import _server_binary, free_port
from tests.drivers import wait_until

PASSWORD = "p@ss/w:rd#?%"
MASTER = "orders"


class RedisServer:
    """One process of the server's binary, with the configuration that is given."""

    def __init__(self, folder: Path, *lines: str, sentinel: bool = False) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._configuration = folder / "server.conf"
        self._configuration.write_text("\n".join((*lines, f"dir {folder}", "")))
        self._arguments = ["--sentinel"] if sentinel else []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it may need a moment until it answers."""
        command = [str(_server_binary()), str(self._configuration), *self._arguments]
        with (self._folder / "server.log").open("ab") as log:
            self._process = start_process(command, output=log, cwd=self._folder)

    def kill(self) -> None:
        """End it like a crash."""
        if self._process is not None:
            stop_processes(self._process, grace=0.0, with_signal=signal.SIGKILL)
            self._process = None


class SentinelGroup:
    """A master, a replica and a sentinel that makes the replica the master when it is needed.

    All ask for passwords: the servers for ``PASSWORD``, the sentinel for ``of the sentinel``.
    """

    def __init__(self, folder: Path) -> None:
        self.ports = (free_port(), free_port())
        self.sentinel_port = free_port()
        first, second = self.ports
        secret = (f'requirepass "{PASSWORD}"', f'masterauth "{PASSWORD}"', "bind 127.0.0.1", 'save ""')
        self._servers = {
            first: RedisServer(folder / "first", f"port {first}", *secret),
            second: RedisServer(
                folder / "second",
                f"port {second}",
                *secret,
                f"replicaof 127.0.0.1 {first}",
                "repl-diskless-sync-delay 0",
            ),
        }
        self._sentinel = RedisServer(
            folder / "sentinel",
            f"port {self.sentinel_port}",
            "bind 127.0.0.1",
            'requirepass "of the sentinel"',
            f"sentinel monitor {MASTER} 127.0.0.1 {first} 1",
            f'sentinel auth-pass {MASTER} "{PASSWORD}"',
            f"sentinel down-after-milliseconds {MASTER} 1000",
            f"sentinel failover-timeout {MASTER} 5000",
            sentinel=True,
        )
        self._client = Sentinel(
            [("127.0.0.1", self.sentinel_port)],
            sentinel_kwargs={"password": "of the sentinel", "socket_timeout": 1},
        )

    @property
    def master_port(self) -> int:
        """The port of the master, as the sentinel says; 0 while there is none."""
        try:
            return int(self._client.discover_master(MASTER)[1])
        except (MasterNotFoundError, redis.RedisError):
            return 0

    def connect(self, port: int) -> redis.Redis:
        """Return a client of one of the servers."""
        return redis.Redis(port=port, password=PASSWORD, socket_timeout=1)

    def fail_over(self, *, kill: bool) -> None:
        """Make the other server the master: by killing the master, or by asking the sentinel."""
        before = self.master_port
        if kill:
            self._servers[before].kill()
        else:
            self._client.sentinels[0].execute_command("SENTINEL", "FAILOVER", MASTER)
        wait_until(lambda: self.master_port not in (0, before), "the other server is the master", 20)

    def __enter__(self) -> Self:
        for server in (*self._servers.values(), self._sentinel):
            server.start()
        wait_until(self._replicates, "the replica has the master's data", 20)
        return self

    def _replicates(self) -> bool:
        try:
            link = self.connect(self.ports[1]).info("replication").get("master_link_status")
            known = self._client.discover_slaves(MASTER)
        except redis.RedisError:
            return False
        return link == "up" and len(known) == 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in (self._sentinel, *self._servers.values()):
            server.kill()
