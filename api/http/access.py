"""Who sends a request, and whether it may. Where no keys are asked for, every caller may do everything.

A key or an access token is sent as a bearer token (RFC 6750). Keys of OMS_API_KEYS have a role, keys in the
database have scopes (``api/http/stored_keys.py``); of both only the SHA-256 is stored, so a setting or a
table that leaks gives nobody access. Access tokens are an identity provider's (``api/http/tokens.py``). The
live stream is also opened by a ticket in its query (``api/http/stream_tickets.py``).
"""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from api.http.callers import ANYONE, Caller, UsedKey
from api.http.errors import InvalidTicketError, InvalidTokenError
from api.http.key_texts import PREFIX, read_key_text
from api.http.problem_types import FORBIDDEN, UNAUTHENTICATED
from api.http.problems import Fault, ProblemError, malformed
from api.http.request import header_values, headers_by_name, method_of
from api.http.scopes import ANY_KEY, OF_ROLES
from api.http.stored_keys import STORED_KEYS
from api.http.stream_tickets import find_creator, read_ticket
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

_SIGNED_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", re.ASCII)
"""The form of a JWT; no key in the database has a dot. An empty signature is refused by its name."""


def _token_of(authorization: str) -> str | None:
    scheme, _, key = authorization.partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def _find_in_settings(token: str) -> Caller | None:
    digest = sha256(token.encode("utf-8", "replace")).hexdigest()
    for api_key in settings().all_api_keys:
        if hmac.compare_digest(api_key.sha256, digest):
            return Caller(api_key.name, OF_ROLES[api_key.role], reads_all=api_key.role == "read")
    return None


async def _identify_token(text: str) -> Caller:
    """Return whose access token this is.

    Raises:
        ProblemError: 401, it is not valid.
        ProviderKeysUnavailableError: it can't be known: the identity provider's keys can't be read.

    """
    # Only here: processes that accept no tokens need not load what verifies them.
    from api.http.tokens import read_token

    try:
        return await read_token(text)
    except InvalidTokenError as error:
        raise _unauthenticated(text, f"The access token {error}.") from None


async def _identify(token: str | None) -> Caller:
    """Return whose key this is, which is not one of the settings.

    Raises:
        ProblemError: 401, it is nobody's.
        DatabaseUnavailableError: it can't be known: the key may be in the database, which does not answer.

    """
    key = read_key_text(token) if token else None
    are_asked_for = settings().asks_for_keys
    if key is None and are_asked_for:
        raise _unauthenticated(token)
    keys = await STORED_KEYS.read()
    if not (keys.exist or are_asked_for):
        return ANYONE
    stored = keys.find(UsedKey(key.id, key.hash)) if key else None
    if key is None or stored is None:
        raise _unauthenticated(token)
    if stored.has_expired:
        raise _unauthenticated(token, "This API key has expired.")
    STORED_KEYS.note_use(stored.id)
    return Caller(stored.name, stored.scopes, key=UsedKey(key.id, key.hash))


