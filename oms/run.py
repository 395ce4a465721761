"""``oms run``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from oms.errors import CommandError
from oms.options import StateDir


def run(
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=0, max=65_535, help="The API's port (PORT, or 8000, by default); 0: any free one."
        ),
    ] = None,
    state_dir: StateDir = None,
    sample_data: Annotated[
        bool | None,
        typer.Option("--sample-data/--no-sample-data", help="Whether a new database gets the sample orders."),
    ] = None,
    stop_with_parent: Annotated[
        bool, typer.Option("--stop-with-parent", help="Also stop when the parent process ends.")
    ] = False,
) -> int:
    """Run the whole system on this machine until Ctrl-C.

    Its data stays in the folder.
    """
    try:
        from stack.child_processes import StackError
        from stack.run import run_stack
    except ImportError as error:
        raise CommandError(
            f"the local system is not installed here ({error.name} is missing): `make run` installs it", 2
        ) from None
    if port is not None:
        os.environ["PORT"] = str(port)
    if state_dir is not None:
        os.environ["STATE_DIR"] = str(state_dir)
    if sample_data is not None:
        os.environ["SAMPLE_DATA"] = "yes" if sample_data else "no"
    try:
        return run_stack(stop_with_parent=stop_with_parent)
    except StackError as refusal:
        raise CommandError(f"make run: {refusal}", 2) from None
