"""Checks URLs of PostgreSQL before asyncpg reads them: asyncpg guesses, and finds out when it connects."""

from __future__ import annotations

import os
from collections.abc import Mapping

from shared.server_urls import ServerUrl, check_file, one_of, split_url

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SERVERS = ("any", "primary", "standby", "read-write", "read-only", "prefer-standby")
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_KNOWN = (
    *("host", "port", "dbname", "database", "user", "password", "passfile", "sslmode", *_FILES),
    *("sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version"),
    *("target_session_attrs", "krbsrvname", "gsslib", "application_name", "search_path", "options"),
)
"""What asyncpg understands. It sends any other parameter to the server as a setting, which refuses it."""


def _split(url: str) -> ServerUrl:
    return split_url(url, ("postgresql", "postgres"), _KNOWN, password_required=False)


def check_database_url(url: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the URL if asyncpg can read it.

    Raises:
        ValueError: it is malformed; the message says what to change, and quotes nothing of it.

    """
    parts = _split(url)
    given = parts.parameters
    if not parts.hosts and "host" not in given and not environment.get("PGHOST"):
        raise ValueError("the host is missing; a socket folder goes in ?host=/run/postgresql")
    if "/" in parts.path:
        raise ValueError(
            "the name of the database contains /: write / as %2F, if it belongs to a name or a password"
        )
    for port in given.get("port", "5432").split(","):
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):  # the last port
            raise ValueError("parameter port must be a number from 1 to 65535")
    one_of(given, "sslmode", _SSL_MODES)
    one_of(given, "target_session_attrs", _SERVERS)
    for name in _FILES:
        if name in given:
            check_file(given[name], name)
    return url


def hosts_of(url: str, environment: Mapping[str, str] = os.environ) -> list[tuple[str, int | None]]:
    """Return the hosts of a URL that ``check_database_url`` accepts, with their ports; None: the default."""
    parts = _split(url)
    given = parts.parameters
    hosts = list(parts.hosts)
    if not hosts:
        hosts = [(host, None) for host in given.get("host", environment.get("PGHOST", "")).split(",")]
    ports = [int(port) for port in given["port"].split(",")] if "port" in given else []
    # As in libpq: one port is that of all hosts.
    ports = ports * len(hosts) if len(ports) == 1 else ports
    return [
        (host, own or (ports[place] if place < len(ports) else None))
        for place, (host, own) in enumerate(hosts)
    ]
