"""``oms secret-key``: the keys of ``OMS_SECRET_KEY``, under which secrets are encrypted in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import typer

from oms.errors import CommandError
from oms.options import AsJson, StateDir
from oms.output import print_json
from oms.running_system import use_running_system
from shared.command_output import print_line

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

app = typer.Typer(help="Make and rotate the keys of OMS_SECRET_KEY.", no_args_is_help=True)


@app.command("make")
def make_key(as_json: AsJson = False) -> None:
    """Print a new key for OMS_SECRET_KEY.

    Keep it apart from the database's backups.
    """
    from shared.secret_keys import make_secret_key

    key = make_secret_key()
    if as_json:
        print_json({"key": key})
    else:
        print_line(key)


@app.command("status")
def show_status(as_json: AsJson = False, state_dir: StateDir = None) -> None:
    """Count what is encrypted under which key, or in plain text.

    Exit status: 0 all of it can be read; 1 OMS_SECRET_KEY lacks a key.
    """
    use_running_system(state_dir)
    from api.operations.secret_key_rotation import count_by_key
    from shared.settings import settings

    keys = settings().secret_keys
    counts = _run(count_by_key)
    lacking = sorted({key for by_key in counts.values() for key in by_key if key and key not in keys.ids})
    if as_json:
        print_json(
            {
                "encrypts": keys.newest,
                "lacking": lacking,
                "rows": [
                    {"what": what, "key": key, "rows": rows}
                    for what, by_key in counts.items()
                    for key, rows in by_key.items()
                ],
            }
        )
    else:
        for what, by_key in counts.items():
            texts = [
                f"{rows:,} {_place(key, lacking, keys.newest)}"
                for key, rows in sorted(by_key.items(), key=lambda item: item[0] or "")
            ]
            print_line(f"{what}: {', '.join(texts) or 'none'}")
    if lacking:
        raise typer.Exit(1)


def _place(key: str | None, lacking: list[str], newest: str | None) -> str:
    if key is None:
        return "in plain text"
    remark = (
        ", which OMS_SECRET_KEY lacks" if key in lacking else " (which encrypts)" if key == newest else ""
    )
    return f"under the key {key}{remark}"


@app.command("rewrite")
def rewrite(as_json: AsJson = False, state_dir: StateDir = None) -> None:
    """Encrypt everything under the first key.

    The first of OMS_SECRET_KEY; the service may run meanwhile. Interrupted, the next run goes on with what is
    left. If the setting begins with `plain`, everything is stored in plain text. Exit status: 0 done; 1 rows
    were left, run it again or give it the key they need.
    """
    use_running_system(state_dir)
    from api.operations.secret_key_rotation import rewrite_secrets
    from shared.settings import settings

    keys = settings().secret_keys
    if not keys.keys:
        raise CommandError("OMS_SECRET_KEY has no key", 2)
    done = _run(rewrite_secrets)
    if as_json:
        print_json({"key": keys.newest, "rewritten": done})
    else:
        place = f"under the key {keys.newest}" if keys.newest else "in plain text"
        for one in done:
            print_line(
                f"{one.kind}: {one.written:,} rewritten {place}, {one.done_before:,} were already"
                + (f", {one.changed_meanwhile:,} changed meanwhile" if one.changed_meanwhile else "")
                + (f", {len(one.unreadable):,} unreadable" if one.unreadable else "")
            )
            for fault in one.unreadable:
                print_line(f"{one.kind}, {fault}", level="error")
    if not all(one.is_complete for one in done):
        raise typer.Exit(1)


def _run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run work on the database.

    Raises:
        CommandError: the database is unavailable.

    """
    from shared.database.engine import DatabaseUnavailableError
    from shared.database.one_connection import run_on_database

    try:
        return run_on_database(work)
    except DatabaseUnavailableError as error:
        raise CommandError(f"not finished, try again: {error}") from None
