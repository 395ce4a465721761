"""Access tokens of the identity provider: signed JWTs (RFC 7519, RFC 9068), with the precautions of RFC 8725.

A token is believed if one of the provider's keys signed it, with an asymmetric algorithm, for this service
(``OMS_JWT_AUDIENCE``), and it has not expired. Its ``sub`` names the caller, and its ``scope`` says what it
may do.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from joserfc import jwt
from joserfc.errors import (
    BadSignatureError,
    ExpiredTokenError,
    InvalidClaimError,
    JoseError,
    MissingClaimError,
    UnsupportedAlgorithmError,
)
from joserfc.jws import JWSRegistry

from api.http.callers import Caller
from api.http.errors import InvalidTokenError
from api.http.json_text import UnreadableJsonError, read_json
from api.http.provider_keys import PROVIDER_KEYS
from api.http.scopes import SCOPES
from api.http.texts import visible_text
from shared.settings import settings

if TYPE_CHECKING:
    from joserfc._rfc7515.model import JWSAlgModel

LONGEST_TOKEN = 16_384
LONGEST_HEADER = 4_096
LEEWAY_SECONDS = 30
"""How far the provider's clock may be off."""

KEY_TYPES = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    **dict.fromkeys(("EdDSA", "Ed25519"), "OKP"),
}
"""The accepted algorithms, with the type of their keys: neither ``none`` nor any with a shared secret."""

_END_OF_TIME = 253_402_300_000
"""In seconds of Unix time: the last year that has four digits, and that datetimes have here."""

_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""Values of ``typ``. Tokens for other purposes have others, such as ``logout+jwt`` (RFC 8725, 3.11)."""

_read_subject = visible_text(96)
"""Read the name of a caller: with its prefix at most 100 characters, as all actors of changes."""


class _Algorithms(JWSRegistry):
    """Those of ``KEY_TYPES``, without the library's warning about the name EdDSA, which providers use."""

    max_header_length = LONGEST_HEADER
    max_payload_length = LONGEST_TOKEN

    def get_alg(self, name: str) -> JWSAlgModel:
        """Return an algorithm."""
        if name not in KEY_TYPES:
            raise UnsupportedAlgorithmError
        return self.algorithms[name]


_REGISTRY = _Algorithms(strict_check_header=False)  # unknown members are ignored (RFC 7515, section 4)


async def read_token(text: str) -> Caller:
    """Return who sends an access token.

    Raises:
        InvalidTokenError: it is not valid; the message says why.
        ProviderKeysUnavailableError: the keys of the identity provider can't be read.

    """
    if len(text) > LONGEST_TOKEN:
        raise InvalidTokenError(f"has more than {LONGEST_TOKEN:,} characters")
    header_text, payload_text, _ = text.split(".")
    header = _read_object(header_text, "header")
    algorithm, key_id = _check_header(header)
    _read_object(payload_text, "payload")
    key = await PROVIDER_KEYS.find(key_id, KEY_TYPES[algorithm])
    if key is None:
        raise InvalidTokenError(
            "names a key (kid) that the identity provider does not have"
            if key_id is not None
            else "names no key (kid), and the identity provider does not have exactly one of its type"
        )
    try:
        claims = jwt.decode(text, key, registry=_REGISTRY).claims
    except BadSignatureError:
        raise InvalidTokenError("is not signed by the identity provider") from None
    except (JoseError, ValueError) as error:
        raise InvalidTokenError(f"can't be verified: {error}") from None
    _check_claims(claims)
    return Caller(_name_of(claims), _scopes_of(claims), token_ends_at=float(claims["exp"]) + LEEWAY_SECONDS)


def _read_object(part: str, name: str) -> dict[str, Any]:
    """Read a part of a token strictly: of a duplicate member, another reader might believe the other one."""
    try:
        content = read_json(base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True))
    except UnreadableJsonError as error:
        raise InvalidTokenError(f"has a {name} that {error}") from None
    except binascii.Error:
        raise InvalidTokenError(f"has a {name} that is not base64url") from None
    if not isinstance(content, dict):
        raise InvalidTokenError(f"has a {name} that is not a JSON object")
    return content


def _check_header(header: dict[str, Any]) -> tuple[str, str | None]:
    """Return the algorithm and the key's id."""
    algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ", "jwt")
    if not isinstance(algorithm, str) or algorithm not in KEY_TYPES:
        raise InvalidTokenError(f"has an algorithm (alg) that is not one of {', '.join(KEY_TYPES)}")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise InvalidTokenError("has a type (typ) that is not one of access tokens: JWT or at+jwt")
    if "crit" in header or "b64" in header:
        raise InvalidTokenError("needs an extension (crit), and this service knows none")
    if key_id is not None and not isinstance(key_id, str):
        raise InvalidTokenError("has a key id (kid) that is not a string")
    return algorithm, key_id


def _check_claims(claims: dict[str, Any]) -> None:
    given = settings()
    registry = jwt.JWTClaimsRegistry(
        leeway=LEEWAY_SECONDS,
        iss={"essential": True, "value": given.jwt_issuer},
        aud={"essential": True, "value": given.jwt_audience},
        exp={"essential": True},
    )
    try:
        registry.validate(
            {name: claims[name] for name in ("iss", "aud", "exp", "nbf", "iat") if name in claims}
        )
    except ExpiredTokenError:
        raise InvalidTokenError("has expired") from None
    except MissingClaimError as error:
        raise InvalidTokenError(f"lacks the claim {error.claim}") from None
    except InvalidClaimError as error:
        raise InvalidTokenError(_WRONG_CLAIMS[error.claim]) from None
    if not 0 < claims["exp"] < _END_OF_TIME:
        raise InvalidTokenError(_WRONG_CLAIMS["exp"])


_WRONG_CLAIMS = {
    "iss": "is of an issuer (iss) that this deployment does not trust",
    "aud": "is for another audience (aud) than this service",
    "exp": "has an expiry (exp) that is not a number of seconds before the year 10000",
    "nbf": "is not valid yet (nbf)",
    "iat": "was issued in the future (iat)",
}


def _name_of(claims: dict[str, Any]) -> str:
    """Return the caller's name. No API key's can be the same: those have no colon."""
    claim = next((claim for claim in ("sub", "client_id") if claims.get(claim) is not None), "sub")
    try:
        return f"{claim.removesuffix('_id')}:{_read_subject(claims.get(claim))}"
    except ValueError as error:
        raise InvalidTokenError(f"has a claim {claim} that can't be used: it {error}") from None


def _scopes_of(claims: dict[str, Any]) -> frozenset[str]:
    """Return the scopes that are known here: of ``scope``, else of ``scp``, as some providers call it."""
    scopes = claims.get("scope", claims.get("scp", ""))
    if isinstance(scopes, str):
        scopes = scopes.split(" ")
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise InvalidTokenError("has a scope that is not a string, in which spaces separate the scopes")
    return frozenset(SCOPES).intersection(scopes)
