"""The folder in which all processes of one server count, if there are several.

prometheus_client reads the variable when it is imported, so this module does not import it.
"""

from __future__ import annotations

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


def _remove_leftovers(parent: Path) -> None:
    """Remove the folders of this user's servers that were killed."""
    for folder in parent.glob(f"{_PREFIX}*-*"):
        process_id = folder.name.removeprefix(_PREFIX).partition("-")[0]
        # In a container that is started again, the server has the id of the one before.
        is_live = process_id != str(os.getpid()) and process_id.isdecimal() and exists(int(process_id))
        with suppress(FileNotFoundError):  # another server that starts has removed it
            if not is_live and folder.lstat().st_uid == os.geteuid():
                shutil.rmtree(folder, ignore_errors=True)


def exists(process_id: int) -> bool:
    """Return whether this user has a process with that id."""
    try:
        os.kill(process_id, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
