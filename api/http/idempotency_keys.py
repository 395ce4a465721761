"""Creates that are safe to repeat: an Idempotency-Key and its answer are stored in the create's transaction.

Under the 3-hour rule this matters more than elsewhere: without a key, a caller who repeats a create whose
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
from shared.database.statements import execute, fetch_optional

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
_READ = "SELECT fingerprint, answer FROM idempotency_key WHERE caller = $1 AND operation = $2 AND key = $3"
_STORE_ANSWER = "UPDATE idempotency_key SET answer = $4 WHERE caller = $1 AND operation = $2 AND key = $3"


class _Used(msgspec.Struct, frozen=True):
    fingerprint: bytes
    answer: str


@dataclass(frozen=True)
class Answer:
    """The body of the answer to a create."""

    text: str
    replayed: bool = False
    """Whether it is the stored answer to an earlier request with the same key."""


@dataclass(frozen=True)
class IdempotencyKey:
    """A caller's key for one request to an operation, with a fingerprint of that request."""

    caller: str
    operation: str
    key: str
    fingerprint: bytes

    async def claim(self) -> str | None:
        """Claim the key for this transaction; return the answer that it already has, or None if it was free.

        A repeat that arrives during the first try waits here until that commits or rolls back.

        Raises:
            IdempotencyKeyReusedError: the key was used for other content.

        """
        name = (self.caller, self.operation, self.key)
        await execute(_EXPIRE, *name)
        while not await execute(_CLAIM, *name, self.fingerprint):
            used = await fetch_optional(_Used, _READ, *name)
            # None: the key was deleted after it blocked the claim. Claim it again.
            if used is not None:
                if used.fingerprint != self.fingerprint:
                    raise IdempotencyKeyReusedError(self.key)
                return used.answer
        return None

    async def store_answer(self, answer: str) -> None:
        """Store the answer, in the transaction that claimed the key."""
        await execute(_STORE_ANSWER, self.caller, self.operation, self.key, answer)


def idempotent(
    create: Callable[P, Coroutine[object, object, str]],
) -> Callable[Concatenate[IdempotencyKey | None, P], Coroutine[object, object, Answer]]:
    """Make a create repeatable: the key that the caller sent, or None, becomes its first argument.

    The create returns the text of its answer, and must run in a transaction; key and answer are stored in it.
    """

    @wraps(create)
    async def create_once(key: IdempotencyKey | None, /, *args: P.args, **kwargs: P.kwargs) -> Answer:
        earlier = await key.claim() if key else None
        if earlier is not None:
            return Answer(earlier, replayed=True)
        text = await create(*args, **kwargs)
        if key:
            await key.store_answer(text)
        return Answer(text)

    return create_once
