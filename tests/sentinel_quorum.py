"""Debian's redis-server and redis-sentinel, three of each on this machine: a group that survives any one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.sentinel import MasterNotFoundError, Sentinel

from stack.child_processes import start_process, stop_processes
from stack.embedded_valkey import free_port
from tests.debian_programs import skip_loudly
from tests.drivers import wait_until

MASTER = "orders"
PROGRAM = shutil.which("redis-check-rdb")
"""Debian's one binary of Redis: it is a server or a sentinel if it is called by that name."""

SERVER, SENTINEL = "redis-server", "redis-sentinel"

DOWN_AFTER_SECONDS = 1.0
"""How long a master may be silent until a sentinel calls it down. Redis' own default is 30 s."""


def require_redis_sentinel() -> None:
    """Skip the test, with a warning, where Debian's Redis is missing."""
    if PROGRAM is None:
        skip_loudly("no Redis of Debian here (package redis-tools)", "failovers by sentinels are")


class SentinelQuorum:
    """A master, two replicas, and three sentinels of which two must agree."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ports = [free_port() for _ in range(3)]
        self._sentinel_ports = [free_port() for _ in range(3)]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.sentinel = Sentinel(
            [("127.0.0.1", port) for port in self._sentinel_ports], sentinel_kwargs={"socket_timeout": 1}
        )

    @property
    def url(self) -> str:
        """The URL for the service: all three sentinels, and the master's name."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._sentinel_ports)
        return f"sentinel://{hosts}/0?master={MASTER}"

    @property
    def master_port(self) -> int:
        """The port of the master, as a sentinel says; 0 while there is none."""
        try:
            return int(self.sentinel.discover_master(MASTER)[1])
        except (MasterNotFoundError, redis.RedisError):
            return 0

    def client(self, port: int) -> redis.Redis:
        """Return a client of one of the servers."""
        return redis.Redis(port=port, socket_timeout=1, decode_responses=True)

    def master(self) -> redis.Redis:
        """Return a client that asks the sentinels for the master with each new connection."""
        client: redis.Redis = self.sentinel.master_for(MASTER, socket_timeout=1, decode_responses=True)
        return client

    def kill_master(self) -> None:
        """End the master like a crash, until ``repair``."""
        process = self._processes.pop(self.master_port)
        stop_processes(process, grace=0.0, with_signal=signal.SIGKILL)

    @contextmanager
    def hung_master(self) -> Iterator[None]:
        """Stop the master for the time of the block: it accepts connections, and never answers."""
        process = self._processes[self.master_port]
        os.kill(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process.pid, signal.SIGCONT)

    def switch_over(self) -> None:
        """Ask the sentinels for a failover, as before maintenance; the old master becomes a replica."""
        for sentinel in self.sentinel.sentinels:
            try:
                sentinel.execute_command("SENTINEL", "FAILOVER", MASTER)
            except redis.ResponseError as error:
                if "NOGOODSLAVE" not in str(error) and "INPROG" not in str(error):
                    raise
            else:
                return
        raise AssertionError("no sentinel takes the request for a failover")

    def wait_for_another_master(self, before: int) -> float:
        """Wait until another server is the master, and return the seconds that it took."""
        began = time.monotonic()
        wait_until(lambda: self.master_port not in (0, before), "another server is the master", 40)
        return time.monotonic() - began

    def repair(self) -> None:
        """Start what was killed, and wait until the master has two replicas that follow it."""
        for port in self.ports:
            if port not in self._processes:
                self._start(SERVER, port)
        wait_until(self._is_whole, "the master has two replicas, and each sentinel knows it", 40)

    def _is_whole(self) -> bool:
        port = self.master_port
        if not port:
            return False
        try:
            roles = [self.client(each).info("replication") for each in self.ports]
            states: list[Any] = [sentinel.sentinel_master(MASTER) for sentinel in self.sentinel.sentinels]
            online = self.client(port).info("replication")
        except redis.RedisError:
            return False
        replicas = [role for role in roles if role["role"] == "slave"]
        return (
            online["role"] == "master"
            and online["connected_slaves"] == 2
            and all(role["master_link_status"] == "up" and role["master_port"] == port for role in replicas)
            and all(
                state["port"] == port and state["num-slaves"] == 2 and state["num-other-sentinels"] == 2
                for state in states
            )
        )

    def _start(self, name: str, port: int) -> None:
        assert PROGRAM is not None
        folder = self._folder / f"{name}-{port}"
        program = folder / name
        if not program.exists():
            program.symlink_to(PROGRAM)
        with (folder / "server.log").open("ab") as log:
            self._processes[port] = start_process(
                [str(program), str(folder / "server.conf")], output=log, cwd=folder
            )

    def _configure(self, port: int, name: str, *lines: str) -> None:
        folder = self._folder / f"{name}-{port}"
        folder.mkdir(parents=True)
        text = "\n".join((f"port {port}", "bind 127.0.0.1", f"dir {folder}", *lines, ""))
        (folder / "server.conf").write_text(text)

    def __enter__(self) -> Self:
        first = self.ports[0]
        for port in self.ports:
            of = () if port == first else (f"replicaof 127.0.0.1 {first}",)
            self._configure(port, SERVER, 'save ""', "appendonly yes", "repl-diskless-sync-delay 0", *of)
            self._start(SERVER, port)
        for port in self._sentinel_ports:
            self._configure(
                port,
                SENTINEL,
                f"sentinel monitor {MASTER} 127.0.0.1 {first} 2",
                f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_SECONDS * 1000:.0f}",
                f"sentinel failover-timeout {MASTER} 6000",
                f"sentinel parallel-syncs {MASTER} 2",
            )
            self._start(SENTINEL, port)
        try:
            wait_until(partial(self._is_whole), "the group is whole", 40)
        except AssertionError:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all servers."""
        while self._processes:
            stop_processes(self._processes.popitem()[1], grace=0.0, with_signal=signal.SIGKILL)
