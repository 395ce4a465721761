"""Opening the API that a command calls: where it is, and with which key."""

from __future__ import annotations

from contextlib import contextmanager
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from oms.errors import CommandError
from oms.options import Key, KeyFile, Server, StateDir
from oms.running_system import running_server
from shared.key_files import read_key_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oms.http_client import Api


def read_key(key: str | None, key_file: Path | None) -> str | None:
    """Return the API key: that of the option or OMS_KEY, or the content of a file.

    Raises:
        CommandError: the file can't be read, or a key has characters that no key has.

    """
    where = "--key or OMS_KEY"
    if not key and key_file:
        where = str(key_file)
        try:
            key = read_key_file(key_file)
        except ValueError as error:
            raise CommandError(f"{key_file} {error}", 2) from None
        if not key.strip():
            raise CommandError(f"{key_file} is empty", 2)
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise CommandError(f"{where}: a key has letters, digits and signs only, without spaces", 2)
    return key or None


@contextmanager
def open_api(
    server: str | None, key: str | None, key_file: Path | None, state_dir: Path | None = None
) -> Iterator[Api]:
    """Open the API, and close its connections after the block.

    Raises:
        CommandError: the URL or the key can't be used.

    """
    from oms.http_client import Api, Target

    target = Target.read(server or running_server(state_dir), "--server")
    api = Api(target, read_key(key, key_file))
    try:
        yield api
    finally:
        api.close()


_OPTIONS = {"server": Server, "key": Key, "key_file": KeyFile, "state_dir": StateDir}
"""What ``open_api`` takes, as options of a command."""


def calling_api(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say which API it calls; it gets that API, opened, as ``api``."""

    def run_with_api(**given: Any) -> Any:
        with open_api(*(given.pop(name) for name in _OPTIONS)) as api:
            return command(api=api, **given)

    # Typer reads a command's options from its signature. The API itself is none of them.
    hints = get_type_hints(command, localns={"Api": object}, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY)
        for name, parameter in signature(command).parameters.items()
        if name != "api"
    ]
    common = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in _OPTIONS.items()
    ]
    run_with_api.__signature__ = Signature([*own, *common])  # type: ignore[attr-defined]  # not in the stubs
    run_with_api.__name__, run_with_api.__doc__ = command.__name__, command.__doc__
    return run_with_api


def is_this_machine(host: str) -> bool:
    """Return whether a host of a URL is a loopback address, or localhost."""
    from ipaddress import ip_address

    if host.lower().rstrip(".") == "localhost" or host.lower().rstrip(".").endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
