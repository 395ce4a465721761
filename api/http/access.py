"""Who may do what. Switched on by OMS_API_KEYS; without it everybody may do everything, as ``anyone``.

A key is shown as a bearer token (RFC 6750). The service keeps only its SHA-256, so a setting that leaks
gives nobody access.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from api.http.problem_types import FORBIDDEN, UNAUTHENTICATED
from api.http.problems import ProblemError
from api.http.request import method_of
from shared.settings import settings

if TYPE_CHECKING:
    from api.http.request import AnyConnection

OPEN_PATHS = ("/health/", "/problems/", "/docs", "/openapi.", "/asyncapi.")
"""What needs no key: probes, and what one reads before one has a key."""

READING = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Caller:
    """Whoever makes a request, as far as this service tells them apart."""

    name: str
    may_write: bool


ANYONE = Caller("anyone", may_write=True)


def _identify(authorization: str) -> Caller | None:
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer":
        return None
    digest = sha256(key.strip().encode("utf-8", "replace")).hexdigest()
    for known in settings().api_keys:
        if hmac.compare_digest(known.sha256, digest):
            return Caller(known.name, may_write=known.role == "write")
    return None


def check_access(connection: AnyConnection) -> None:
    """Let a request through or not, whatever its route.

    Raises:
        ProblemError: 401, no valid key; 403, the key may only read.

    """
    path = connection.scope["path"]
    if not settings().api_keys or path.startswith(OPEN_PATHS):
        caller = ANYONE
    else:
        known = _identify(connection.headers.get("authorization", ""))
        if known is None:
            raise ProblemError(
                UNAUTHENTICATED,
                "Send an API key that is valid: Authorization: Bearer <key>.",
                headers={"WWW-Authenticate": 'Bearer realm="orders"'},
            )
        if method_of(connection) not in READING and not known.may_write:
            raise ProblemError(FORBIDDEN, f"The key of {known.name} may read, not write.")
        caller = known
    connection.scope["caller"] = caller  # type: ignore[typeddict-unknown-key]  # a key of our own


def caller_of(connection: AnyConnection) -> Caller:
    """Give whoever made a request that was let through."""
    caller: Caller = connection.scope["caller"]  # type: ignore[typeddict-item]  # as above
    return caller
