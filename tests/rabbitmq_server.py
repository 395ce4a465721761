"""A RabbitMQ of Debian's package: one node on the loopback address, with its data and its epmd apart."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import amqp

from stack.embedded_valkey import free_port
from tests.debian_programs import skip_loudly
from tests.drivers import wait_until
from tests.operations_guide import commands, run_commands
from tests.webhook_receiver import CERTIFICATE, CERTIFICATE_WITH_KEY

PROGRAMS = "/usr/lib/rabbitmq/bin"

PROGRAM = shutil.which("rabbitmq-server", path=PROGRAMS)
"""Not the one in /usr/sbin, which changes to the user and folders of the system's own node."""

EPMD = shutil.which("epmd")

START_SECONDS = 90.0

PASSWORD = "p@ss/w:rd#?%"


def require_rabbitmq() -> None:
    """Skip the test, with a warning, where Debian's RabbitMQ is missing."""
    if PROGRAM is None or EPMD is None:
        skip_loudly("no RabbitMQ here (Debian: rabbitmq-server, with Erlang 55 MB)", "the queue in it is")


class RabbitMQ:
    """One node. Its ports stay the same, so that clients reach it again after ``kill`` and ``start``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port, self._tls_port = free_port(), free_port()
        self._dist_port, self._epmd_port, self._control_port = free_port(), free_port(), free_port()
        self._absent = f"127.0.0.2:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL for the service: a node that does not answer, and this one, for the user of the guide."""
        return f"amqp://oms:{quote(PASSWORD, safe='')}@{self._absent},127.0.0.1:{self.port}/orders"

    @property
    def tls_url(self) -> str:
        """The same with another virtual host, over TLS; only this node's certificate is for its name."""
        return f"amqps://guest:guest@{self._absent},localhost:{self._tls_port}/"

    @property
    def _environment(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))
        }
        return {
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
            "RABBITMQ_CONFIG_FILE": str(self._folder / "node"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._folder / "none.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "plugins"),
            "RABBITMQ_CTL_DIST_PORT_MIN": str(self._control_port),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(self._control_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none"
            ),
        }

    def start(self) -> None:
        """Start the node, and wait until it takes connections: 5 to 20 s."""
        assert PROGRAM is not None
        assert EPMD is not None
        is_new = not (self._folder / "data").exists()
        self._folder.mkdir(parents=True, exist_ok=True)
        options = {
            "cacertfile": CERTIFICATE,
            "certfile": CERTIFICATE_WITH_KEY,
            "keyfile": CERTIFICATE_WITH_KEY,
        }
        (self._folder / "node.conf").write_text(
            f"listeners.ssl.1 = 127.0.0.1:{self._tls_port}\n"
            + "".join(f"ssl_options.{name} = {file}\n" for name, file in options.items())
        )
        environment = self._environment
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
        if is_new:
            self.control(commands("brokers", "user"))

    def control(self, text: str) -> None:
        """Run commands with ``rabbitmqctl``."""
        path = f"{PROGRAMS}:{os.environ['PATH']}"
        done = run_commands(text, self._folder, **{**self._environment, "PASSWORD": PASSWORD, "PATH": path})
        assert done.returncode == 0, done.stdout + done.stderr

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "server.log").read_text()[-3000:]
        try:
            with self.connect("guest", "guest", "/"):
                return True
        except (OSError, amqp.AMQPError):
            return False

    def connect(
        self, userid: str = "oms", password: str = PASSWORD, virtual_host: str = "orders"
    ) -> amqp.Connection:
        """Connect to it, as the service unless another user is named."""
        connection = amqp.Connection(
            f"127.0.0.1:{self.port}",
            userid=userid,
            password=password,
            virtual_host=virtual_host,
            connect_timeout=2,
            read_timeout=5,
        )
        connection.connect()
        return connection

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop it for the time of the block: it accepts connections, and never answers."""
        assert self._process is not None
        group = self._process.pid
        os.killpg(group, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(group, signal.SIGCONT)

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
