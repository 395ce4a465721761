"""Creates that are safe to repeat: an ``Idempotency-Key`` and its answer live in the create's transaction.

Under the 3-hour rule this matters more than elsewhere: without it, who repeats a create whose answer was
lost is told that their own order is in the way. Key and order commit together, so it makes no difference
where the first try died: either both are there, and the repeat is answered as the first was, or neither is,
and the repeat is the first. A refused create leaves its key unused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from api.access import caller_of
from api.key_retention import KEPT
from api.orders.errors import IdempotencyKeyReusedError
from api.problems import Fault, malformed
from shared.database.rows import row, rows

if TYPE_CHECKING:
    from pydantic import BaseModel

    from api.requests import AnyRequest

_KEY = re.compile(r"[!-~]{1,255}", re.ASCII)


@dataclass(frozen=True)
class IdempotencyKey:
    """A caller's name for one attempt at one operation, with a fingerprint of what was asked for."""

    caller: str
    operation: str
    key: str
    fingerprint: bytes

    async def claim(self) -> str | None:
        """Claim the key for this transaction; give the answer it already has, or None if it was free.

        A repeat that overtakes the first try waits here until that has committed, or was rolled back.

        Raises:
            IdempotencyKeyReusedError: the key was used for other content.

        """
        where = (self.caller, self.operation, self.key)
        await rows(
            f"""
            DELETE FROM idempotency_key
            WHERE caller = $1 AND operation = $2 AND key = $3 AND created_at < now() - interval '{KEPT}'
            """,
            *where,
        )
        while await self._take(where) is None:
            used = await row(
                """
                SELECT fingerprint, answer FROM idempotency_key
                WHERE caller = $1 AND operation = $2 AND key = $3
                """,
                *where,
            )
            # None: it was there a moment ago, and has just been forgotten. Now it is free.
            if used is not None:
                if used["fingerprint"] != self.fingerprint:
                    raise IdempotencyKeyReusedError(self.key)
                answer: str = used["answer"]
                return answer
        return None

    async def _take(self, where: tuple[str, str, str]) -> object:
        return await row(
            """
            INSERT INTO idempotency_key (caller, operation, key, fingerprint, answer)
            VALUES ($1, $2, $3, $4, '') ON CONFLICT DO NOTHING RETURNING key
            """,
            *where,
            self.fingerprint,
        )

    async def keep(self, answer: str) -> None:
        """Keep the answer, in the transaction that claimed the key."""
        await rows(
            "UPDATE idempotency_key SET answer = $4 WHERE caller = $1 AND operation = $2 AND key = $3",
            self.caller,
            self.operation,
            self.key,
            answer,
        )


def read_idempotency_key(request: AnyRequest, operation: str, body: BaseModel) -> IdempotencyKey | None:
    """Read the header, if it is there. Spelling and order of the JSON make no difference to its content.

    Raises:
        ProblemError: 400, the header is there twice, or is not 1 to 255 visible ASCII characters.

    """
    given = request.headers.getall("idempotency-key", [])
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise malformed(Fault("must be 1 to 255 visible ASCII characters, once", header="Idempotency-Key"))
    content = json.dumps(body.model_dump(), default=str).encode()
    return IdempotencyKey(caller_of(request).name, operation, given[0], sha256(content).digest())
