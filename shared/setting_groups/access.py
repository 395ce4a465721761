"""Who may call the API and from where, and what is encrypted."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from pydantic import BaseModel, Field

from shared.api_access import ApiKey, read_api_keys_file
from shared.secret_keys import SecretKeys, read_secret_keys_file
from shared.server_urls import check_file
from shared.setting_values import ApiKeys, Hosts, KeySetPlace, Origins, SecretKeySetting


class AccessSettings(BaseModel):
    """Who may call the API and from where, and what is encrypted."""

    api_keys: ApiKeys = Field("", validate_default=True)
    """Who may call the API: ``name:role:sha256``, separated by commas.

    Empty means that everyone may, unless the database has keys or ``OMS_ACCESS`` is ``keys``. ``role`` is
    ``read`` or ``write``; ``sha256`` is the SHA-256 of the key in hexadecimal. Names are unique.
    """

    api_keys_file: str = ""
    """A file with more keys, in the same form, also one per line; empty means none.

    A file without any key is refused, unless ``OMS_API_KEYS`` has some or ``OMS_ACCESS`` is ``open``.
    """

    access: Literal["protected", "open", "keys"] = "protected"
    """``keys``: keys are always asked for, even while there is none: for keys that the database has.

    ``open``: without keys, the API may listen on any address, and who can reach it may do everything. Where
    there are keys, it changes nothing.
    """

    secret_key: SecretKeySetting = Field("", validate_default=True)
    """Encrypts webhook secrets, and answers kept for an ``Idempotency-Key``, in the database; empty: nothing.

    Keys of 32 random bytes in base64 or hexadecimal, separated by commas: the first one encrypts, all of them
    decrypt. API and worker need the same ones; see below before you set it. Sessions of the console are
    encrypted with it too; without it, a restart of the API ends them.
    """

    secret_key_file: str = ""
    """A file with these keys instead, which may be one per line; empty means none."""

    allowed_hosts: Hosts = Field("", validate_default=True)
    """The names under which callers may address the API (``Host``), separated by commas: ``*.example.com``.

    Empty means any name where ``OMS_API_KEYS`` has keys, ``OMS_ACCESS`` is ``keys`` or ``OMS_JWKS`` is set.
    Otherwise it means loopback names and ``OMS_HOST``, so that no web page can reach the API through a name
    of its own. Health checks are answered under any name.
    """

    jwks: KeySetPlace = ""
    """The public keys of an identity provider (JWK set), whose access tokens are accepted beside API keys.

    An ``https:`` or ``http:`` address, or the path of a file; empty means none. Where it is set, keys or
    tokens are asked for.
    """

    jwt_issuer: str = ""
    """The ``iss`` that access tokens must have; required with ``OMS_JWKS``."""

    jwt_audience: str = ""
    """What the ``aud`` of access tokens must name: this service. Required with ``OMS_JWKS``."""

    cors_origins: Origins = Field("", validate_default=True)
    """The origins whose web pages may use the API, separated by commas: ``https://app.example.com``.

    Empty means none. ``*`` means all, and is refused unless the settings ask for keys.
    """

    @cached_property
    def all_api_keys(self) -> tuple[ApiKey, ...]:
        """The keys of ``OMS_API_KEYS`` and of ``OMS_API_KEYS_FILE``."""
        if not self.api_keys_file:
            return self.api_keys
        try:
            keys = read_api_keys_file(self.api_keys_file, self.api_keys)
        except ValueError as error:
            raise ValueError(f"OMS_API_KEYS_FILE: {error}") from None
        if not keys and self.access == "protected":
            raise ValueError("OMS_API_KEYS_FILE: has no key; OMS_ACCESS=open would let everyone in")
        return keys

    @cached_property
    def secret_keys(self) -> SecretKeys:
        """The keys of ``OMS_SECRET_KEY`` or ``OMS_SECRET_KEY_FILE``."""
        if not self.secret_key_file:
            return self.secret_key
        if self.secret_key.keys:
            raise ValueError("OMS_SECRET_KEY_FILE: OMS_SECRET_KEY is set too; set one of them")
        try:
            return read_secret_keys_file(self.secret_key_file)
        except ValueError as error:
            raise ValueError(f"OMS_SECRET_KEY_FILE: {error}") from None

    @cached_property
    def asks_for_keys(self) -> bool:
        """Whether keys are asked for whatever is in the database. They also are once there is a key in it."""
        return bool(self.all_api_keys or self.jwks) or self.access == "keys"

    def check_access(self) -> None:
        """Check settings that have a meaning only together.

        Raises:
            ValueError: one is missing, or can't be used with the others; the message names it.

        """
        required = {"OMS_JWT_ISSUER": self.jwt_issuer, "OMS_JWT_AUDIENCE": self.jwt_audience}
        missing = [name for name, value in required.items() if not value.strip()]
        if self.jwks and missing:
            raise ValueError(
                f"OMS_JWKS: needs {' and '.join(missing)} too; otherwise tokens that the identity provider "
                "made for others would be accepted"
            )
        if not self.jwks and len(missing) < len(required):
            raise ValueError("OMS_JWT_ISSUER and OMS_JWT_AUDIENCE: have no meaning without OMS_JWKS")
        if self.jwks and "://" not in self.jwks:
            check_file(self.jwks, "OMS_JWKS")
        if self.cors_origins == ("*",) and not self.asks_for_keys:
            raise ValueError(
                "OMS_CORS_ORIGINS: without keys, * would let every web page do everything; name the origins, "
                "or set OMS_API_KEYS, OMS_ACCESS=keys or OMS_JWKS"
            )
