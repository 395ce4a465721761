"""The folder in which all processes of one server, or of one worker, count, if there are several.

prometheus_client reads the variable when it is imported, so this module does not import it.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - the folders in it have random names, and are this user's
_PREFIX = "oms-metrics-"


_slot = (0, -1)
"""The id of the process that took a slot, and the slot. A forked child has another id, and takes its own."""


@contextmanager
def shared_counts(processes: int) -> Iterator[None]:
    """Make the folder for the length of the block, and name it to the processes that are started in it.

    In memory if possible: while the kernel writes a page of a file to disk, nobody can count in it.
    """
    os.environ.pop(FOLDER_VARIABLE, None)
    if processes == 1:
        yield
        return
    parent = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    _remove_leftovers(parent)
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent) as folder:
        os.environ[FOLDER_VARIABLE] = folder
        yield


def counts_folder() -> Path:
    """Return the folder, made again if somebody removed it.

    systemd does so with all that a user who logs out has in ``/dev/shm`` (``RemoveIPC``). What was counted
    before is then lost, but everything works on.
    """
    folder = Path(os.environ[FOLDER_VARIABLE])
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def process_slot() -> int:
    """Return the number of this process among those that count in the folder: the lowest that was free.

    It is this process's as long as it lives: the kernel ends the lock with the process. Children inherit the
    lock's file and may outlive their parent; until then the number stays taken.
    """
    global _slot  # noqa: PLW0603 - one for each process
    process_id = os.getpid()
    if _slot[0] != process_id:
        _slot = (process_id, _take_slot(counts_folder(), inherited=_slot[1]))
    return _slot[1]


def _take_slot(folder: Path, inherited: int) -> int:
    for slot in itertools.count():
        if slot == inherited:
            # It looks free if the folder was made again. prometheus_client would not notice the fork.
            continue
        lock = os.open(folder / f"{slot}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return slot  # the file stays open
    raise AssertionError("there is always another number")


def _remove_leftovers(parent: Path) -> None:
    """Remove the folders of this user's servers that were killed."""
    for folder in parent.glob(f"{_PREFIX}*-*"):
        process_id = folder.name.removeprefix(_PREFIX).partition("-")[0]
        # In a container that is started again, the server has the id of the one before.
        is_live = process_id != str(os.getpid()) and process_id.isdecimal() and _exists(int(process_id))
        with suppress(FileNotFoundError):  # another server that starts has removed it
            if not is_live and folder.lstat().st_uid == os.geteuid():
                shutil.rmtree(folder, ignore_errors=True)


def _exists(process_id: int) -> bool:
    """Return whether this user has a process with that id."""
    try:
        os.kill(process_id, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
