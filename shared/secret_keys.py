"""Encrypts what the database keeps and the service has to read again, under the keys of ``OMS_SECRET_KEY``.

A value is ``enc1:KEY:DATA``: the key's id (8 hexadecimal digits) and, in base64, 12 random bytes and what
AES-256-GCM-SIV (RFC 8452) makes of the text. GCM-SIV, because a random number that comes twice, which must be
expected after billions of values, then only shows whether two texts of the same row are equal.

The row that a value belongs to is authenticated with it, so a value that was moved to another row can't be
read there. A value without ``enc1:`` is plain text, from before the setting was made.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from shared.key_files import read_key_file

PREFIX = "enc1:"
PLAIN = "plain"
"""As the first entry of the setting: read with the keys that follow, and encrypt nothing."""

KEY_BYTES = 32
_NONCE_BYTES = 12
_LEAST_DIFFERENT_BYTES = 16
"""Of 32 random bytes. Fewer come up once in 10^16 keys; patterns that repeat have fewer."""

_FORM = "must be keys of 32 random bytes each, in base64 or hexadecimal, separated by commas"


class UnreadableSecretError(Exception):
    """A value can't be decrypted; the text is the reason, without the value."""


@dataclass(frozen=True)
class SecretKeys:
    """The keys: the first one encrypts, unless ``encrypts`` is false, and all of them decrypt."""

    keys: tuple[bytes, ...] = field(default=(), repr=False)
    encrypts: bool = False

    @property
    def ids(self) -> tuple[str, ...]:
        """The keys' ids, in their order."""
        return tuple(map(id_of, self.keys))

    @property
    def newest(self) -> str | None:
        """The id of the key that encrypts; None: what is stored now is stored as it is."""
        return id_of(self.keys[0]) if self.encrypts else None

    def encrypt(self, text: str, row: Sequence[str]) -> str:
        """Return what is stored in place of the text.

        Args:
            text: what to encrypt.
            row: the table, the row's key and what else must stay as it is for the value to be read again.

        """
        if not self.encrypts:
            return text
        from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV  # only where it is used

        nonce = secrets.token_bytes(_NONCE_BYTES)
        data = nonce + AESGCMSIV(self.keys[0]).encrypt(nonce, text.encode(), _encoded(row))
        return f"{PREFIX}{id_of(self.keys[0])}:{base64.b64encode(data).decode()}"

    def decrypt(self, value: str, row: Sequence[str]) -> str:
        """Return the text of a stored value, which may be plain text.

        Raises:
            UnreadableSecretError: its key is not among these, or it was changed or moved since.

        """
        key_id = key_id_of(value)
        if key_id is None:
            return value
        key = next((key for key in self.keys if id_of(key) == key_id), None)
        if key is None:
            raise UnreadableSecretError(f"it is encrypted under the key {key_id}, which OMS_SECRET_KEY lacks")
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

        try:
            data = base64.b64decode(value.removeprefix(f"{PREFIX}{key_id}:"), validate=True)
            plain = AESGCMSIV(key).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _encoded(row))
        except (binascii.Error, ValueError, InvalidTag):
            raise UnreadableSecretError("it was changed in the database, or moved from another row") from None
        return plain.decode()


NO_KEYS = SecretKeys()


def id_of(key: bytes) -> str:
    """Return the id of a key, which reveals nothing about it."""
    return sha256(b"oms secret key " + key).hexdigest()[:8]


def key_id_of(value: str) -> str | None:
    """Return the id of the key that a stored value is encrypted under; None: it is plain text."""
    return value.split(":", 2)[1] if value.startswith(PREFIX) else None


def _encoded(row: Sequence[str]) -> bytes:
    return json.dumps(list(row)).encode()  # unlike joined texts, no two rows have the same


def make_secret_key() -> str:
    """Make a key, as the setting takes it."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def read_secret_keys(text: str) -> SecretKeys:
    """Read keys, separated by commas or line breaks; an empty text has none.

    Raises:
        ValueError: an entry is malformed, appears twice or can't be random.

    """
    entries = [entry.strip() for entry in text.replace("\n", ",").split(",") if entry.strip()]
    encrypts = bool(entries) and entries[0] != PLAIN
    keys = tuple(map(_read_key, entries if encrypts else entries[1:]))
    if entries and not keys:
        raise ValueError(f"{PLAIN} must be followed by the keys that decrypt")
    if len(set(map(id_of, keys))) < len(keys):
        raise ValueError("has the same key twice")
    return SecretKeys(keys, encrypts)


def _read_key(entry: str) -> bytes:
    try:
        if len(entry) == 2 * KEY_BYTES:  # it would also be base64, but of 48 bytes
            key = bytes.fromhex(entry)
        else:
            key = base64.b64decode(entry.replace("-", "+").replace("_", "/"), validate=True)
    except ValueError:
        raise ValueError(_FORM) from None
    if len(key) != KEY_BYTES:
        raise ValueError(_FORM)
    if len(set(key)) < _LEAST_DIFFERENT_BYTES:
        raise ValueError("has a key that can't be random; make one: oms secret-key make")
    return key


def read_secret_keys_file(file: str) -> SecretKeys:
    """Read a file with keys, one per line.

    Raises:
        ValueError: it can't be read, has none, or ``read_secret_keys`` refuses them.

    """
    keys = read_secret_keys(read_key_file(file))
    if not keys.keys:
        raise ValueError("has no key")
    return keys
