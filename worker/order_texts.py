"""Prove that orders' stored texts are what their rows say: ``oms verify texts``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from shared.database.statements import fetch_all, fetch_value
from shared.progress import Progress, ReportProgress, ignore_progress

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 5_000
"""Orders that one statement compares."""

# The row and its text are read together, so a write in between makes no difference.
_COMPARE = """
SELECT
    max(id) AS last_id, count(*) AS orders,
    coalesce(
        array_agg(id ORDER BY id) FILTER (WHERE rendered::text IS DISTINCT FROM order_json(o)::text), '{}'
    ) AS differing
FROM (SELECT orders AS o, id, rendered FROM orders WHERE id > $1 ORDER BY id LIMIT $2) AS chunk
"""


class _Compared(msgspec.Struct, frozen=True):
    last_id: int | None
    orders: int
    differing: list[int]


@dataclass(frozen=True)
class TextProof:
    """The result of a comparison of all orders with their texts."""

    orders: int
    differing: int


async def compare_texts(
    report: Callable[[int], None], progress: ReportProgress = ignore_progress
) -> TextProof:
    """Render every order again and compare; report the id of each whose text differs."""
    expected = await fetch_value(int, "SELECT count(*) FROM orders")
    orders = differing = last_id = 0
    while True:
        (compared,) = await fetch_all(_Compared, _COMPARE, last_id, CHUNK)
        if compared.last_id is None:
            return TextProof(orders, differing)
        last_id = compared.last_id
        orders += compared.orders
        differing += len(compared.differing)
        for order_id in compared.differing:
            report(order_id)
        progress(Progress(orders, max(orders, expected), "compared with their texts"))
