"""Opening the API that a command calls: where it is, and with which key."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from oms.errors import CommandError
from oms.running_system import running_server
from shared.key_files import read_key_file

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def is_this_machine(host: str) -> bool:
    """Return whether a host of a URL is a loopback address, or localhost."""
    from ipaddress import ip_address

    if host.lower().rstrip(".") == "localhost" or host.lower().rstrip(".").endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
