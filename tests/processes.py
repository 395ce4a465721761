"""The service's processes, started for real."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Self
from unittest import mock

ROOT = Path(__file__).parent.parent

NO_REDIS = "redis://127.0.0.1:1/0"

QUICK = {
    "OMS_REPUBLISH_AFTER": "0.7",
    "OMS_DRAIN": "0",  # also where the tests run under Kubernetes
    "OMS_WEBHOOK_NETWORKS": "127.0.0.0/8",
    # Longer than PostgreSQL's deadlock_timeout: deadlocks must be detected, not resolved by a retry.
    "OMS_LOCK_WAIT": "3",
}
"""Settings that shorten waits, allow webhooks to this machine, and hide no deadlock."""


def environment(database: str, redis: str, **more: str) -> dict[str, str]:
    """Return the environment of a process, without this process's settings."""
    # OpenTelemetry's too. ``shared.task_queue`` sets REMAP_SIGTERM when it is imported here.
    ours = ("OMS_", "OTEL_", "REMAP_SIGTERM")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "OMS_DATABASE_URL": database, "OMS_REDIS_URL": redis, **QUICK, **more}


def start(
    module: str,
    *arguments: str,
    env: dict[str, str],
    output: IO[bytes],
    errors: IO[bytes] | None = None,
    code: Path = ROOT,
) -> subprocess.Popen[bytes]:
    """Start ``python -m`` with one of our modules, in its own session; errors go to ``output`` by default."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=code,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors or output,
        start_new_session=True,
    )


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def call_command(
    module: str, *arguments: str, database: str, terminal: bool = False
) -> subprocess.CompletedProcess[str]:
    """Call the ``main`` of a command of the service, or of ``oms``, in this process: no start of another.

    One at a time: the engine is this process's, and so are its standard streams. With ``terminal``, standard
    error says that it is one.
    """
    from shared.database.engine import DB

    command = import_module("oms.main" if module == "oms" else module).main
    with (
        mock.patch.object(DB, "pool", None),  # the tests' own pool belongs to another event loop
        mock.patch.dict(DB.config, dsn=database),
        redirect_stdout(io.StringIO()) as output,
        redirect_stderr(_Terminal() if terminal else io.StringIO()) as errors,
    ):
        status = command(list(arguments)) if arguments else command()
    return subprocess.CompletedProcess([module, *arguments], status, output.getvalue(), errors.getvalue())


def run_command(
    module: str, *arguments: str, database: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run one of the service's commands as a process, to its end; Redis is not needed."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        env = environment(database, NO_REDIS, **settings)
        process = start(module, *arguments, env=env, output=output, errors=errors)
        try:
            status = process.wait(45)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)
            raise
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(
            [module, *arguments], status, output.read().decode(), errors.read().decode()
        )


def run_on_terminal(*arguments: str, database: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run ``oms`` to its end with a terminal as its standard error, and its standard output in a pipe."""
    controller, terminal = os.openpty()
    with (
        tempfile.TemporaryFile() as output,
        os.fdopen(terminal, "wb", buffering=0) as errors,
        os.fdopen(controller, "rb", buffering=0) as shown,
    ):
        env = environment(database, NO_REDIS, **settings)
        process = start("oms", *arguments, env=env, output=output, errors=errors)
        status = process.wait(45)
        os.set_blocking(controller, False)
        text = shown.read() or b""
        output.seek(0)
        return subprocess.CompletedProcess(
            ["oms", *arguments], status, output.read().decode(), text.decode().replace("\r\n", "\n")
        )


def migrate(database: str) -> None:
    """Bring a database's schema up to date, as a deployment does: also before this process has settings."""
    done = run_command("shared.database.migrate", database=database)
    if done.returncode:
        raise RuntimeError(done.stderr)


class ServiceProcess:
    """One of the service's processes, in a group of its own so that its children end with it."""

    code = ROOT

    def __init__(self, module: str, *, database: str, redis: str, port: int = 0, **settings: str) -> None:
        self.module = module
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)
        if port:
            settings["OMS_PORT"] = str(port)
        self._environment = self.environment(database, redis, **settings)
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self, database: str, redis: str, **settings: str) -> dict[str, str]:
        """Return its environment."""
        return environment(database, redis, **settings)

    def start(self) -> None:
        """Start it; it may need a moment until it is ready."""
        self._process = start(self.module, env=self._environment, output=self._log, code=self.code)

    @property
    def pid(self) -> int:
        """Its process id, which is also its group's."""
        if self._process is None:
            raise RuntimeError(f"{self.module} is not running")
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself, or was never started."""
        return self._process is None or self._process.poll() is not None

    @property
    def log(self) -> str:
        """All that it has logged so far."""
        self._log.flush()
        with Path(f"/proc/self/fd/{self._log.fileno()}").open("rb") as log:
            return log.read().decode(errors="replace")

    def kill(self) -> None:
        """Kill it and its children at once, like a crash."""
        self._end(signal.SIGKILL)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int | None:
        """Ask it to stop, and check that it does within ten seconds; return its exit status."""
        return self._end(number)

    def _end(self, number: signal.Signals) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            if number != signal.SIGKILL:
                process.send_signal(number)
            else:
                with suppress(ProcessLookupError):  # it and its children have already ended
                    os.killpg(process.pid, number)
            return process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)
            raise

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._log.close()
