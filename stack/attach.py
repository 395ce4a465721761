"""Run one command with the settings of the running stack: ``python -m stack.attach COMMAND…``.

Variables that are already set keep their values: with ``OMS_DATABASE_URL`` set, no local stack is needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from stack.child_processes import StackError
from stack.state_folder import DEFAULT_FOLDER, StateFolder

_SERVERS = {"OMS_DATABASE_URL", "OMS_REDIS_URL"}
_NO_REDIS = "redis://127.0.0.1:1/0"
"""The settings require a Redis URL, although the commands run this way (import, verify, rebuild) use none."""


def attached_environment(given: Mapping[str, str], folder: Path | None = None) -> dict[str, str]:
    """Return an environment with the settings of the stack that runs in a folder, where it has none.

    Args:
        given: the environment; an empty URL of a server counts as absent, since make passes empty variables.
        folder: STATE_DIR, or its default, unless it is named here.

    Raises:
        StackError: a database is not named, and no stack runs.

    """
    environment = {name: value for name, value in given.items() if value or name not in _SERVERS}
    if environment.keys() >= _SERVERS:
        return environment
    try:
        running = StateFolder(folder or Path(given.get("STATE_DIR") or DEFAULT_FOLDER)).environment()
    except StackError:
        if "OMS_DATABASE_URL" not in environment:
            raise
        running = {"OMS_REDIS_URL": _NO_REDIS}
    return running | environment


def main(command: list[str]) -> None:
    """Replace this process by the command. Exit status 2 if no stack runs."""
    try:
        environment = attached_environment(os.environ)
    except StackError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    os.execvpe(command[0], command, environment)  # noqa: S606 - the caller's own command


if __name__ == "__main__":
    main(sys.argv[1:])
