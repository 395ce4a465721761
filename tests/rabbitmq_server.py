"""A RabbitMQ of Debian's package: one node on the loopback address, with its data and its epmd apart."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import warnings
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import amqp
import pytest

from stack.embedded_valkey import free_port
from tests.drivers import wait_until

PROGRAM = shutil.which("rabbitmq-server", path="/usr/lib/rabbitmq/bin")
"""Not the one in /usr/sbin, which changes to the user and folders of the system's own node."""

EPMD = shutil.which("epmd")

START_SECONDS = 90.0


def require_rabbitmq() -> None:
    """Skip the test, with a warning, where Debian's RabbitMQ is missing."""
    if PROGRAM is None or EPMD is None:
        reason = (
            "no RabbitMQ here (Debian: rabbitmq-server, with Erlang 150 MB): the queue in it is NOT TESTED"
        )
        warnings.warn(reason, stacklevel=2)
        pytest.skip(reason)


class RabbitMQ:
    """One node. Its ports stay the same, so that clients reach it again after ``kill`` and ``start``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port, self._dist_port, self._epmd_port = free_port(), free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL for the service."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int:
        """The node's process id, which is also its group's."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the node, and wait until it takes connections: 5 to 20 s."""
        assert PROGRAM is not None
        assert EPMD is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))
        }
        environment = {
            **kept,
            "HOME": str(self._folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": f"oms-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_LOG_BASE": str(self._folder / "logs"),
            "RABBITMQ_PID_FILE": str(self._folder / "node.pid"),
            "RABBITMQ_CONF_ENV_FILE": str(self._folder / "none.conf"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "none"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._folder / "none.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none"
            ),
        }
        with (self._folder / "server.log").open("ab") as log:
            if self._epmd is None:
                command = [EPMD, "-address", "127.0.0.1", "-port", str(self._epmd_port)]
                self._epmd = subprocess.Popen(
                    command, stdout=log, stderr=log, env=environment, start_new_session=True
                )
            self._process = subprocess.Popen(
                [PROGRAM],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, "RabbitMQ takes connections", START_SECONDS)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "server.log").read_text()[-3000:]
        try:
            with self.connect():
                return True
        except (OSError, amqp.AMQPError):
            return False

    def connect(self) -> amqp.Connection:
        """Connect to it."""
        connection = amqp.Connection(f"127.0.0.1:{self.port}", connect_timeout=2, read_timeout=5)
        connection.connect()
        return connection

    def kill(self) -> None:
        """End it like a crash."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def wipe(self) -> None:
        """Remove everything that it stored; it must not run."""
        shutil.rmtree(self._folder / "data")

    def __enter__(self) -> Self:
        try:
            self.start()
        except AssertionError:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the node and its epmd."""
        self.kill()
        epmd, self._epmd = self._epmd, None
        if epmd is not None:
            epmd.kill()
            epmd.wait(10)
