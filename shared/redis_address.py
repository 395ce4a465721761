"""Where Redis is, and how to get in: the one reader of ``OMS_REDIS_URL``.

``shared/redis_clients.py`` connects.

    redis://user:password@host:6379/0                            rediss:// the same, over TLS
    unix:///run/redis.sock?db=0
    sentinel://user:password@one:26379,two:26379/0?master=name    sentinels:// the same, over TLS

With sentinels, user and password are those of the server; the sentinels' own are the parameters
``sentinel_username`` and ``sentinel_password``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shared.server_urls import ServerUrl, check_file, one_of, split_url

_SCHEMES = ("redis", "rediss", "unix", "sentinel", "sentinels")
_TLS = ("ssl_ca_certs", "ssl_cert_reqs", "ssl_check_hostname", "ssl_certfile", "ssl_keyfile")
_SENTINEL = ("master", "sentinel_username", "sentinel_password")
_KNOWN = {
    "redis": ("db",),
    "rediss": ("db", *_TLS),
    "unix": ("db",),
    "sentinel": ("db", *_SENTINEL),
    "sentinels": ("db", *_SENTINEL, *_TLS),
}
_MOST_DATABASES = 1_000_000


@dataclass(frozen=True)
class RedisAddress:
    """A Redis server: at a host, at a socket, or whichever is the master that sentinels name."""

    hosts: tuple[tuple[str, int], ...]
    """The server, or the sentinels; empty with a socket."""
    socket: str
    master: str
    """The master's name among the sentinels; empty without sentinels."""
    database: int
    credentials: Mapping[str, str] = field(repr=False)
    """redis-py's options: ``username`` and ``password``, as far as they are given."""
    sentinel_credentials: Mapping[str, str] = field(repr=False)
    tls: Mapping[str, Any] | None
    """redis-py's options for TLS; None without it. By default, certificates are verified."""

    @property
    def label(self) -> str:
        """A URL for logs, without credentials."""
        place = self.master or "socket" if not self.hosts or self.master else self.hosts[0][0]
        return f"redis://{place}/{self.database}"

    def with_password(self, password: str) -> RedisAddress:
        """Return the address with a password that is not in the URL.

        Raises:
            ValueError: the URL has a password too.

        """
        if "password" in self.credentials:
            raise ValueError("has a password, and OMS_REDIS_PASSWORD another; give only one")
        return replace(self, credentials={**self.credentials, "password": password})

    def with_ca_file(self, file: str) -> RedisAddress:
        """Return the address with another file of certificates to trust, if it uses TLS.

        Raises:
            ValueError: the URL names one too.

        """
        if self.tls is None:
            return self
        if "ssl_ca_certs" in self.tls:
            raise ValueError("has ssl_ca_certs, and OMS_REDIS_CA_FILE is set; give only one")
        return replace(self, tls={**self.tls, "ssl_ca_certs": file})


def read_redis_url(url: str) -> RedisAddress:
    """Read a URL of Redis.

    Raises:
        ValueError: it is malformed; the message says what to change, and quotes nothing of it.

    """
    scheme = url.partition("://")[0]
    parts = split_url(url, _SCHEMES, _KNOWN.get(scheme, ()), password_required=True)
    given = parts.parameters
    is_sentinel, is_socket = scheme.startswith("sentinel"), scheme == "unix"
    if is_socket and (parts.hosts or not parts.path):
        raise ValueError("a socket's path begins after three slashes: unix:///run/redis.sock")
    if not is_socket and not parts.hosts:
        raise ValueError("the host is missing; a password comes before it, and ends with @")
    if len(parts.hosts) > 1 and not is_sentinel:
        raise ValueError("only sentinel:// and sentinels:// take several hosts")
    if is_sentinel and not given.get("master"):
        raise ValueError("the master's name is missing: ?master=name")
    if "sentinel_username" in given and "sentinel_password" not in given:
        raise ValueError("sentinel_password is missing")
    names = ("username", "password")
    return RedisAddress(
        hosts=tuple((host, port or (26_379 if is_sentinel else 6_379)) for host, port in parts.hosts),
        socket=f"/{parts.path}" if is_socket else "",
        master=given.get("master", ""),
        database=_read_database(parts, is_socket=is_socket),
        credentials={name: value for name in names if (value := getattr(parts, name))},
        sentinel_credentials={
            name: given[f"sentinel_{name}"] for name in names if f"sentinel_{name}" in given
        },
        tls=_read_tls(given) if scheme in {"rediss", "sentinels"} else None,
    )


def _read_database(parts: ServerUrl, *, is_socket: bool) -> int:
    in_path = "" if is_socket else parts.path
    number = parts.parameters.get("db", in_path) or "0"
    if in_path and "db" in parts.parameters:
        raise ValueError("the database is given twice, as the path and as db; give it once")
    if not (number.isascii() and number.isdigit() and len(number) < 8 and int(number) < _MOST_DATABASES):
        raise ValueError(
            "the database must be a number, as in /0; if the password continues here, write / as %2F in it"
        )
    return int(number)


def _read_tls(given: Mapping[str, str]) -> dict[str, Any]:
    verify = one_of(given, "ssl_cert_reqs", ("required", "none")) != "none"
    check_name = one_of(given, "ssl_check_hostname", ("true", "false")) != "false"
    if "ssl_keyfile" in given and "ssl_certfile" not in given:
        raise ValueError("ssl_certfile is missing")
    files = {name: given[name] for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile") if name in given}
    for name, file in files.items():
        check_file(file, name)
    return {
        "ssl_cert_reqs": "required" if verify else "none",
        "ssl_check_hostname": verify and check_name,
        **files,
    }
