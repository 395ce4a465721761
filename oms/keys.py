"""``oms key``: API keys in the database, as its operator: no key and no API is needed.

So the first key is made with it. Where no keys were asked for, they are from then on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from oms.errors import CommandError
from oms.options import AsJson, StateDir
from oms.output import print_json, print_table
from oms.running_system import use_running_system
from shared.command_output import print_line

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

app = typer.Typer(help="Make, list, rotate and revoke API keys, in the database.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The key's name, the actor of what is changed with it.")]


@app.command("make")
def make_key(
    name: Name,
    scopes: Annotated[
        str,
        typer.Option("--scopes", help="What it allows: `all`, or scopes such as orders:read,changes:read."),
    ],
    expires: Annotated[
        str | None, typer.Option("--expires", help="When it expires, such as 2027-01-31T00:00:00Z.")
    ] = None,
    as_json: AsJson = False,
    state_dir: StateDir = None,
) -> None:
    """Make a key, and print it, once."""
    use_running_system(state_dir)
    from api.http.scopes import SCOPES
    from api.keys.bodies import NewKey, read_expiry, read_name, read_scopes
    from api.keys.commands import create_key

    _check(read_name, name, "NAME")
    requested = list(SCOPES) if scopes == "all" else scopes.split(",")
    _check(read_scopes, requested, "--scopes")
    if expires is not None:
        _check(read_expiry, expires, "--expires")
    new = NewKey(name=name, scopes=requested, expires_at=expires)
    _show_key(_run(lambda: create_key(new, None, None), name).text, as_json=as_json)


@app.command("list")
def list_keys(as_json: AsJson = False, state_dir: StateDir = None) -> None:
    """List the keys in use, by name, without their secrets."""
    use_running_system(state_dir)
    keys = _run(_all_keys, "")
    if as_json:
        print_json({"keys": keys})
    elif not keys:
        print_line("there are no keys in the database")
    else:
        print_table(
            [
                key["id"],
                key["name"],
                ",".join(key["scopes"]),
                f"expires {key['expires_at'] or 'never'}",
                f"last used {key['last_used_at'] or 'never'}",
            ]
            for key in keys
        )


@app.command("rotate")
def rotate_key(
    name: Name,
    overlap: Annotated[
        str, typer.Option("--overlap", help="How long the old secret is accepted too: PT1H, P1D, …")
    ] = "PT24H",
    as_json: AsJson = False,
    state_dir: StateDir = None,
) -> None:
    """Give a key a new secret, and print the key, once."""
    use_running_system(state_dir)
    from api.keys.bodies import KeyRotation, read_overlap
    from api.keys.commands import rotate_key as rotate
    from api.keys.queries import find_key_by_name

    _check(read_overlap, overlap, "--overlap")
    rotation = KeyRotation(overlap=overlap)

    async def find_and_rotate() -> Any:
        key = await find_key_by_name(name)
        return await rotate(key.id, rotation, None, None)

    _show_key(_run(find_and_rotate, name).text, as_json=as_json)


@app.command("revoke")
def revoke_key(name: Name, as_json: AsJson = False, state_dir: StateDir = None) -> None:
    """Revoke a key; from a second on, no process accepts it."""
    use_running_system(state_dir)
    from api.keys.commands import revoke_key as revoke
    from api.keys.queries import find_key_by_name

    async def find_and_revoke() -> None:
        key = await find_key_by_name(name)
        await revoke(key.id)

    _run(find_and_revoke, name)
    if as_json:
        print_json({"revoked": name})
    else:
        print_line(f"revoked {name}: from a second on, no process accepts it")


async def _all_keys() -> list[dict[str, Any]]:
    import msgspec

    from api.keys.queries import list_keys as list_page

    keys: list[dict[str, Any]] = []
    after = ""
    while True:
        page = await list_page(after, 100)
        keys += [msgspec.json.decode(text) for text in page.items]
        if page.next_after is None:
            return keys
        after = str(page.next_after[0])


def _check(read: Callable[[Any], object], value: object, name: str) -> None:
    """Refuse a value as a fault of the command line."""
    try:
        read(value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=name) from None


def _run(work: Callable[[], Coroutine[Any, Any, T]], name: str) -> T:
    """Run work on keys in the database; ``name`` is the key's.

    Raises:
        CommandError: it was refused, or the database is unavailable; nothing is stored.

    """
    from api.keys.errors import KeyNameTakenError, KeyNotFoundError, TooManyKeysError
    from shared.database.engine import DatabaseUnavailableError
    from shared.database.one_connection import run_on_database

    try:
        return run_on_database(work)
    except KeyNotFoundError:
        raise CommandError(f"no key in use is called {name}") from None
    except KeyNameTakenError as error:
        raise CommandError(
            f"another key in use is called {error.name}; revoke it, or choose another"
        ) from None
    except TooManyKeysError as error:
        raise CommandError(f"there are {error.most} keys already; revoke some") from None
    except DatabaseUnavailableError as error:
        raise CommandError(f"nothing was changed, try again: {error}") from None


def _show_key(text: str, *, as_json: bool) -> None:
    import msgspec

    key = msgspec.json.decode(text)
    if as_json:
        print_json(key)
    else:
        print_line(key["key"])
