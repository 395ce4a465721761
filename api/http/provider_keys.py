"""The public keys of the identity provider (JWK set, RFC 7517) at ``OMS_JWKS``, as this process knows them.

They are read when the first token needs them, and again in the background when they are older than
``REFRESH_SECONDS``. A token that names an unknown key has them read at once, but not within ``PAUSE_SECONDS``
of the last time, however many such tokens there are. While they can't be read, those that were read last
count for ``LONGEST_OUTAGE_SECONDS``: few access tokens live longer, and meanwhile the provider, being away,
makes no new ones. After that nothing is known any more.
"""

from __future__ import annotations

import asyncio
import ssl
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import httpcore
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from api.http.errors import ProviderKeysUnavailableError
from api.http.json_text import UnreadableJsonError, read_json
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

log = structlog.get_logger(__name__)

REFRESH_SECONDS = 300.0
PAUSE_SECONDS = 5.0
PAUSE_WITHOUT_KEYS_SECONDS = 1.0
LONGEST_OUTAGE_SECONDS = 3_600.0
FETCH_SECONDS = 5.0
"""Total time limit of one fetch: name look-up, connection, TLS and answer."""
WAIT_SECONDS = 2.0
"""How long a request waits for the keys; the fetch then goes on for the next one."""
LARGEST_BYTES = 524_288
MOST_KEYS = 100
LEAST_RSA_BITS = 2_048
"""RFC 7518, sections 3.3 and 3.5."""

PublicKey = RSAKey | ECKey | OKPKey
_KINDS: dict[str, type[RSAKey | ECKey | OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}


class _UnusableError(Exception):
    """What is at ``OMS_JWKS`` can't be used; the message says why."""


@dataclass(frozen=True)
class KnownKeys:
    """The keys as they were at one moment, by the process's monotonic clock."""

    read_at: float
    keys: Sequence[PublicKey]

    def find(self, key_id: str | None, key_type: str) -> PublicKey | None:
        """Return the key with an id (``kid``) and type (``kty``), without an id the only one of the type."""
        fitting = [
            key for key in self.keys if key.key_type == key_type and (key_id is None or key.kid == key_id)
        ]
        return fitting[0] if len(fitting) == 1 or (fitting and key_id is not None) else None


class ProviderKeys:
    """The keys at ``OMS_JWKS``, read again when they are too old or lack one."""

    def __init__(self) -> None:
        self._known: KnownKeys | None = None
        self._reading: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._failure = "no answer yet"

    async def find(self, key_id: str | None, key_type: str) -> PublicKey | None:
        """Return the key for a token; None if the provider has no such key.

        Raises:
            ProviderKeysUnavailableError: there are no keys, or too old ones, and none can be read now.

        """
        known = self._usable()
        if known is None:
            await self._read_again()
            known = self._usable()
            if known is None:
                raise ProviderKeysUnavailableError(self._failure)
        elif known.read_at < monotonic() - REFRESH_SECONDS:
            self._start_reading()
        key = known.find(key_id, key_type)
        if key is None and key_id is not None:
            await self._read_again()
            key = (self._usable() or known).find(key_id, key_type)
        return key

    def _usable(self) -> KnownKeys | None:
        known = self._known
        return known if known and known.read_at > monotonic() - LONGEST_OUTAGE_SECONDS else None

    async def _read_again(self) -> None:
        if reading := self._start_reading():
            await asyncio.wait({reading}, timeout=WAIT_SECONDS)

    def _start_reading(self) -> asyncio.Task[None] | None:
        if self._reading is None and monotonic() >= self._not_before:
            # In a context and a task of its own: it serves other requests when this one is cancelled.
            self._reading = asyncio.get_running_loop().create_task(self._read(), context=Context())
        return self._reading

    async def _read(self) -> None:
        began, place = monotonic(), settings().jwks
        try:
            text = await (_fetch(place) if "://" in place else asyncio.to_thread(_read_file, place))
            keys = _read_keys(text)
        except (
            _UnusableError,
            httpcore.TimeoutException,
            httpcore.NetworkError,
            httpcore.ProtocolError,
        ) as error:
            self._fail(error)
        except (OSError, UnicodeError) as error:  # no such file, TLS that fails, a name that has no address
            self._fail(error)
        except Exception as error:
            # An answer that the HTTP library did not expect. The keys can't be read, as above.
            log.exception("provider_keys_failed_unexpectedly", exc_info=error)
            self._failure = f"unexpected {type(error).__name__}"
        else:
            if self._known is None or [key.kid for key in self._known.keys] != [key.kid for key in keys]:
                log.info("provider_keys_read", place=place, keys=[key.kid for key in keys])
            self._known = KnownKeys(began, keys)
        finally:
            pause = PAUSE_WITHOUT_KEYS_SECONDS if self._known is None else PAUSE_SECONDS
            self._not_before = monotonic() + pause
            self._reading = None

    def _fail(self, error: Exception) -> None:
        self._failure = f"{type(error).__name__}: {error}".removesuffix(": ").removeprefix("_UnusableError: ")
        age = self._known and round(monotonic() - self._known.read_at)
        log.warning("provider_keys_not_read", place=settings().jwks, reason=self._failure, age_of_last=age)


def _read_file(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(LARGEST_BYTES + 1)


async def _fetch(url: str) -> bytes:
    """Get a key set: within a time and up to a size, without proxies, redirects or compression."""
    # The system's authorities are read from files, which takes long enough to delay other requests.
    tls = await asyncio.to_thread(ssl.create_default_context) if url.startswith("https:") else None
    headers = {
        "Accept": "application/jwk-set+json, application/json",
        "Accept-Encoding": "identity",
        "User-Agent": "order-management/1",
    }
    text = b""
    async with (
        asyncio.timeout(FETCH_SECONDS),
        httpcore.AsyncConnectionPool(ssl_context=tls, max_connections=1) as connections,
        connections.stream("GET", url, headers=list(headers.items())) as response,
    ):
        if response.status != 200:
            raise _UnusableError(f"answered {response.status}; redirects are not followed")
        async for chunk in response.aiter_stream():
            text += chunk
            if len(text) > LARGEST_BYTES:
                break
    return text


def _read_keys(text: bytes) -> list[PublicKey]:
    """Read the keys that signatures can be verified with; others are ignored (RFC 7517, section 5)."""
    if len(text) > LARGEST_BYTES:
        raise _UnusableError(f"has more than {LARGEST_BYTES:,} bytes")
    try:
        content = read_json(text)
    except UnreadableJsonError as error:
        raise _UnusableError(str(error)) from None
    keys = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(keys, list) or len(keys) > MOST_KEYS:
        raise _UnusableError(f"is not a JWK set: an object whose keys are an array of at most {MOST_KEYS}")
    return [key for key in map(_read_key, keys) if key]


def _read_key(content: Any) -> PublicKey | None:
    """Return a public key, None if it is not one for signatures: symmetric keys never are."""
    if not isinstance(content, dict) or content.get("use", "sig") != "sig":
        return None
    kind = _KINDS.get(str(content.get("kty")))
    size = content.get("n", "")
    # A modulus in base64url has 4 characters for 3 bytes. The library warns of short ones, and takes them.
    if kind is None or (kind is RSAKey and len(str(size)) * 6 < LEAST_RSA_BITS):
        return None
    try:
        return kind.import_key(content)
    except (JoseError, UnsupportedAlgorithm, ValueError, TypeError, KeyError) as error:
        log.warning("provider_key_ignored", key=str(content.get("kid"))[:100], reason=str(error))
        return None


PROVIDER_KEYS = ProviderKeys()
