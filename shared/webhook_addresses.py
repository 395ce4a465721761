"""Which URLs webhooks may have, and which addresses those may resolve to. Pure.

The API checks a URL when a webhook is written. The worker checks at every connection the address that it
connects to, since a name may resolve to another address by then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TYPE_CHECKING, Literal
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
PlainHttp = Literal["never", "internal", "always"]

LONGEST_URL = 2_000

# Refused whatever OMS_WEBHOOK_NETWORKS allows: clouds serve a machine's credentials there to every caller, or
# the address belongs to no host.
_NEVER = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # this host on this network
        "169.254.0.0/16",  # link-local, with most clouds' metadata
        "100.100.100.200/32",  # metadata: Alibaba
        "168.63.129.16/32",  # metadata: Azure
        "192.0.0.0/24",  # protocol assignments, with Oracle's metadata
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        "::/128",  # unspecified
        "::/96",  # IPv4-compatible, obsolete (the loopback address ::1 is checked before)
        "64:ff9b:1::/48",  # translation into an unknown IPv4 network
        "100::/64",  # discard
        "2001::/32",  # Teredo: carries an IPv4 address, and a port
        "2002::/16",  # 6to4: carries an IPv4 address
        "fd00:42::42/128",  # metadata: Scaleway
        "fd00:ec2::254/128",  # metadata: Amazon
        "fd20:ce::254/128",  # metadata: Google
        "fe80::/10",  # link-local
        "ff00::/8",  # multicast
    )
)
_TRANSLATED = IPv6Network("64:ff9b::/96")
"""NAT64: the last 32 bits are the IPv4 address that packets reach."""
_SITE_LOCAL = IPv6Network("fec0::/10")
"""Private, though the standard library does not count it as private."""

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}", re.ASCII)
# A resolver may read such a name as an IPv4 address in another notation: 127.1, 0x7f000001, 017700000001.
_ENDS_IN_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)", re.ASCII)
_VISIBLE = re.compile(r"[!-~]+", re.ASCII)


class RefusedAddressError(Exception):
    """A webhook may not use this URL or address; the text says why."""


def effective_address(address: Address) -> Address:
    """Return the address that packets reach: the IPv4 address inside an IPv6 one, if there is one."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _TRANSLATED:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


@dataclass(frozen=True)
class Target:
    """The parts of a URL that a webhook may have: parsed once, so that no two places parse it differently."""

    scheme: str
    host: str
    port: int
    target: str
    """Path and query, as they are sent in the request line."""

    @property
    def address(self) -> Address | None:
        """The host as an address; None if it is a name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def host_header(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True)
class AddressPolicy:
    """Where webhooks may be sent, by the settings of the deployment."""

    networks: Sequence[Network] = ()
    """Private and loopback networks that are allowed; public addresses always are."""
    ports: Sequence[tuple[int, int]] = ((1, 65_535),)
    plain_http: PlainHttp = "internal"

    def read_url(self, url: str) -> Target:
        """Check and parse a URL.

        Raises:
            RefusedAddressError: it is not a URL, or one that no webhook may have.

        """
        if len(url) > LONGEST_URL or not _VISIBLE.fullmatch(url) or "\\" in url:
            raise RefusedAddressError(
                f"must be a URL of at most {LONGEST_URL} visible ASCII characters, without backslashes"
            )
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise RefusedAddressError("must be a URL such as https://orders.example/changes") from None
        if parts.scheme not in ("http", "https") or not url[len(parts.scheme) :].startswith("://"):
            raise RefusedAddressError("must begin with https:// or http://")
        if parts.scheme == "http" and self.plain_http == "never":
            raise RefusedAddressError("must begin with https://: this deployment does not allow plain HTTP")
        if "@" in parts.netloc:
            raise RefusedAddressError("must not contain a user name or a password")
        if "#" in url:
            raise RefusedAddressError("must not have a fragment")
        port = port if port is not None else {"http": 80, "https": 443}[parts.scheme]
        if not any(first <= port <= last for first, last in self.ports):
            raise RefusedAddressError(f"must not use port {port}: this deployment does not allow it")
        target = Target(parts.scheme, _host(parts), port, _path_and_query(parts))
        if target.address is not None:
            self.check(target.address, target.scheme)
        return target

    def check(self, address: Address, scheme: str) -> Address:
        """Check that a connection to an address is allowed; return the address to connect to.

        Raises:
            RefusedAddressError: it is not allowed.

        """
        effective = effective_address(address)
        if isinstance(effective, IPv6Address) and effective.scope_id is not None:
            raise RefusedAddressError(f"{address} must not contain the zone of a network interface")
        loopback = effective == IPv6Address("::1")
        if not loopback and any(effective in network for network in _NEVER):
            raise RefusedAddressError(
                f"{address} is never allowed: it is a link-local, metadata, multicast or reserved address"
            )
        internal = any(effective in network for network in self.networks)
        if not internal and (not effective.is_global or effective in _SITE_LOCAL):
            raise RefusedAddressError(
                f"{address} is not a public address, and not in OMS_WEBHOOK_NETWORKS of this deployment"
            )
        if scheme == "http" and self.plain_http != "always" and not internal:
            raise RefusedAddressError(
                f"{address} is not in OMS_WEBHOOK_NETWORKS of this deployment: only https is allowed"
            )
        return address if address in _TRANSLATED else effective


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if parts.netloc.startswith("["):
        try:
            return str(IPv6Address(host))
        except ValueError:
            raise RefusedAddressError("must have an IPv6 address between the brackets") from None
    if _ENDS_IN_NUMBER.fullmatch(host):
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise RefusedAddressError("must write an IPv4 address as four decimal numbers") from None
    if not _NAME.fullmatch(host) or len(host) > 253:  # the longest name of the DNS
        raise RefusedAddressError("must name a host: a domain name in ASCII, or an address")
    return host


def _path_and_query(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def read_networks(text: str) -> tuple[Network, ...]:
    """Parse networks in CIDR notation, separated by commas.

    Raises:
        ValueError: an entry is not a network.

    """
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def read_ports(text: str) -> tuple[tuple[int, int], ...]:
    """Parse ports and ranges of ports, separated by commas: ``80,443,1024-65535``.

    Raises:
        ValueError: an entry is not a port or an ascending range.

    """
    ranges = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not (first.isascii() and first.isdigit() and (not last or (last.isascii() and last.isdigit()))):
            raise ValueError("must be ports and ranges such as 443,8000-8999")
        bounds = int(first), int(last or first)
        if not 1 <= bounds[0] <= bounds[1] <= 65_535:  # the last port
            raise ValueError("must be ports from 1 to 65535, each range ascending")
        ranges.append(bounds)
    return tuple(ranges)
