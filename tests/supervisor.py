"""``oms run`` as a process, for tests: its output, its child processes, and its end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from stack.child_processes import started_with, working_in
from tests.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    import psutil

READY = re.compile(r"ready on (http://127\.0\.0\.1:\d+) .*curl -s (http://\S+)")
READY_TIMEOUT_SECONDS = 45.0
STOP_TIMEOUT_SECONDS = 10.0


class Run:
    """One run of the supervisor."""

    def __init__(self, state: Path, port: int, **settings: str) -> None:
        self.state = state
        self.lines: list[str] = []
        self._next_line = 0
        self._output_ended = False
        self._output_changed = threading.Condition()
        self.address = self.tried = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "oms", "run"],
            cwd=ROOT,
            env=stack_environment(state, port) | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        # Read all the time: it would block on a full pipe.
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self._output_changed:
                    self.lines.append(line.rstrip("\n"))
                    self._output_changed.notify_all()
        with self._output_changed:
            self._output_ended = True
            self._output_changed.notify_all()

    def wait_until_ready(self) -> None:
        """Read until the ready line, and store the address and the URL in it."""
        self.address, self.tried = self.read_until(READY, within=READY_TIMEOUT_SECONDS).groups()

    def read_until(self, pattern: re.Pattern[str], *, within: float) -> re.Match[str]:
        """Read until a line matches, for so many seconds; no line is examined twice."""
        deadline = time.monotonic() + within
        with self._output_changed:
            while (left := deadline - time.monotonic()) > 0:
                while self._next_line < len(self.lines):
                    self._next_line += 1
                    if match := pattern.search(self.lines[self._next_line - 1]):
                        return match
                if self._output_ended:
                    break
                self._output_changed.wait(left)
        raise AssertionError(f"never printed {pattern.pattern}:\n" + "\n".join(self.lines))

    def wait_until_ended(self, within: float) -> None:
        """Wait until it has ended and all its output is read."""
        self.process.wait(within)
        self._listener.join(within)
        assert not self._listener.is_alive(), "another process holds its output open"

    def processes(self) -> list[psutil.Process]:
        """Find every living process of this run except the supervisor itself."""
        return [
            *started_with("ORDER_STACK", str(self.state)),
            *working_in(self.state / "postgres" / "data", "postgres"),
            *working_in(self.state / "valkey", "valkey-server"),
        ]

    def stop(self) -> None:
        """Stop it, if a test has not done so."""
        if self.process.poll() is None:
            self.process.terminate()
            self.wait_until_ended(STOP_TIMEOUT_SECONDS + 5)


def stack_environment(state: Path, port: int) -> dict[str, str]:
    """Return the environment of a run or of a command beside it, without this process's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OMS_")}
    return kept | {"STATE_DIR": str(state), "PORT": str(port)}
