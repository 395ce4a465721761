"""The text of an API key: ``oms_<id>_<secret>``, 64 ASCII characters. Pure but for the random numbers.

The id names the key's row. The secret is 43 random base62 characters, which is 256 bits, and 6 of checksum:
the CRC-32 of all before it, in base62, as in GitHub's tokens. So scanners of repositories and logs know a
key by its prefix and its checksum without asking anyone, and a mistyped key is refused without a query.
"""

from __future__ import annotations

import re
import secrets
import string
from dataclasses import dataclass
from hashlib import sha256
from zlib import crc32

PREFIX = "oms_"

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_LENGTH = 10
_RANDOM_LENGTH = 43
_CHECKSUM_LENGTH = 6

_KEY = re.compile(
    rf"{PREFIX}(?P<id>[0-9A-Za-z]{{{_ID_LENGTH}}})_[0-9A-Za-z]{{{_RANDOM_LENGTH + _CHECKSUM_LENGTH}}}",
    re.ASCII,
)
_ID = re.compile(r"[0-9A-Za-z]{1,32}", re.ASCII)


@dataclass(frozen=True)
class KeyText:
    """A key as its caller sends it, and what is stored of it."""

    id: str
    text: str

    @property
    def hash(self) -> bytes:
        """The SHA-256 of the text.

        A slow or salted hash would protect a secret that can be guessed. This one has 256 random bits.
        """
        return sha256(self.text.encode("ascii")).digest()


def make_key_text(key_id: str | None = None) -> KeyText:
    """Make a key with a new secret, for a new id or for a key that has one."""
    key_id = key_id or _random(_ID_LENGTH)
    text = f"{PREFIX}{key_id}_{_random(_RANDOM_LENGTH)}"
    return KeyText(key_id, text + _checksum(text))


def read_key_text(text: str) -> KeyText | None:
    """Read a key; None if it does not have the form of one, or its checksum is wrong."""
    match = _KEY.fullmatch(text)
    if match is None or text[-_CHECKSUM_LENGTH:] != _checksum(text[:-_CHECKSUM_LENGTH]):
        return None
    return KeyText(match["id"], text)


def read_key_id(value: str) -> str:
    """Read the id of a key, as it is in a path.

    Raises:
        ValueError: no key can have this id.

    """
    if not _ID.fullmatch(value):
        raise ValueError("must be a key's id: up to 32 letters and digits")
    return value


def _random(length: int) -> str:
    return "".join(secrets.choice(_DIGITS) for _ in range(length))


def _checksum(text: str) -> str:
    number, digits = crc32(text.encode("ascii")), ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
