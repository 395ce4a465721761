"""Which system a command works on: that of the environment, or the ``make run`` of this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from oms.errors import CommandError

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_SERVER = "http://127.0.0.1:8000"


def use_running_system(state_dir: Path | None) -> None:
    """Set this process's environment to the system's, before anything reads the settings.

    Raises:
        CommandError: no database is named, and no ``make run`` runs in the folder.

    """
    try:
        from stack.attach import attached_environment
        from stack.child_processes import StackError
    except ImportError:
        return  # an image has no stack: the settings say what is missing
    try:
        environment = attached_environment(os.environ, state_dir)
    except StackError as error:
        raise CommandError(str(error), 2) from None
    os.environ.update(environment)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]


def running_server(state_dir: Path | None) -> str:
    """Return the URL of the API of the running ``make run``, or where it would be."""
    try:
        from stack.child_processes import StackError
        from stack.state_folder import DEFAULT_FOLDER, StateFolder
    except ImportError:
        return DEFAULT_SERVER
    try:
        environment = StateFolder(state_dir or DEFAULT_FOLDER).environment()
    except (StackError, OSError):
        return DEFAULT_SERVER
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(environment["OMS_HOST"], environment["OMS_HOST"])  # noqa: S104 - no bind
    return f"http://{f'[{host}]' if ':' in host else host}:{environment['OMS_PORT']}"
