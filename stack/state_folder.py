"""STATE_DIR: one run at a time, and where it can be reached while it runs."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import time
from pathlib import Path

from stack.child_processes import StackError

DEFAULT_FOLDER = Path(".local")
_LET_GO_SECONDS = 1.0
"""A run that was told to stop a moment ago may not have said so yet."""
_STOP_SECONDS = 12.0


class StateFolder:
    """The folder of one local stack. The lock goes with the process that holds it, however that one ends."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._lock: int | None = None

    @property
    def _environment_file(self) -> Path:
        return self.path / "environment.json"

    def take(self) -> None:
        """Make the folder and become its only run, waiting for one that is stopping.

        Raises:
            StackError: another run has it.

        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        begun = time.monotonic()
        while not self._locked():
            said = os.pread(self._lock, 100, 0).decode()
            patience = _STOP_SECONDS if said.startswith("stopping") else _LET_GO_SECONDS
            if time.monotonic() - begun > patience:
                raise StackError(
                    f"{self.path} belongs to a run that goes on (process {said.split()[-1]}); stop that one, "
                    "or start a second beside it: make run STATE_DIR=.local2 PORT=8001"
                )
            time.sleep(0.1)
        self._say("running")

    def publish(self, environment: dict[str, str]) -> None:
        """Leave the settings of the running stack for commands beside it; only this user may read them."""
        self._environment_file.unlink(missing_ok=True)
        with open(os.open(self._environment_file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:  # noqa: PTH123 (a Path can't open with a mode)
            json.dump(environment, file)

    def environment(self) -> dict[str, str]:
        """Return the settings of the stack that runs here.

        Raises:
            StackError: none does.

        """
        try:
            self._lock = os.open(self.path / "lock", os.O_RDWR)
            if not self._locked():
                return dict(json.loads(self._environment_file.read_text()))
        except FileNotFoundError:
            pass
        here = "" if self.path == DEFAULT_FOLDER.resolve() else f" STATE_DIR={shlex.quote(str(self.path))}"
        raise StackError(f"nothing runs in {self.path}; start it in another terminal: make run{here}")

    def stopping(self) -> None:
        """Tell whoever comes next that waiting is worth while."""
        self._say("stopping")
        self._environment_file.unlink(missing_ok=True)

    def _locked(self) -> bool:
        assert self._lock is not None  # noqa: S101 - opened by both callers
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _say(self, state: str) -> None:
        assert self._lock is not None  # noqa: S101 - only the run that took it says anything
        os.pwrite(self._lock, f"{state} {os.getpid()}".ljust(40).encode(), 0)
