"""Where ``oms listen`` has got to, in a file: written as a whole, and used by one process at a time."""

from __future__ import annotations

import fcntl
import os
from hashlib import sha256
from pathlib import Path
from typing import Self

import msgspec

from oms.errors import CommandError


class Listening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the file."""

    server: str
    forward_to: str
    position: int
    """Every change up to it was acknowledged, or left out by the filters."""
    secret: str


def default_file(server: str, forward_to: str) -> Path:
    """Return the file of a server and a receiver, under the user's state folder (XDG)."""
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    digest = sha256(f"{server}\n{forward_to}".encode()).hexdigest()[:16]
    return folder / "oms" / f"listen-{digest}.json"


class StateFile:
    """The file, locked while it is open; the lock ends with the process, even if it is killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Not the file itself, which is replaced each time.
            self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(
                f"another `oms listen` uses {self.path}; stop it, or name another file with --state-file"
            ) from None
        except OSError as error:
            raise CommandError(f"{self.path}: {error.strerror}", 2) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def read(self) -> Listening | None:
        """Return what is stored, or None.

        Raises:
            CommandError: it is not what this command wrote.

        """
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Listening)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CommandError(f"{self.path}: {error.strerror}", 2) from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise CommandError(
                f"{self.path} is not a file of `oms listen`; remove it to start anew, or name another with "
                "--state-file",
                2,
            ) from None

    def write(self, listening: Listening) -> None:
        """Store it: on disk before this returns, and never half of it.

        Raises:
            CommandError: it can't be written.

        """
        part = self.path.with_name(f"{self.path.name}.part")
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 (a Path can't open with a mode)
                file.write(msgspec.json.encode(listening) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        except OSError as error:
            raise CommandError(f"{self.path}: {error.strerror}") from None
