"""API keys and what they allow. Where no keys are asked for, every caller may do everything, as ``anyone``.

A key is sent as a bearer token (RFC 6750). Keys of OMS_API_KEYS have a role, keys in the database have scopes
(``api/http/stored_keys.py``). Of both only the SHA-256 is stored, so a setting or a table that leaks gives
nobody access.
"""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from api.http.key_texts import PREFIX, read_key_text
from api.http.problem_types import FORBIDDEN, UNAUTHENTICATED
from api.http.problems import Fault, ProblemError, malformed
from api.http.request import header_values, headers_by_name, method_of
from api.http.scopes import ANY_KEY, EVERYTHING, KEYS_MANAGE, OF_ROLES
from api.http.stored_keys import STORED_KEYS
from shared.database.engine import DatabaseUnavailableError
from shared.settings import settings

if TYPE_CHECKING:
    from litestar.handlers import BaseRouteHandler
    from litestar.types import Scope

    from api.http.request import AnyConnection

_OPEN_PATHS = ("/health/", "/problems/", "/docs", "/openapi.", "/asyncapi.")
"""How paths begin that need no key: probes, and documentation, which callers read before they have a key."""

LONGEST_WAIT_SECONDS = 0.5
"""How long a request for metrics waits to know whether it needs a key."""

READING = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Caller:
    """The caller of a request: the name of its API key, and what that key allows."""

    name: str
    scopes: frozenset[str]
    reads_all: bool = False
    """Whether it may read wherever a key may read, except keys: the role ``read``."""
    is_stored: bool = False
    """Whether its key is in the database."""

    def may(self, scope: str, method: str) -> bool:
        """Return whether it may send this method to a route with this scope."""
        return (
            scope in self.scopes
            or scope == ANY_KEY
            or (self.reads_all and method in READING and scope != KEYS_MANAGE)
        )


ANYONE = Caller("anyone", EVERYTHING)


def _token_of(authorization: str) -> str | None:
    scheme, _, key = authorization.partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def _find_in_settings(token: str) -> Caller | None:
    digest = sha256(token.encode("utf-8", "replace")).hexdigest()
    for api_key in settings().all_api_keys:
        if hmac.compare_digest(api_key.sha256, digest):
            return Caller(api_key.name, OF_ROLES[api_key.role], reads_all=api_key.role == "read")
    return None


async def _identify(token: str | None) -> Caller:
    """Return whose key this is.

    Raises:
        ProblemError: 401, it is nobody's.
        DatabaseUnavailableError: it can't be known: the key may be in the database, which does not answer.

    """
    if token is not None and (caller := _find_in_settings(token)):
        return caller
    key = read_key_text(token) if token else None
    are_asked_for = settings().asks_for_keys
    if key is None and are_asked_for:
        raise _unauthenticated(token)
    keys = await STORED_KEYS.read()
    if not (keys.exist or are_asked_for):
        return ANYONE
    stored = keys.find(key) if key else None
    if stored is None:
        raise _unauthenticated(token)
    if stored.has_expired:
        raise _unauthenticated(token, "This API key has expired.")
    STORED_KEYS.note_use(stored.id)
    return Caller(stored.name, stored.scopes, is_stored=True)


def _unauthenticated(token: str | None, detail: str | None = None) -> ProblemError:
    if detail is None and token is not None and token.startswith(PREFIX) and read_key_text(token) is None:
        detail = "The API key is mistyped or incomplete: its checksum does not match."
    return ProblemError(
        UNAUTHENTICATED,
        detail or "Send a valid API key: Authorization: Bearer <key>.",
        headers={"WWW-Authenticate": 'Bearer realm="orders"'},
    )


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


async def check_access(connection: AnyConnection, handler: BaseRouteHandler) -> None:
    """Check that the request's API key allows it; then ``caller_of`` returns the caller.

    Raises:
        ProblemError: 401, no valid key; 403, the key lacks the route's scope.
        DatabaseUnavailableError: it can't be known whether the key is valid, or whether one is needed.

    """
    if not needs_key(connection.scope["path"]):
        caller = ANYONE
    else:
        caller = await _authorize(connection, handler.opt.get("scope", ANY_KEY))  # OPTIONS has none
    connection.scope["caller"] = caller  # type: ignore[typeddict-unknown-key]  # a key of our own


async def _authorize(connection: AnyConnection, scope: str) -> Caller:
    token = _token_of("".join(header_values(connection.scope, b"authorization")))
    if scope != ANY_KEY:
        caller = await _identify(token)
    else:
        # What any key may read has to be readable soon, also while the database does not answer. Where no key
        # was ever known, it then is.
        try:
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                caller = await _identify(token)
        except (DatabaseUnavailableError, TimeoutError) as error:
            if settings().asks_for_keys or STORED_KEYS.are_known_to_exist:
                raise DatabaseUnavailableError("API keys can't be read") from error
            return ANYONE
    if not caller.may(scope, method_of(connection)):
        raise ProblemError(FORBIDDEN, f"The key of {caller.name} lacks the scope {scope}.")
    return caller


async def is_still_allowed(connection: AnyConnection) -> bool:
    """Return whether a request that has been answered for a while would still be allowed; False if unknown.

    Keys in settings last as long as the process.
    """
    caller = caller_of(connection)
    if settings().asks_for_keys and not caller.is_stored:
        return True
    try:
        await check_access(connection, connection.scope["route_handler"])
    except ProblemError:
        return False
    except DatabaseUnavailableError:
        # Nothing new can be read meanwhile. A caller who needed no key waits until it can be known again.
        return not caller.is_stored
    return True


def caller_of(connection: AnyConnection) -> Caller:
    """Return the caller of a request that passed ``check_access``."""
    caller: Caller = connection.scope["caller"]  # type: ignore[typeddict-item]  # as above
    return caller
