"""An identity provider: makes access tokens, and publishes its public keys on this machine."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any, Self

from joserfc.jwk import ECKey, RSAKey
from joserfc.jws import JWSRegistry

from tests.local_server import LocalHandler, LocalServer

if TYPE_CHECKING:
    from joserfc.jwk import OKPKey

    Key = RSAKey | ECKey | OKPKey

ISSUER = "https://id.example/realm"
AUDIENCE = "orders"


def part(content: object) -> str:
    """Write a part of a token; text is taken as it is."""
    text = content if isinstance(content, str) else json.dumps(content)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def claims(**more: object) -> dict[str, Any]:
    """Return the claims of a valid token; those that are None are left out."""
    now = int(time.time())
    valid = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 300}
    return {
        name: value for name, value in {**valid, "scope": "orders:read", **more}.items() if value is not None
    }


class IdentityProvider:
    """Serves a key set on a port of its own, and counts how often it is read."""

    def __init__(self) -> None:
        self.key: Key = RSAKey.generate_key(2048, {"kid": "first", "use": "sig"})
        self.published: list[dict[str, Any]] = [self.key.as_dict(private=False)]
        self.answer: bytes | None = None
        """What to answer in place of the key set."""
        self.status = 200
        self.delay = 0.0
        self.reads = 0
        provider = self

        class Handler(LocalHandler):
            def respond(self) -> None:
                provider.reads += 1
                time.sleep(provider.delay)
                content = provider.answer or json.dumps({"keys": provider.published}).encode()
                self.answer_with(provider.status, content, {"Location": "/elsewhere"})

        self._server = LocalServer(Handler)

    @property
    def settings(self) -> dict[str, str]:
        """The environment of an API that trusts it."""
        return {
            "OMS_JWKS": f"{self._server.url}/keys",
            "OMS_JWT_ISSUER": ISSUER,
            "OMS_JWT_AUDIENCE": AUDIENCE,
        }

    def publish(self, *keys: Key) -> None:
        """Replace the published keys."""
        self.published = [key.as_dict(private=False) for key in keys]

    def token(self, *, key: Key | None = None, header: dict[str, Any] | None = None, **more: object) -> str:
        """Make a token, which is valid unless claims or members of its header are changed."""
        key = key or self.key
        algorithm = {"RSA": "RS256", "EC": "ES256", "OKP": "Ed25519"}[key.key_type]
        full = {"alg": algorithm, "kid": key.kid, "typ": "at+jwt", **(header or {})}
        return self.signed(json.dumps({n: v for n, v in full.items() if v is not None}), claims(**more), key)

    def signed(self, header: str, content: object, key: Key | None = None) -> str:
        """Sign exactly this header and content."""
        key = key or self.key
        signed = f"{part(header)}.{part(content)}"
        algorithm = JWSRegistry.algorithms[{"RSA": "RS256", "EC": "ES256", "OKP": "Ed25519"}[key.key_type]]
        return (
            f"{signed}.{base64.urlsafe_b64encode(algorithm.sign(signed.encode(), key)).rstrip(b'=').decode()}"
        )

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
