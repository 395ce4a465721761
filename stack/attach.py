"""Run one command with the settings of the running stack: ``python -m stack.attach COMMAND…``.

Variables that are already set keep their values: with ``OMS_DATABASE_URL`` set, no local stack is needed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from stack.child_processes import StackError
from stack.state_folder import DEFAULT_FOLDER, StateFolder

_SERVERS = {"OMS_DATABASE_URL", "OMS_REDIS_URL"}
_NO_REDIS = "redis://127.0.0.1:1/0"
"""The settings require a Redis URL, although the commands run this way (import, verify, rebuild) use none."""


def main(command: list[str]) -> None:
    """Replace this process by the command. Exit status 2 if no stack runs."""
    environment = {name: value for name, value in os.environ.items() if value or name not in _SERVERS}
    if not environment.keys() >= _SERVERS:
        try:
            running = StateFolder(Path(os.environ.get("STATE_DIR") or DEFAULT_FOLDER)).environment()
        except StackError as error:
            if "OMS_DATABASE_URL" not in environment:
                print(error, file=sys.stderr)
                raise SystemExit(2) from None
            running = {"OMS_REDIS_URL": _NO_REDIS}
        environment = running | environment
    os.execvpe(command[0], command, environment)  # noqa: S606 - the caller's own command


if __name__ == "__main__":
    main(sys.argv[1:])