def _unauthenticated(token: str | None, detail: str | None = None) -> ProblemError:
    if detail is None and token is not None and token.startswith(PREFIX) and read_key_text(token) is None:
        detail = "The API key is mistyped or incomplete: its checksum does not match."
    what = "API key or access token" if settings().jwks else "API key"
    # RFC 6750, section 3.1: a request that has no token is told no error.
    error = ', error="invalid_token"' if token is not None else ""
    return ProblemError(
        UNAUTHENTICATED,
        detail
        or f"Send a valid {what}: Authorization: Bearer <{'key or token' if settings().jwks else 'key'}>.",
        headers={"WWW-Authenticate": f'Bearer realm="orders"{error}'},
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
    """Check that the request's key, token or ticket allows it; then ``caller_of`` returns the caller.

    Raises:
        ProblemError: 401, none that is valid; 403, it lacks the route's scope; 400, a ticket and another.
        DatabaseUnavailableError: it can't be known whether the key is valid, or whether one is needed.
        ProviderKeysUnavailableError: it can't be known whether the access token is valid.

    """
    if not needs_key(connection.scope["path"]):
        caller = ANYONE
    elif handler.opt.get("takes_ticket") and (ticket := _ticket_of(connection)):
        caller = await _redeem(ticket)
    else:
        caller = await _authorize(connection, handler.opt.get("scope", ANY_KEY))  # OPTIONS has none
    connection.scope["caller"] = caller  # type: ignore[typeddict-unknown-key]  # a key of our own


async def _authorize(connection: AnyConnection, scope: str) -> Caller:
    token = _token_of("".join(header_values(connection.scope, b"authorization")))
    caller = _find_in_settings(token) if token is not None else None
    is_token = False
    if caller is None and token is not None and settings().jwks and _SIGNED_TOKEN.fullmatch(token):
        caller, is_token = await _identify_token(token), True
    if caller is None and scope != ANY_KEY:
        caller = await _identify(token)
    elif caller is None:
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
        raise _forbidden(caller, scope, "token" if is_token else "key")
    return caller


def require_scope(request: AnyConnection, scope: str) -> None:
    """Check that the caller of a request has one more scope than its route declares.

    Raises:
        ProblemError: 403, it lacks it.

    """
    caller = caller_of(request)
    if not caller.may(scope, method_of(request)):
        raise _forbidden(caller, scope, "key" if caller.token_ends_at is None else "token")


def _forbidden(caller: Caller, scope: str, what: str) -> ProblemError:
    lacking = "every scope of this service" if scope == ANY_KEY else f"the scope {scope}"
    named = "" if scope == ANY_KEY else f', scope="{scope}"'
    return ProblemError(
        FORBIDDEN,
        f"The {what} of {caller.name} lacks {lacking}.",
        headers={"WWW-Authenticate": f'Bearer realm="orders", error="insufficient_scope"{named}'},
    )


def _ticket_of(connection: AnyConnection) -> str | None:
    """Return the ticket in the query, before the route's parameters are read; None if there is none."""
    query = connection.scope["query_string"].decode("latin-1")
    ticket = next((value for name, value in parse_qsl(query, True) if name == "ticket"), None)
    if ticket is None:
        return None
    try:
        ticket = read_ticket(ticket)
        if headers_by_name(connection.scope).get(b"authorization"):
            raise ValueError("must not be sent beside the header Authorization")  # noqa: TRY301 (as the above)
    except ValueError as error:
        raise malformed(Fault(str(error), parameter="ticket")) from None
    return ticket


async def _redeem(ticket: str) -> Caller:
    try:
        creator = await find_creator(ticket)
        if await _is_valid(creator):
            return creator
    except InvalidTicketError:
        pass
    raise _unauthenticated(
        ticket, "The ticket is unknown or has expired; POST /stream-tickets makes another."
    )


async def _is_valid(caller: Caller) -> bool:
    """Return whether a caller that was identified earlier would be so now.

    Raises:
        DatabaseUnavailableError: it can't be known.

    """
    if caller.token_ends_at is not None:
        return time.time() < caller.token_ends_at
    if caller.key is None and any(api_key.name == caller.name for api_key in settings().all_api_keys):
        return True  # keys in settings last as long as the process
    if caller.key is None and settings().asks_for_keys:
        return False
    keys = await STORED_KEYS.read()
    if caller.key is None:
        return not keys.exist
    stored = keys.find(caller.key)
    if stored is None or stored.has_expired:
        return False
    STORED_KEYS.note_use(stored.id)
    return True


async def is_revoked(caller: Caller) -> bool:
    """Return whether a caller's key was revoked, replaced or has expired since; False if unknown.

    A token can't be revoked: an answer that began while it was valid may outlast it.
    """
    if caller.token_ends_at is not None:
        return False
    try:
        return not await _is_valid(caller)
    except DatabaseUnavailableError:
        return False


async def is_still_allowed(connection: AnyConnection) -> bool:
    """Return whether a request that was answered a while ago would still be allowed; False if unknown."""
    caller = caller_of(connection)
    try:
        return await _is_valid(caller)
    except DatabaseUnavailableError:
        # Nothing new can be read meanwhile. A caller who needed no key waits until it can be known again.
        return caller.key is None


def caller_of(connection: AnyConnection) -> Caller:
    """Return the caller of a request that passed ``check_access``."""
    caller: Caller = connection.scope["caller"]  # type: ignore[typeddict-item]  # as above
    return caller
