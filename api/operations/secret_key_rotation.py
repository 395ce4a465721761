"""Encrypting what is stored under the first key of ``OMS_SECRET_KEY``, and counting it by key.

Rewriting works in batches while the service runs, changes no row that others have changed meanwhile, and can
be interrupted: the next run goes on with what is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from api.http.stored_answers import AnswerRow, key_id_of_answer
from shared.database.statements import execute, fetch_all
from shared.database.transaction import retry_on_lock_timeout
from shared.secret_keys import SecretKeys, UnreadableSecretError, key_id_of
from shared.settings import settings
from shared.webhooks import secret_row

BATCH_ROWS = 50
"""Answers to batches of orders have up to a megabyte each."""

_SECRETS = """
SELECT id, webhook_id, secret FROM webhook_secret WHERE id > $1 ORDER BY id LIMIT $2
"""
_ANSWERS = """
SELECT caller, operation, key, fingerprint, answer, format FROM idempotency_key
WHERE (caller, operation, key) > ($1, $2, $3) AND answer <> ''
ORDER BY caller, operation, key LIMIT $4
"""

# Rows are locked in order, as others lock them, and only those that still are what was read.
_UPDATE_SECRETS = """
WITH wanted AS (
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[]) AS wanted (id, before, after)
), locked AS (
    SELECT id, after FROM webhook_secret JOIN wanted USING (id) WHERE secret = before
    ORDER BY id FOR UPDATE OF webhook_secret
)
UPDATE webhook_secret AS s SET secret = locked.after FROM locked WHERE s.id = locked.id
"""
_UPDATE_ANSWERS = """
WITH wanted AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
        AS wanted (caller, operation, key, before, after)
), locked AS (
    SELECT caller, operation, key, after FROM idempotency_key JOIN wanted USING (caller, operation, key)
    WHERE answer = before ORDER BY caller, operation, key FOR UPDATE OF idempotency_key
)
UPDATE idempotency_key AS k SET answer = locked.after FROM locked
WHERE (k.caller, k.operation, k.key) = (locked.caller, locked.operation, locked.key)
"""


class _Secret(msgspec.Struct, frozen=True):
    id: int
    webhook_id: int
    secret: str

    @property
    def place(self) -> tuple[object, ...]:
        return (self.id,)

    @property
    def stored(self) -> str:
        return self.secret

    @property
    def key_id(self) -> str | None:
        return key_id_of(self.secret)

    def rewritten(self, keys: SecretKeys) -> str:
        row = secret_row(self.webhook_id, self.id)
        return keys.encrypt(keys.decrypt(self.secret, row), row)


class _Answer(msgspec.Struct, frozen=True):
    caller: str
    operation: str
    key: str
    fingerprint: bytes
    answer: str
    format: int

    @property
    def place(self) -> tuple[object, ...]:
        return (self.caller, self.operation, self.key)

    @property
    def stored(self) -> str:
        return self.answer

    @property
    def key_id(self) -> str | None:
        return key_id_of_answer(self.answer)

    def rewritten(self, keys: SecretKeys) -> str:
        row = AnswerRow(self.caller, self.operation, self.key, self.fingerprint, self.format)
        return row.encrypt(row.decrypt(self.answer, keys), keys)


Row = _Secret | _Answer


class Kind(msgspec.Struct, frozen=True):
    """A table with something to encrypt, read in the order of its primary key."""

    name: str
    row_type: type[Row]
    select: str
    update: str
    start: tuple[object, ...]
    """Before every place."""


KINDS = (
    Kind("webhook secrets", _Secret, _SECRETS, _UPDATE_SECRETS, (0,)),
    Kind("answers kept for an Idempotency-Key", _Answer, _ANSWERS, _UPDATE_ANSWERS, ("", "", "")),
)


class Rewritten(msgspec.Struct):
    """What happened to the rows of one kind."""

    kind: str
    written: int = 0
    done_before: int = 0
    """Rows that were already stored as they are wanted."""
    changed_meanwhile: int = 0
    """Rows that others changed between reading and writing; the next run finds them."""
    unreadable: list[str] = msgspec.field(default_factory=list)
    """Why rows were left: the key under which one is encrypted is missing, or it was moved or changed."""

    @property
    def is_complete(self) -> bool:
        """Whether no row was left."""
        return not self.changed_meanwhile and not self.unreadable


async def rewrite_secrets() -> list[Rewritten]:
    """Encrypt everything under the first key of ``OMS_SECRET_KEY``; in plain text if that is ``plain``.

    Raises:
        DatabaseUnavailableError: some rows may have been rewritten.

    """
    done = []
    for kind in KINDS:
        rewritten = Rewritten(kind.name)
        place: tuple[object, ...] | None = kind.start
        while place is not None:
            place = await rewrite_batch(kind, place, rewritten)
        done.append(rewritten)
    return done


async def rewrite_batch(
    kind: Kind, after: tuple[object, ...], rewritten: Rewritten
) -> tuple[object, ...] | None:
    """Rewrite a batch of rows after a place; return the last row's place, or None if there were none."""
    keys = settings().secret_keys
    rows: Sequence[Row] = await fetch_all(kind.row_type, kind.select, *after, BATCH_ROWS)
    changes: list[tuple[object, ...]] = []
    for row in rows:
        if row.key_id == keys.newest:
            rewritten.done_before += 1
            continue
        try:
            changes.append((*row.place, row.stored, row.rewritten(keys)))
        except UnreadableSecretError as error:
            rewritten.unreadable.append(f"row {row.place}: {error}")
    if changes:
        written = await _update(kind.update, list(zip(*changes, strict=True)))
        rewritten.written += written
        rewritten.changed_meanwhile += len(changes) - written
    return rows[-1].place if rows else None


@retry_on_lock_timeout
async def _update(statement: str, columns: Sequence[Sequence[object]]) -> int:
    return await execute(statement, *columns)


async def count_by_key() -> dict[str, Counter[str | None]]:
    """Return for each kind how many rows are encrypted under which key, by its id; None is plain text."""
    counts = {}
    for kind in KINDS:
        by_key: Counter[str | None] = Counter()
        place = kind.start
        while rows := await fetch_all(kind.row_type, kind.select, *place, BATCH_ROWS):
            by_key.update(row.key_id for row in rows)
            place = rows[-1].place
        counts[kind.name] = by_key
    return counts
