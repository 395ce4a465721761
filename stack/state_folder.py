"""STATE_DIR: its lock, which lets one stack run at a time, and the settings of the running stack."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import time
from pathlib import Path

from stack.child_processes import StackError

DEFAULT_FOLDER = Path(".local")
_UNLOCK_SECONDS = 1.0
"""How long to wait for a run not marked as stopping: it may have received the signal just now."""
_STOP_SECONDS = 12.0
"""How long to wait for a run that is stopping."""


class StateFolder:
    """The folder of one local stack. The lock ends with the process that holds it, even if it is killed."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._lock_file: int | None = None

    @property
    def _environment_file(self) -> Path:
        return self.path / "environment.json"

    def lock(self) -> None:
        """Create and lock the folder, waiting for a run that is stopping.

        Raises:
            StackError: another run has locked it, or it can't be created.

        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock_file = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StackError(
                f"{self.path} can't be used for the data ({error.strerror}); choose another folder: "
                "make run STATE_DIR=…"
            ) from None
        began = time.monotonic()
        while not self._try_lock():
            state, *_, process_id = os.pread(self._lock_file, 100, 0).decode().split() or ("", "unknown")
            timeout_seconds = _STOP_SECONDS if state == "stopping" else _UNLOCK_SECONDS
            if time.monotonic() - began > timeout_seconds:
                raise StackError(
                    f"{self.path} is in use by another run (process {process_id}); stop that run, "
                    "or start a second one: make run STATE_DIR=.local2 PORT=8001"
                )
            time.sleep(0.1)
        self._write_state("running")

    def publish(self, environment: dict[str, str]) -> None:
        """Write the settings of the running stack for other commands; only this user can read the file."""
        self._environment_file.unlink(missing_ok=True)
        with open(os.open(self._environment_file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:  # noqa: PTH123 (a Path can't open with a mode)
            json.dump(environment, file)

    def environment(self) -> dict[str, str]:
        """Return the settings of the stack that runs in this folder.

        Raises:
            StackError: no stack runs in it, or it can't be read.

        """
        try:
            self._lock_file = os.open(self.path / "lock", os.O_RDWR)
            if not self._try_lock():
                return dict(json.loads(self._environment_file.read_text()))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise StackError(f"{self.path} can't be read: {error.strerror}") from None
        here = "" if self.path == DEFAULT_FOLDER.resolve() else f" STATE_DIR={shlex.quote(str(self.path))}"
        raise StackError(
            f"no system is running in {self.path}; start one in another terminal: make run{here}"
        )

    def mark_stopping(self) -> None:
        """Record that this run is stopping, so that the next one waits for it."""
        self._write_state("stopping")
        self._environment_file.unlink(missing_ok=True)

    def _try_lock(self) -> bool:
        assert self._lock_file is not None  # noqa: S101 - opened by both callers
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _write_state(self, state: str) -> None:
        assert self._lock_file is not None  # noqa: S101 - only the run that holds the lock writes
        os.pwrite(self._lock_file, f"{state} {os.getpid()}".ljust(40).encode(), 0)
