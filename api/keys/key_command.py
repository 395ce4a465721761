"""Manage API keys as the operator: ``python -m api.keys.key_command make NAME --scopes orders:read,…``.

It needs the database only, no key and no API, so the first key is made with it. Where no keys were asked for,
they are from then on.

Exit status: 0 done; 1 refused, or the database is unavailable; 2 the command line can't be read.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from typing import TypeVar

import msgspec

from api.http.scopes import SCOPES
from api.keys import commands, queries
from api.keys.bodies import KeyRotation, NewKey, read_expiry, read_name, read_overlap, read_scopes
from api.keys.errors import KeyNameTakenError, KeyNotFoundError, TooManyKeysError
from shared.command_output import print_line
from shared.database.engine import DB, DatabaseUnavailableError

T = TypeVar("T")


async def _list() -> None:
    after = ""
    while True:
        page = await queries.list_keys(after, 100)
        for text in page.items:
            key = msgspec.json.decode(text)
            print_line(
                f"{key['id']}  {key['name']}  {','.join(key['scopes'])}  "
                f"expires {key['expires_at'] or 'never'}  last used {key['last_used_at'] or 'never'}"
            )
        if page.next_after is None:
            return
        after = str(page.next_after[0])


async def _make(options: argparse.Namespace) -> None:
    new = NewKey(name=options.name, scopes=options.scopes, expires_at=options.expires)
    answer = await commands.create_key(new, None, None)
    print_line(msgspec.json.decode(answer.text)["key"])


async def _rotate(options: argparse.Namespace) -> None:
    key = await queries.find_key_by_name(options.name)
    answer = await commands.rotate_key(key.id, KeyRotation(overlap=options.overlap), None, None)
    print_line(msgspec.json.decode(answer.text)["key"])


async def _revoke(options: argparse.Namespace) -> None:
    key = await queries.find_key_by_name(options.name)
    await commands.revoke_key(key.id)
    print_line(f"revoked {key.name}: from a second on, no process accepts it")


async def run(options: argparse.Namespace) -> None:
    """Carry out a command.

    Raises:
        KeyNameTakenError, KeyNotFoundError, TooManyKeysError, DatabaseUnavailableError: nothing is stored.

    """
    await DB.start(size=1)
    try:
        if options.command == "list":
            await _list()
        elif options.command == "make":
            await _make(options)
        elif options.command == "rotate":
            await _rotate(options)
        else:
            await _revoke(options)
    finally:
        await DB.stop()


def _read_scopes(text: str) -> list[str]:
    return read_scopes(list(SCOPES) if text == "all" else text.split(","))


def _checked(read: Callable[[str], T]) -> Callable[[str], str]:
    """Return a reader of an argument that says what is wrong with it, and leaves it as it is."""

    def check(text: str) -> str:
        try:
            read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return check


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m api.keys.key_command", description="Manage API keys.")
    parsers = parser.add_subparsers(dest="command", required=True)
    parsers.add_parser("list", help="list the keys in use")
    make = parsers.add_parser("make", help="make a key, and print it; it can't be shown again")
    make.add_argument("name", type=_checked(read_name), help="the actor of what is changed with it")
    make.add_argument(
        "--scopes", type=_checked(_read_scopes), required=True, help=f"all, or some of {','.join(SCOPES)}"
    )
    make.add_argument("--expires", type=_checked(read_expiry), help="when, such as 2027-01-31T00:00:00Z")
    rotate = parsers.add_parser("rotate", help="give a key a new secret, and print it")
    rotate.add_argument("name")
    rotate.add_argument(
        "--overlap", type=_checked(read_overlap), default="PT24H", help="how long the old one is accepted"
    )
    revoke = parsers.add_parser("revoke", help="revoke a key")
    revoke.add_argument("name")
    options = parser.parse_args(arguments)
    if options.command == "make":
        options.scopes = _read_scopes(options.scopes)
    try:
        asyncio.run(run(options))
    except KeyNotFoundError:
        print_line(f"no key in use is called {options.name}", level="error")
    except KeyNameTakenError as error:
        print_line(f"another key in use is called {error.name}; revoke it, or choose another", level="error")
    except TooManyKeysError as error:
        print_line(f"there are {error.most} keys already; revoke some", level="error")
    except DatabaseUnavailableError as error:
        print_line(f"nothing was changed, try again: {error}", level="error")
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
