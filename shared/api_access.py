"""Reads the settings that say who may call the API, from which web pages and under which host names."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal
from urllib.parse import urlsplit

from shared.key_files import read_key_file


@dataclass(frozen=True)
class ApiKey:
    """An API key. Only its SHA-256 digest is stored."""

    name: str
    role: Literal["read", "write"]
    sha256: str


_API_KEY = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}):(?P<role>read|write):(?P<sha256>[0-9a-f]{64})")
_NO_KEYS = frozenset(sha256(nothing.encode()).hexdigest() for nothing in ("", "\n", "\r\n", " "))
"""What ``sha256sum`` prints if the variable with the key was empty."""


def read_api_keys(text: str) -> tuple[ApiKey, ...]:
    """Read ``name:role:sha256``, separated by commas or line breaks; an empty text has no keys.

    Raises:
        ValueError: an entry is malformed, or two have the same name or the same key.

    """
    if not text.strip():
        return ()
    entries = [entry.strip() for entry in re.split("[,\n]", text.strip())]
    matches = [_API_KEY.fullmatch(entry) for entry in entries]
    keys = tuple(
        ApiKey(match["name"], "write" if match["role"] == "write" else "read", match["sha256"])
        for match in matches
        if match
    )
    if len(keys) < len(entries) or len({key.name for key in keys}) < len(keys):
        raise ValueError("must be name:read:sha256 or name:write:sha256, separated by commas, each name once")
    if any(key.sha256 in _NO_KEYS for key in keys):
        raise ValueError(
            "has the sha256 of an empty key, which everybody knows; was the key's variable empty?"
        )
    if len({key.sha256 for key in keys}) < len(keys):
        raise ValueError("has the same key under two names; each caller needs a key of its own")
    return keys


def read_api_keys_file(file: str, more: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
    """Read a file with API keys, which belong together with more keys from elsewhere.

    Raises:
        ValueError: it can't be read, or ``read_api_keys`` refuses the keys.

    """
    text = read_key_file(file)
    entries = (f"{key.name}:{key.role}:{key.sha256}" for key in more)
    return read_api_keys("\n".join(filter(None, (*entries, text.strip()))))


_HOST_PATTERN = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def read_hosts(text: str) -> tuple[str, ...]:
    """Read host names and addresses, separated by commas; ``*.example.com`` means all names below.

    Raises:
        ValueError: an entry is malformed.

    """
    hosts = tuple(entry.strip().casefold().rstrip(".") for entry in text.split(",")) if text.strip() else ()
    for host in hosts:
        if not (_HOST_PATTERN.fullmatch(host) or read_address(host.removeprefix("[").removesuffix("]"))):
            raise ValueError(
                "must be host names or addresses without a port, separated by commas: orders.example.com, "
                "*.example.com, 10.0.0.5"
            )
    return tuple(host.strip("[]") for host in hosts)


_ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*)(:(?P<port>[0-9]{1,5}))?"
)
DEFAULT_PORTS = {"http": 80, "https": 443}


def read_origins(text: str) -> tuple[str, ...]:
    """Read origins of web pages, separated by commas, as browsers write them; or ``*``.

    Raises:
        ValueError: an entry is malformed, or ``*`` is not the only one.

    """
    entries = [entry.strip().lower() for entry in text.split(",")] if text.strip() else []
    if entries == ["*"]:
        return ("*",)
    origins = []
    for entry in entries:
        match = _ORIGIN.fullmatch(entry)
        if match is None:
            raise ValueError(
                "must be origins, separated by commas, each a scheme, a host and perhaps a port, without a "
                "path or a wildcard: https://app.example.com, http://localhost:5173; or * alone"
            )
        port = match["port"] and int(match["port"])
        is_default = port in (None, DEFAULT_PORTS[match["scheme"]])  # browsers leave it out
        shown_port = "" if is_default else f":{port}"
        origins.append(f"{match['scheme']}://{match['host']}{shown_port}")
    return tuple(origins)


def check_key_set_place(place: str) -> str:
    """Check the place of a JWK set: an address, or the path of a file; empty means none.

    Raises:
        ValueError: it is an address that can't be used.

    """
    scheme, separator, _ = place.partition("://")
    if not separator:
        return place
    parts = urlsplit(place)
    try:
        is_usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if scheme not in DEFAULT_PORTS or not is_usable or not place.isascii() or place.split() != [place]:
        raise ValueError("must be an https: or http: address, or the path of a file")
    if "@" in parts.netloc:
        raise ValueError("must not have a user name or a password: a key set is public")
    if parts.fragment:
        raise ValueError("must not have a fragment (#)")
    return place


def read_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return one form of an address: without a zone, IPv4 inside IPv6 as IPv4; None if it is not one."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def resolve(host: str) -> list[IPv4Address | IPv6Address]:
    """Return the addresses of a host, which may be one itself; empty if it has none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    addresses = (read_address(str(address[0])) for *_, address in found)
    return [address for address in addresses if address]


def is_loopback(host: str) -> bool:
    """Return whether a server that listens on this host can be reached from this machine only.

    A name counts as loopback if all of its addresses do; one that can't be resolved does not.
    """
    addresses = resolve(host)
    return bool(addresses) and all(address.is_loopback for address in addresses)
