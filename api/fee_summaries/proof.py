"""The last proof of the fee summaries: whether they agreed with the orders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from api.http.times import utc_text
from shared.database.statements import fetch_optional

if TYPE_CHECKING:
    from datetime import datetime

_LAST_PROOF = """
SELECT position, finished_at, orders, differing, seconds FROM fee_summary_proof
WHERE id = 1 AND finished_at IS NOT NULL
"""


class _Proof(msgspec.Struct, frozen=True):
    position: int
    finished_at: datetime
    orders: int
    differing: int
    seconds: float


async def read_proof() -> dict[str, Any]:
    """Return the members of the last proof; all are None before the first."""
    proof = await fetch_optional(_Proof, _LAST_PROOF)
    if proof is None:
        return dict.fromkeys(("position", "time", "orders", "differing", "seconds"))
    return {
        "position": proof.position,
        "time": utc_text(proof.finished_at),
        "orders": proof.orders,
        "differing": proof.differing,
        "seconds": round(proof.seconds, 3),
    }
