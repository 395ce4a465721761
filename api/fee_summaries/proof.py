"""The last proof of the fee summaries: that they were, or were not, what the orders say."""

from __future__ import annotations

from typing import Any

from api.http.times import utc_text
from shared.database.rows import row


async def read_proof() -> dict[str, Any]:
    """Give the last proof, as it is shown; every member is null before the first."""
    found = await row(
        "SELECT position, finished_at, orders, differing, seconds FROM fee_summary_proof WHERE id = 1"
    )
    if found is None or found["finished_at"] is None:
        return dict.fromkeys(("position", "time", "orders", "differing", "seconds"))
    return {
        "position": found["position"],
        "time": utc_text(found["finished_at"]),
        "orders": found["orders"],
        "differing": found["differing"],
        "seconds": round(found["seconds"], 3),
    }
