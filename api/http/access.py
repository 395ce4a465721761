"""API keys and what they allow. Without OMS_API_KEYS every caller may do everything, as ``anyone``.

A key is sent as a bearer token (RFC 6750). The setting has only its SHA-256, so a setting that leaks gives
nobody access.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from api.http.problem_types import FORBIDDEN, UNAUTHENTICATED
from api.http.problems import Fault, ProblemError, malformed
from api.http.request import header_values, headers_by_name, method_of
from shared.settings import settings

if TYPE_CHECKING:
    from litestar.types import Scope

    from api.http.request import AnyConnection

_OPEN_PATHS = ("/health/", "/problems/", "/docs", "/openapi.", "/asyncapi.")
"""How paths begin that need no key: probes, and documentation, which callers read before they have a key."""

READING = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Caller:
    """The caller of a request: the name and role of its API key."""

    name: str
    may_write: bool


ANYONE = Caller("anyone", may_write=True)


def _identify(authorization: str) -> Caller | None:
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer":
        return None
    if not key.strip():
        return None
    digest = sha256(key.strip().encode("utf-8", "replace")).hexdigest()
    for api_key in settings().all_api_keys:
        if hmac.compare_digest(api_key.sha256, digest):
            return Caller(api_key.name, may_write=api_key.role == "write")
    return None


def needs_key(path: str) -> bool:
    """Return whether requests to a path need an API key, where keys are asked for."""
    return path != "/" and not path.startswith(_OPEN_PATHS)


def check_authorization(scope: Scope) -> None:
    """Refuse a request with two keys: a proxy in front might have used the other.

    Raises:
        ProblemError: 400, there is more than one Authorization header.

    """
    if len(headers_by_name(scope).get(b"authorization", ())) > 1:
        raise malformed(Fault("may be given once", header="Authorization"))


def check_access(connection: AnyConnection) -> None:
    """Check that the request's API key allows it; then ``caller_of`` returns the caller.

    Raises:
        ProblemError: 401, no valid key; 403, the key may only read.

    """
    path = connection.scope["path"]
    if not settings().all_api_keys or not needs_key(path):
        caller = ANYONE
    else:
        identified = _identify("".join(header_values(connection.scope, b"authorization")))
        if identified is None:
            raise ProblemError(
                UNAUTHENTICATED,
                "Send a valid API key: Authorization: Bearer <key>.",
                headers={"WWW-Authenticate": 'Bearer realm="orders"'},
            )
        if method_of(connection) not in READING and not identified.may_write:
            raise ProblemError(FORBIDDEN, f"The key of {identified.name} may only read.")
        caller = identified
    connection.scope["caller"] = caller  # type: ignore[typeddict-unknown-key]  # a key of our own


def caller_of(connection: AnyConnection) -> Caller:
    """Return the caller of a request that passed ``check_access``."""
    caller: Caller = connection.scope["caller"]  # type: ignore[typeddict-item]  # as above
    return caller
