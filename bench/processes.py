"""Starts the servers of a benchmark, and reads their processors' time."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING

import psutil

from stack.child_processes import start_process, stop_processes
from stack.http_check import answers_ok

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

START_SECONDS = 30.0


class BenchError(Exception):
    """The benchmark can't go on; the text says why."""


class Server:
    """One server and its children, from `start` to `stop`; its output goes to a file."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._folder = folder
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it may need a moment until it answers."""
        with self._log.open("ab") as log:
            self._process = start_process(
                self._command,
                output=log,
                env=self._environment,
                cwd=self._folder,
                death_signal=signal.SIGKILL,
            )

    def stop(self) -> None:
        """Stop it and its children."""
        if self._process is not None:
            stop_processes(self._process, grace=5.0)
            self._process = None

    @property
    def process(self) -> psutil.Process:
        """The main process."""
        if self._process is None or self._process.poll() is not None:
            raise BenchError(
                f"{self.name} does not run; the end of its output:\n{self._log.read_text()[-2000:]}"
            )
        return psutil.Process(self._process.pid)

    def wait_for(self, port: int, path: str) -> None:
        """Wait until a path is answered 200, on enough connections that every process was reached.

        Raises:
            BenchError: it takes too long, or the server has ended.

        """
        self.wait_until(lambda: all(answers_ok("127.0.0.1", port, path) for _ in range(20)))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true.

        Raises:
            BenchError: it takes too long, or the server has ended.

        """
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            _ = self.process
            if time.monotonic() > deadline:
                raise BenchError(
                    f"{self.name} is not ready; the end of its output:\n{self._log.read_text()[-2000:]}"
                )
            time.sleep(0.05)


def family(root: psutil.Process) -> list[psutil.Process]:
    """Return a process with its children."""
    return [root, *root.children(recursive=True)]


def cpu_seconds(root: psutil.Process) -> float:
    """Return the processors' time of a process, of its children, and of those that have ended."""
    total = 0.0
    for process in family(root):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
