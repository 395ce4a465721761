"""Which host names this service answers for, and which web pages may send it requests that write.

Without API keys, anyone who can reach the service can use it. A web page in their browser could do so
in two ways: under a name of its own that it gives this service's address (DNS rebinding), or by sending a
form. The name ends the first; the headers with which browsers say where a request is from end the second.

Both rules rest on settings alone. Keys in the database loosen neither, so it does not matter here what a
process knows of them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from api.http.callers import READING
from api.http.problem_types import FORBIDDEN
from api.http.problems import Fault, ProblemError, malformed
from api.http.request import header_values, headers_by_name
from shared.api_access import DEFAULT_PORTS, read_address
from shared.settings import settings

if TYPE_CHECKING:
    from litestar.types import Scope

HEALTH_CHECKS = frozenset({"/health/live", "/health/ready"})
"""Answered under any name: Kubernetes sends a pod's address as the host."""

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._~%-]+)(:(?P<port>[0-9]{0,5}))?")
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<host>.+)")
_SENT_BY_BROWSERS = frozenset({b"sec-fetch-site", b"origin"})


def _values_of(scope: Scope, header: bytes) -> list[str]:
    return [value.strip().lower() for value in header_values(scope, header)]


def check_host(scope: Scope) -> None:
    """Refuse a request that is not for one of this service's names.

    Raises:
        ProblemError: 400, there is no Host header, or more than one (RFC 9112, section 3.2), or it has a name
            that is not this service's.

    """
    hosts = headers_by_name(scope).get(b"host", ())
    # granian adds an empty one if there is none. HTTP/1.0 (granian's "1") allows that; no browser speaks it.
    is_named = len(hosts) == 1 and bool(hosts[0].strip())
    if scope.get("http_version") in {"1", "1.0"} and not is_named and len(hosts) < 2:
        return
    if not is_named:
        raise malformed(Fault("exactly one is required", header="Host"))
    name = _name_of(hosts[0])
    if name is None:
        raise malformed(Fault("must be a host name or address, and may have a port", header="Host"))
    given = settings()
    is_ours = _is_ours(name, given.host, given.allowed_hosts, has_keys=given.asks_for_keys)
    if not is_ours and scope["path"] not in HEALTH_CHECKS:
        raise malformed(
            Fault(
                "this service does not answer under this name; its operator can add it to OMS_ALLOWED_HOSTS",
                header="Host",
            )
        )


@lru_cache(64)
def _name_of(host: bytes) -> str | None:
    match = _HOST.fullmatch(host.decode("latin-1").strip().lower())
    return match and match["name"].strip("[]").rstrip(".")


@lru_cache(64)
def _is_ours(name: str, host: str, allowed_hosts: tuple[str, ...], *, has_keys: bool) -> bool:
    if allowed_hosts:
        return any(
            name.endswith(allowed[1:]) if allowed.startswith("*.") else name == allowed
            for allowed in allowed_hosts
        )
    if has_keys:
        return True
    own, address = host.lower().rstrip("."), read_address(name)
    if address is None:
        return name == "localhost" or name.endswith(".localhost") or name == own
    # A name can be given any address, but an address is only ever itself.
    listens_on = read_address(own)
    return address.is_loopback or address == listens_on or bool(listens_on and listens_on.is_unspecified)


def check_origin(scope: Scope) -> None:
    """Refuse a request that may write and that a page of another origin sent, while there are no keys.

    Browsers send a form without asking this service first, and without a body no media type could stop it.
    With keys, a page needs one, and a browser adds none by itself.

    Raises:
        ProblemError: 403.

    """
    if scope.get("method") in READING or settings().asks_for_keys:
        return
    if headers_by_name(scope).keys().isdisjoint(_SENT_BY_BROWSERS):
        return
    sites = _values_of(scope, b"sec-fetch-site")
    origins = _values_of(scope, b"origin")
    host = "".join(_values_of(scope, b"host"))
    if set(sites) <= {"same-origin", "none"} and all(_is_origin_of(origin, host) for origin in origins):
        return
    if len(origins) == 1 and origins[0] in settings().cors_origins:
        return
    raise ProblemError(
        FORBIDDEN,
        "A page of another origin sent this request. Unless the settings ask for API keys, only this "
        "service's own may write.",
    )


def _is_origin_of(origin: str, host: str) -> bool:
    # A proxy may have spoken TLS to the browser, so the scheme of this service is not known.
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return False
    default = DEFAULT_PORTS[match["scheme"]]
    page = _place(match["host"], default)
    return page is not None and page == _place(host, default)


def _place(host: str, default_port: int) -> tuple[str, int] | None:
    match = _HOST.fullmatch(host)
    return match and (match["name"].rstrip("."), int(match["port"] or default_port))
