"""Single steps of the API, the relay and the worker, run in this process on a real database."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from api.http.attribution import Attribution
from api.orders.bodies import NewOrder
from api.orders.commands import create_order
from shared.change_log import (
    FEE_SUMMARIES,
    WEBHOOK_DELIVERIES,
    assign_positions,
    changes_after,
    cursor_of,
    last_position,
)
from shared.changes import Change
from tests.builders import NOON, order_body
from worker.fee_summaries import consumer as fee_summaries
from worker.webhooks import fan_out

if TYPE_CHECKING:
    from datetime import datetime


ANYONE = Attribution("anyone")
"""Who changes orders where no API keys are required."""

CONSUMERS = {
    FEE_SUMMARIES: fee_summaries.apply_changes,
    WEBHOOK_DELIVERIES: fan_out.apply_changes,
}


async def place(at: datetime | str = NOON, fee: str = "100", **more: Any) -> int:
    """Place an order with the command of ``POST /orders``, and return its id."""
    body = order_body(at=at, **more) | {"totalfee": Decimal(fee)}
    answer = await create_order(NewOrder.model_validate(body, strict=True), ANYONE)
    return int(json.loads(answer.text)["id"])


async def assign_all(at_once: int = 5_000) -> int:
    """Assign a position to every committed change; return the last one."""
    while await assign_positions(at_once):
        pass
    return await last_position()


async def whole_log(at_once: int = 5_000) -> list[Change]:
    """Read the change log from its beginning, some at a time, as a reader does."""
    changes: list[Change] = []
    while more := await changes_after(changes[-1].position if changes else 0, at_once):
        changes += more
    return changes


async def applied() -> int:
    """Return the position that the fee summaries are exact for."""
    return (await cursor_of(FEE_SUMMARIES)).position


async def apply_every_change(at_once: int = 500) -> int:
    """Do the work of relay and worker without a queue between them; return the position reached."""
    last = await assign_all()
    for consumer, apply in CONSUMERS.items():
        while (position := (await cursor_of(consumer)).position) < last:
            await apply(min(last, position + at_once))
    return await applied()
