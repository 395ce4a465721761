"""Sends the worker the tasks that are due: attempts at deliveries, and the daily proof.

The schedule is only in PostgreSQL; a message tells the worker to read it. So one waiting message is enough,
and a lost one is sent again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.relay.publisher import most_waiting
from shared.database.locks import ATTEMPTS_LOCK
from shared.database.statements import execute, fetch_value
from shared.task_queue import ATTEMPT_DUE_DELIVERIES, ATTEMPTS_QUEUE, PROVE_FEE_SUMMARIES
from shared.webhooks import IS_DUE

if TYPE_CHECKING:
    from api.relay.sender import Sender

_ATTEMPTS_ARE_DUE = f"""
SELECT EXISTS (
    SELECT FROM webhook AS w WHERE {IS_DUE}
) AND NOT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid::bigint = $1 AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
"""

# A proof that the worker did not finish within an hour is requested again: the worker was stopped, or Redis
# lost the message.
_CLAIM_PROOF = """
UPDATE fee_summary_proof SET asked_at = now()
WHERE asked_at < now() - interval '1 hour'
    AND (finished_at IS NULL OR finished_at < now() - interval '1 day')
"""


async def attempts_are_due() -> bool:
    """Return whether a delivery is due and no task is attempting deliveries."""
    return await fetch_value(bool, _ATTEMPTS_ARE_DUE, ATTEMPTS_LOCK)


class Scheduler:
    """Sends the worker the tasks that are due."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    async def request_attempts_once(self) -> bool:
        """Request attempts if deliveries to webhooks are due; return whether the request was sent."""
        return (
            not self._sender.failed_this_round
            and await attempts_are_due()
            and await self._sender.send(ATTEMPT_DUE_DELIVERIES, (), 1, ATTEMPTS_QUEUE)
        )

    async def request_proof_once(self) -> bool:
        """Request a proof of the fee summaries if the last one is a day old; return whether it was sent."""
        return await execute(_CLAIM_PROOF) > 0 and await self._sender.send(
            PROVE_FEE_SUMMARIES, (), most_waiting()
        )
