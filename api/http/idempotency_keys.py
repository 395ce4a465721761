"""Creates that are safe to repeat: an Idempotency-Key and its answer are stored in the create's transaction.

Under the spacing rule this matters more than elsewhere: without a key, a caller who repeats a create whose
answer was lost gets a conflict with their own order. Key and order commit together, so it makes no difference
where the first try failed. Either both are stored, and the repeat gets the first answer; or neither is, and
the repeat counts as the first. A refused create leaves its key unused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec

import msgspec

from api.http.errors import IdempotencyKeyReusedError
from api.http.stored_answers import AnswerRow
from shared.database.locks import IDEMPOTENCY_KEY_LOCK
from shared.database.statements import execute, fetch_optional
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")

KEY_RETENTION = "24 hours"
"""How long a key and its answer are kept, as PostgreSQL writes an interval."""

_EXPIRE = f"""
DELETE FROM idempotency_key
WHERE caller = $1 AND operation = $2 AND key = $3 AND created_at < now() - interval '{KEY_RETENTION}'
"""
_CLAIM = """
INSERT INTO idempotency_key (caller, operation, key, fingerprint, answer)
VALUES ($1, $2, $3, $4, '') ON CONFLICT DO NOTHING
"""
_READ = """
SELECT fingerprint, answer, format FROM idempotency_key WHERE caller = $1 AND operation = $2 AND key = $3
"""
# The lock is written, so the commit of a repeat waits for standbys, as the first try's, which was maybe
# cancelled: a failover may still lose what can be read already.
_READ_AND_LOCK = f"{_READ} FOR UPDATE"
_STORE_ANSWER = """
UPDATE idempotency_key SET answer = $4, format = $5 WHERE caller = $1 AND operation = $2 AND key = $3
"""


def lock_of_key(first: int) -> str:
    """Write the expression that locks a key, for the parameters of ``IdempotencyKey.values``."""
    name = " || ' ' || ".join(f"${number}::text" for number in range(first, first + 3))
    return f"pg_advisory_xact_lock({IDEMPOTENCY_KEY_LOCK}, hashtext({name}))"


def store_with_key(first: int, answer: str) -> str:
    """Write the part of a creating statement that stores its answer with a key, as it is.

    Only where answers are not encrypted: PostgreSQL has no key to do it with, and must not.

    If the key was used before, the statement fails with ``UniqueViolationError``. Before it writes anything
    it has to lock the key, so that it never waits for the key while others wait for what it has written.

    Args:
        first: the number of the first parameter of ``IdempotencyKey.values``.
        answer: a query for the text and the format of the answer.

    """
    values = ", ".join(f"${number}" for number in range(first, first + 4))
    return f"""
    INSERT INTO idempotency_key (caller, operation, key, fingerprint, answer, format)
    SELECT {values}, created.* FROM ({answer}) AS created
    """


_LOCK = f"SELECT {lock_of_key(1)}"


class _Used(msgspec.Struct, frozen=True):
    fingerprint: bytes
    answer: str
    format: int


@dataclass(frozen=True)
class Answer:
    """The body of the answer to a create."""

    text: str
    format: int = 1
    """The format in which the text was rendered: part of its entity tag, if it has one."""
    replayed: bool = False
    """Whether it is the stored answer to an earlier request with the same key."""
    written: tuple[int, int] | None = None
    """An order and its version that a batch wrote; None: any of them, or not known any more."""


@dataclass(frozen=True)
class IdempotencyKey:
    """A caller's key for one request to an operation, with a fingerprint of that request."""

    caller: str
    operation: str
    key: str
    fingerprint: bytes

    @property
    def values(self) -> tuple[str, str, str, bytes]:
        """Caller, operation, key and fingerprint."""
        return (self.caller, self.operation, self.key, self.fingerprint)

    async def is_used(self) -> bool:
        """Return whether there is an answer to it, possibly an expired one."""
        return await fetch_optional(_Used, _READ, self.caller, self.operation, self.key) is not None

    async def claim(self) -> Answer | None:
        """Claim the key for this transaction; return the answer that it already has, or None if it was free.

        A repeat that arrives during the first try waits here until that commits or rolls back.

        Raises:
            IdempotencyKeyReusedError: the key was used for other content.
            UnreadableSecretError: the answer is encrypted, and this process can't decrypt it.

        """
        name = (self.caller, self.operation, self.key)
        await execute(_LOCK, *name)
        await execute(_EXPIRE, *name)
        while not await execute(_CLAIM, *name, self.fingerprint):
            used = await fetch_optional(_Used, _READ_AND_LOCK, *name)
            # None: the key was deleted after it blocked the claim. Claim it again.
            if used is not None:
                if used.fingerprint != self.fingerprint:
                    raise IdempotencyKeyReusedError(self.key)
                text = self._row(used.format).decrypt(used.answer, settings().secret_keys)
                return Answer(text, used.format, replayed=True)
        return None

    async def store(self, answer: Answer) -> None:
        """Store the answer, in the transaction that claimed the key."""
        stored = self._row(answer.format).encrypt(answer.text, settings().secret_keys)
        await execute(_STORE_ANSWER, self.caller, self.operation, self.key, stored, answer.format)

    def _row(self, answer_format: int) -> AnswerRow:
        return AnswerRow(*self.values, answer_format)


def idempotent(
    create: Callable[P, Coroutine[object, object, Answer]],
) -> Callable[Concatenate[IdempotencyKey | None, P], Coroutine[object, object, Answer]]:
    """Make a create repeatable: the key that the caller sent, or None, becomes its first argument.

    The create must run in a transaction; key and answer are stored in it.
    """

    @wraps(create)
    async def create_once(key: IdempotencyKey | None, /, *args: P.args, **kwargs: P.kwargs) -> Answer:
        earlier = await key.claim() if key else None
        if earlier is not None:
            return earlier
        answer = await create(*args, **kwargs)
        if key:
            await key.store(answer)
        return answer

    return create_once
