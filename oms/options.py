"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir", envvar="STATE_DIR", help="The folder of the `make run` to work on (.local by default)."
    ),
]

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="OMS_SERVER",
        help="The URL of the API; by default that of the running `make run`, or http://127.0.0.1:8000.",
    ),
]

Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="OMS_KEY",
        help="An API key. Others on this machine can see a command line: rather set OMS_KEY, or name a file.",
    ),
]

KeyFile = Annotated[
    Path | None, typer.Option("--key-file", envvar="OMS_KEY_FILE", help="A file with the API key.")
]

Yes = Annotated[bool, typer.Option("--yes", help="Do it on a server that is not this machine, too.")]
