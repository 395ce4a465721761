"""Reading the API keys in use. Of a secret nothing can be read."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from api.http.json_text import encode_text
from api.http.pages import Page
from api.http.scopes import in_order
from api.http.times import utc_text
from api.keys.errors import KeyNotFoundError
from shared.database.statements import fetch_all, fetch_one, fetch_optional

if TYPE_CHECKING:
    from api.http.callers import UsedKey

KEY_COLUMNS = """
id, name, scopes, created_at, expires_at, last_used_at, (
    SELECT max(valid_until) FROM api_key_old_secret WHERE key_id = api_key.id AND valid_until > now()
) AS old_valid_until
"""
"""The columns that make a ``StoredKey``, for SQL."""

_FIND = f"SELECT {KEY_COLUMNS} FROM api_key WHERE id = $1 AND revoked_at IS NULL"
_FIND_BY_NAME = f"SELECT {KEY_COLUMNS} FROM api_key WHERE name = $1 AND revoked_at IS NULL"

_LIST = f"""
SELECT {KEY_COLUMNS} FROM api_key
WHERE name COLLATE "C" > $1 AND revoked_at IS NULL ORDER BY name COLLATE "C" LIMIT $2
"""

# A secret that was replaced ends when its overlap does; least() ignores nulls.
_FIND_EXPIRY = """
SELECT least(key.expires_at, old.valid_until) AS at FROM api_key AS key
LEFT JOIN api_key_old_secret AS old ON old.key_id = key.id AND old.secret_hash = $2
WHERE key.id = $1
"""


class StoredKey(msgspec.Struct, frozen=True):
    """A key in use, which may have expired."""

    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    old_valid_until: datetime | None
    """Until when a secret that was replaced is still accepted."""

    def members(self) -> dict[str, Any]:
        """Return the key's members in JSON, without a secret."""
        return {
            "id": self.id,
            "name": self.name,
            "scopes": in_order(self.scopes),
            "created_at": utc_text(self.created_at),
            "expires_at": _optional_text(self.expires_at),
            "last_used_at": _optional_text(self.last_used_at),
            "old_valid_until": _optional_text(self.old_valid_until),
        }

    def json(self) -> str:
        """Return the key as JSON, without a secret."""
        return encode_text(self.members())


class _Expiry(msgspec.Struct, frozen=True):
    at: datetime | None


def _optional_text(at: datetime | None) -> str | None:
    return None if at is None else utc_text(at)


async def find_key(key_id: str) -> StoredKey:
    """Find a key in use.

    Raises:
        KeyNotFoundError: no key in use has this id.

    """
    key = await fetch_optional(StoredKey, _FIND, key_id)
    if key is None:
        raise KeyNotFoundError(key_id)
    return key


async def find_key_by_name(name: str) -> StoredKey:
    """Find a key in use by its name.

    Raises:
        KeyNotFoundError: no key in use has this name.

    """
    key = await fetch_optional(StoredKey, _FIND_BY_NAME, name)
    if key is None:
        raise KeyNotFoundError(name)
    return key


async def list_keys(after: str, limit: int) -> Page:
    """List keys in use by name, beginning after the name ``after``."""
    keys = await fetch_all(StoredKey, _LIST, after, limit + 1)
    return Page.of(keys, limit, StoredKey.json, lambda key: [key.name])


async def find_expiry(key: UsedKey) -> datetime | None:
    """Return when a caller's key, or the secret of it that was used, expires; None if neither does."""
    return (await fetch_one(_Expiry, _FIND_EXPIRY, key.id, key.hash)).at
