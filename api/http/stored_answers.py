"""How the answer to an ``Idempotency-Key`` is stored: as it is, or encrypted where ``OMS_SECRET_KEY`` is set.

An encrypted one is ``{"encrypted":"enc1:…","id":"5"}``: still JSON, with the answer's own ``id`` if it has
one. By that the deletion of a webhook finds the answers that show its secrets, and needs no key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from shared.secret_keys import PREFIX, key_id_of

if TYPE_CHECKING:
    from shared.secret_keys import SecretKeys

ENCRYPTED = f'{{"encrypted":"{PREFIX}'
"""How every encrypted answer begins, and no other: each answer of ours begins with another member."""


class _Encrypted(msgspec.Struct, omit_defaults=True):
    encrypted: str
    id: str | None = None


class _Identified(msgspec.Struct):
    id: str | None = None


@dataclass(frozen=True)
class AnswerRow:
    """What an answer is bound to: its key, the request that it answers, and the format of its text."""

    caller: str
    operation: str
    key: str
    fingerprint: bytes
    format: int

    @property
    def _authenticated(self) -> tuple[str, ...]:
        fingerprint = self.fingerprint.hex()
        return ("idempotency_key", self.caller, self.operation, self.key, fingerprint, str(self.format))

    def encrypt(self, text: str, keys: SecretKeys) -> str:
        """Return what is stored of an answer."""
        if not keys.encrypts:
            return text
        stored = _Encrypted(
            keys.encrypt(text, self._authenticated), msgspec.json.decode(text, type=_Identified).id
        )
        return msgspec.json.encode(stored).decode()

    def decrypt(self, stored: str, keys: SecretKeys) -> str:
        """Return the text of a stored answer.

        Raises:
            UnreadableSecretError: its key is not among these, or the row was changed since.

        """
        return keys.decrypt(_value(stored), self._authenticated)


def key_id_of_answer(stored: str) -> str | None:
    """Return the id of the key that a stored answer is encrypted under; None: it is plain text."""
    return key_id_of(_value(stored))


def _value(stored: str) -> str:
    if not stored.startswith(ENCRYPTED):
        return stored
    return msgspec.json.decode(stored, type=_Encrypted).encrypted
