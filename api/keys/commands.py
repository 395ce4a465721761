"""Commands about API keys: each is one transaction, committed here.

Locks are always taken in this order: Idempotency-Keys, the number of keys, the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.callers import ANYONE, Caller
from api.http.idempotency_keys import Answer, IdempotencyKey
from api.http.json_text import encode_text
from api.http.key_texts import KeyText, make_key_text
from api.http.scopes import in_order
from api.http.stored_keys import STORED_KEYS
from api.keys.errors import (
    KeyNameTakenError,
    KeyNotFoundError,
    NoKeysAskedForError,
    ScopesNotHeldError,
    TooManyKeysError,
)
from api.keys.queries import KEY_COLUMNS, StoredKey
from shared.database.locks import API_KEYS_LOCK
from shared.database.statements import execute, fetch_one, fetch_optional, fetch_value
from shared.database.transaction import retry_on_lock_timeout, transaction
from shared.settings import settings

if TYPE_CHECKING:
    from api.keys.bodies import KeyRotation, NewKey

CREATION = "createKey"
"""The operation of an Idempotency-Key."""

MOST_KEYS = 1_000
"""Every process reads all of them once a second."""

MOST_OLD_SECRETS = 8
"""Those of a key that are accepted at the same time; the ones that end first give way."""

_LOCK_NUMBER = f"SELECT pg_advisory_xact_lock({API_KEYS_LOCK})"
_COUNT = "SELECT count(*) FROM api_key WHERE revoked_at IS NULL"

_EXISTS = "SELECT EXISTS (SELECT FROM api_key)"

_INSERT = f"""
INSERT INTO api_key (id, name, scopes, secret_hash, expires_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING RETURNING {KEY_COLUMNS}
"""

_LOCK = f"SELECT {KEY_COLUMNS} FROM api_key WHERE id = $1 AND revoked_at IS NULL FOR NO KEY UPDATE"

# What was replaced earlier is not accepted longer than what is replaced now.
_END_EARLIER = """
UPDATE api_key_old_secret SET valid_until = least(valid_until, now() + $2) WHERE key_id = $1
"""
_KEEP_CURRENT = """
INSERT INTO api_key_old_secret (key_id, secret_hash, valid_until)
SELECT id, secret_hash, now() + $2 FROM api_key WHERE id = $1
"""
_DELETE_OLD = """
DELETE FROM api_key_old_secret WHERE key_id = $1 AND (valid_until <= now() OR secret_hash NOT IN (
    SELECT secret_hash FROM api_key_old_secret WHERE key_id = $1 ORDER BY valid_until DESC LIMIT $2
))
"""
_SET_SECRET = "UPDATE api_key SET secret_hash = $2 WHERE id = $1"  # noqa: S105 (a statement)
_SHOW = f"SELECT {KEY_COLUMNS} FROM api_key WHERE id = $1"

_REVOKE = "UPDATE api_key SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL"
_DELETE_ALL_OLD = "DELETE FROM api_key_old_secret WHERE key_id = $1"


def rotation_operation(key_id: str) -> str:
    """Return the operation of an Idempotency-Key for rotations, different for each key."""
    return f"rotateKey/{key_id}"


def _check_held(caller: Caller | None, scopes: list[str]) -> None:
    if caller is not None and (lacking := frozenset(scopes) - caller.scopes):
        raise ScopesNotHeldError(caller.name, in_order(lacking))


def _with_text(key: StoredKey, text: str | None) -> Answer:
    return Answer(encode_text({**key.members(), "key": text}))


@retry_on_lock_timeout
async def create_key(new: NewKey, caller: Caller | None, idempotency_key: IdempotencyKey | None) -> Answer:
    """Store a key; the answer shows it. Returns the answer that an earlier try got, without the key's text.

    Args:
        new: what to store.
        caller: whose scopes the key may have; None is the operator, who may give any.
        idempotency_key: of the request. What is kept for it has no secret: only its hash is stored, ever.

    Raises:
        IdempotencyKeyReusedError: the Idempotency-Key was used for other content.
        NoKeysAskedForError: the first key is the operator's.
        ScopesNotHeldError: the caller lacks scopes that it would give.
        KeyNameTakenError: a key in use has the name, here or in the settings.
        TooManyKeysError: there are ``MOST_KEYS`` already.

    """
    if caller == ANYONE:
        raise NoKeysAskedForError
    _check_held(caller, new.scopes)
    text = make_key_text()
    async with transaction():
        if idempotency_key and (earlier := await idempotency_key.claim()):
            return earlier
        key = await _insert(new, text)
        if idempotency_key:
            await idempotency_key.store(_with_text(key, None))
    STORED_KEYS.forget()
    return _with_text(key, text.text)


@retry_on_lock_timeout
async def create_first_key(new: NewKey) -> str | None:
    """Store a key, and return its text, if the database never had one; None if it did.

    Of several calls at the same time, one stores its key.
    """
    text = make_key_text()
    async with transaction():
        await execute(_LOCK_NUMBER)
        if await fetch_value(bool, _EXISTS):
            return None
        await _insert(new, text)
    STORED_KEYS.forget()
    return text.text


async def _insert(new: NewKey, text: KeyText) -> StoredKey:
    if any(api_key.name == new.name for api_key in settings().all_api_keys):
        raise KeyNameTakenError(new.name)
    await execute(_LOCK_NUMBER)
    if await fetch_value(int, _COUNT) >= MOST_KEYS:
        raise TooManyKeysError(MOST_KEYS)
    key = await fetch_optional(StoredKey, _INSERT, text.id, new.name, new.scopes, text.hash, new.expires_at)
    if key is None:
        raise KeyNameTakenError(new.name)
    return key


@retry_on_lock_timeout
async def rotate_key(
    key_id: str, rotation: KeyRotation, caller: Caller | None, idempotency_key: IdempotencyKey | None
) -> Answer:
    """Give a key a new secret; the old one is accepted beside it for a while. See ``create_key``.

    Raises:
        IdempotencyKeyReusedError: the Idempotency-Key was used for other content.
        KeyNotFoundError: no key in use has this id.
        ScopesNotHeldError: the caller lacks scopes of the key, and would have them with its secret.

    """
    text = make_key_text(key_id)
    async with transaction():
        if idempotency_key and (earlier := await idempotency_key.claim()):
            return earlier
        key = await fetch_optional(StoredKey, _LOCK, key_id)
        if key is None:
            raise KeyNotFoundError(key_id)
        _check_held(caller, key.scopes)
        await execute(_END_EARLIER, key_id, rotation.overlap)
        # First makes room: the secret that is replaced now, which all callers use, never gives way.
        await execute(_DELETE_OLD, key_id, MOST_OLD_SECRETS - 1)
        await execute(_KEEP_CURRENT, key_id, rotation.overlap)
        await execute(_SET_SECRET, key_id, text.hash)
        rotated = await fetch_one(StoredKey, _SHOW, key_id)
        if idempotency_key:
            await idempotency_key.store(_with_text(rotated, None))
    STORED_KEYS.forget()
    return _with_text(rotated, text.text)


@retry_on_lock_timeout
async def revoke_key(key_id: str) -> None:
    """Revoke a key and all of its secrets. Its row is kept, its name is free again.

    Raises:
        KeyNotFoundError: no key in use has this id.

    """
    async with transaction():
        if not await execute(_REVOKE, key_id):
            raise KeyNotFoundError(key_id)
        await execute(_DELETE_ALL_OLD, key_id)
    STORED_KEYS.forget()
