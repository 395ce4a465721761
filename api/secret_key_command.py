"""Manage the keys of ``OMS_SECRET_KEY``: ``python -m api.secret_key_command make|status|rewrite``.

``make`` prints a new key. ``status`` counts what is encrypted under which key. ``rewrite`` encrypts
everything under the first key of ``OMS_SECRET_KEY``, also what is in plain text; where the setting begins
with ``plain``, it stores everything in plain text. It runs in batches while the service runs, changes no row
that others have changed meanwhile, and can be interrupted: the next run goes on with what is left.

Exit status: 0 done; 1 some rows can't be read or are left, or the database is unavailable; 2 the command line
can't be read, or there is no key.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from api.http.stored_answers import AnswerRow, key_id_of_answer
from shared.command_output import print_line
from shared.database.engine import DB, DatabaseUnavailableError
from shared.database.statements import execute, fetch_all
from shared.database.transaction import retry_on_lock_timeout
from shared.secret_keys import SecretKeys, UnreadableSecretError, key_id_of, make_secret_key
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


class _Kind(msgspec.Struct, frozen=True):
    """A table with something to encrypt, read in the order of its primary key."""

    name: str
    row_type: type[Row]
    select: str
    update: str
    start: tuple[object, ...]
    """Before every place."""


KINDS = (
    _Kind("webhook secrets", _Secret, _SECRETS, _UPDATE_SECRETS, (0,)),
    _Kind("answers kept for an Idempotency-Key", _Answer, _ANSWERS, _UPDATE_ANSWERS, ("", "", "")),
)


async def rewrite_once(
    kind: _Kind, after: tuple[object, ...], counts: Counter[str]
) -> tuple[object, ...] | None:
    """Rewrite a batch of rows after a place; return the last row's place, or None if there were none."""
    keys = settings().secret_keys
    rows: Sequence[Row] = await fetch_all(kind.row_type, kind.select, *after, BATCH_ROWS)
    changes: list[tuple[object, ...]] = []
    for row in rows:
        if row.key_id == keys.newest:
            counts["done before"] += 1
            continue
        try:
            changes.append((*row.place, row.stored, row.rewritten(keys)))
        except UnreadableSecretError as error:
            counts["unreadable"] += 1
            print_line(f"{kind.name}, row {row.place}: {error}", level="error")
    if changes:
        written = await _update(kind.update, list(zip(*changes, strict=True)))
        counts["written"] += written
        counts["changed meanwhile"] += len(changes) - written
    return rows[-1].place if rows else None


@retry_on_lock_timeout
async def _update(statement: str, columns: Sequence[Sequence[object]]) -> int:
    return await execute(statement, *columns)


async def _rewrite() -> int:
    newest = settings().secret_keys.newest
    left = 0
    for kind in KINDS:
        counts: Counter[str] = Counter()
        place: tuple[object, ...] | None = kind.start
        while place is not None:
            place = await rewrite_once(kind, place, counts)
        print_line(
            f"{kind.name}: {counts['written']:,} rewritten "
            f"{f'under the key {newest}' if newest else 'in plain text'}, "
            f"{counts['done before']:,} were already"
            + "".join(
                f", {counts[what]:,} {what}" for what in ("changed meanwhile", "unreadable") if counts[what]
            )
        )
        left += counts["changed meanwhile"] + counts["unreadable"]
    return 1 if left else 0


async def _status() -> int:
    keys = settings().secret_keys
    unreadable = 0
    for kind in KINDS:
        by_key: Counter[str | None] = Counter()
        place = kind.start
        while rows := await fetch_all(kind.row_type, kind.select, *place, BATCH_ROWS):
            by_key.update(row.key_id for row in rows)
            place = rows[-1].place
        texts = [
            f"{count:,} in plain text"
            if key_id is None
            else f"{count:,} under the key {key_id}{_remark(key_id, keys)}"
            for key_id, count in sorted(by_key.items(), key=lambda item: item[0] or "")
        ]
        unreadable += sum(count for key_id, count in by_key.items() if key_id and key_id not in keys.ids)
        print_line(f"{kind.name}: {', '.join(texts) or 'none'}")
    return 1 if unreadable else 0


def _remark(key_id: str, keys: SecretKeys) -> str:
    if key_id not in keys.ids:
        return ", which OMS_SECRET_KEY lacks"
    return " (which encrypts)" if key_id == keys.newest else ""


async def _run(command: Callable[[], Awaitable[int]]) -> int:
    await DB.start(size=1)
    try:
        return await command()
    finally:
        await DB.stop()


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m api.secret_key_command", description="Manage the keys of OMS_SECRET_KEY."
    )
    parsers = parser.add_subparsers(dest="command", required=True)
    parsers.add_parser("make", help="print a new key")
    parsers.add_parser("status", help="count what is encrypted under which key")
    parsers.add_parser("rewrite", help="encrypt everything under the first key, while the service runs")
    options = parser.parse_args(arguments)
    if options.command == "make":
        print_line(make_secret_key())
        return 0
    if options.command == "rewrite" and not settings().secret_keys.keys:
        print_line("OMS_SECRET_KEY has no key", level="error")
        return 2
    try:
        return asyncio.run(_run(_rewrite if options.command == "rewrite" else _status))
    except DatabaseUnavailableError as error:
        print_line(f"not finished, try again: {error}", level="error")
        return 1


if __name__ == "__main__":
    sys.exit(main())
