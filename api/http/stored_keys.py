"""The API keys that are in the database, as this process knows them: at most a second old.

All keys are read by one statement, at most once a second and only while requests need them. So what is made,
rotated or revoked anywhere counts here within a second, however many wrong keys are tried. If PostgreSQL
can't be asked, a request whose key it would have to know fails: nothing is believed for longer than that.
"""

from __future__ import annotations

import asyncio
import hmac
from contextvars import Context
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

import asyncpg
import msgspec
import structlog

from shared.database.engine import DatabaseUnavailableError
from shared.database.statements import execute, fetch_all

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from api.http.callers import UsedKey

log = structlog.get_logger(__name__)

GREATEST_AGE_SECONDS = 1.0
LAST_USE_SECONDS = 60.0
"""How often the last use of a key is written, at most."""

# One row for each valid secret; a row of nulls if all keys were revoked; none if there never was a key.
# Seconds and not times, so that only the database's clock is used.
_READ = """
SELECT
    key.id, key.name, key.scopes, secret.hash,
    extract(epoch FROM least(key.expires_at, secret.valid_until) - now())::float8 AS seconds_left
FROM (SELECT FROM api_key LIMIT 1) AS made
LEFT JOIN (
    api_key AS key CROSS JOIN LATERAL (
        SELECT key.secret_hash, NULL::timestamptz
        UNION ALL
        SELECT old.secret_hash, old.valid_until FROM api_key_old_secret AS old
        WHERE old.key_id = key.id AND old.valid_until > now()
    ) AS secret (hash, valid_until)
) ON key.revoked_at IS NULL
"""

_WRITE_LAST_USE = f"""
UPDATE api_key SET last_used_at = now()
WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < now() - interval '{LAST_USE_SECONDS} seconds')
"""


class _Row(msgspec.Struct, frozen=True):
    id: str | None
    name: str | None
    scopes: list[str] | None
    hash: bytes | None
    seconds_left: float | None


@dataclass(frozen=True)
class StoredKey:
    """A key, with one of its secrets."""

    id: str
    name: str
    scopes: frozenset[str]
    hash: bytes
    ends_at: float | None
    """When it, or its secret, expires, by this process's monotonic clock."""

    @property
    def has_expired(self) -> bool:
        """Whether the key or the secret is no longer valid."""
        return self.ends_at is not None and self.ends_at <= monotonic()


@dataclass(frozen=True)
class KnownKeys:
    """What was in the database at one moment."""

    asked_at: float
    exist: bool
    """Whether a key was ever made here; then keys are asked for, even if all of them are revoked."""
    by_id: Mapping[str, Sequence[StoredKey]] = field(default_factory=dict)

    def find(self, key: UsedKey) -> StoredKey | None:
        """Return the stored key that a caller's key is, which may have expired; compared in constant time."""
        return next(
            (stored for stored in self.by_id.get(key.id, ()) if hmac.compare_digest(stored.hash, key.hash)),
            None,
        )


class StoredKeys:
    """The keys in the database, read again when they are too old."""

    def __init__(self) -> None:
        self._known: KnownKeys | None = None
        self._not_before = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._use_written: dict[str, float] = {}
        self._writing: set[asyncio.Task[None]] = set()

    @property
    def are_known_to_exist(self) -> bool:
        """Whether there were keys when they were last read, which may be long ago."""
        return self._known is not None and self._known.exist

    async def read(self) -> KnownKeys:
        """Return the keys, as they were at most a second before this call.

        Raises:
            DatabaseUnavailableError: they can't be known now.

        """
        oldest = max(monotonic() - GREATEST_AGE_SECONDS, self._not_before)
        while (known := self._known) is None or known.asked_at < oldest:
            if self._reading is None:
                # In a context and a task of its own: it serves other requests when this one is cancelled.
                self._reading = asyncio.get_running_loop().create_task(self._read(), context=Context())
            await asyncio.shield(self._reading)
        return known

    def forget(self) -> None:
        """Read again before the next answer: this process has just changed a key."""
        self._not_before = monotonic()

    async def _read(self) -> None:
        asked_at = monotonic()
        try:
            rows = await fetch_all(_Row, _READ)
        except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError) as error:
            raise DatabaseUnavailableError(f"API keys can't be read: {error}") from error
        finally:
            self._reading = None
        by_id: dict[str, list[StoredKey]] = {}
        for row in rows:
            if row.id is None or row.name is None or row.hash is None:
                continue
            ends_at = None if row.seconds_left is None else asked_at + row.seconds_left
            key = StoredKey(row.id, row.name, frozenset(row.scopes or ()), row.hash, ends_at)
            by_id.setdefault(row.id, []).append(key)
        self._known = KnownKeys(asked_at, bool(rows), by_id)

    def note_use(self, key_id: str) -> None:
        """Have the time of a key's use written soon, if that was not done within the last minute."""
        now = monotonic()
        if now < self._use_written.get(key_id, -LAST_USE_SECONDS) + LAST_USE_SECONDS:
            return
        if len(self._use_written) > 10_000:  # of keys that are long gone
            self._use_written.clear()
        self._use_written[key_id] = now
        writing = asyncio.get_running_loop().create_task(_write_last_use(key_id), context=Context())
        self._writing.add(writing)  # the event loop keeps no reference to it
        writing.add_done_callback(self._writing.discard)


async def _write_last_use(key_id: str) -> None:
    try:
        await execute(_WRITE_LAST_USE, key_id)
    except DatabaseUnavailableError as error:
        log.warning("last_use_not_written", key=key_id, reason=str(error))


STORED_KEYS = StoredKeys()
