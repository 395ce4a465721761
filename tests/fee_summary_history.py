"""Random histories of orders, with the state after each change."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from api.orders.bodies import OrderPatch
from api.orders.current_orders import StatusChange
from api.orders.updates import delete_order, update_order
from tests.builders import NOON
from tests.fee_summary_model import CountedOrder
from tests.steps import ANYONE, place

if TYPE_CHECKING:
    from collections.abc import Iterable

SERVICES = (123, 456, 789)
CALENDARS = ("default", "a", "B")

State = dict[int, CountedOrder]


class History:
    """Writes orders through the API's commands, one after the other, and keeps every state."""

    def __init__(self, seed: int, span: timedelta = timedelta(days=120)) -> None:
        self.rng = random.Random(seed)
        self._span = span
        self._times: set[datetime] = set()
        self._cancelled: State = {}
        self.states: list[State] = [{}]
        """The orders after 0, 1, 2, … changes; the index is the position."""

    @property
    def now(self) -> State:
        """The orders that are booked."""
        return self.states[-1]

    def _free_time(self) -> datetime:
        # All datetimes are three hours apart, whatever the calendar, so nothing is refused.
        while True:
            steps = self.rng.randrange(int(self._span / timedelta(hours=3)))
            at = NOON + timedelta(hours=3 * steps)
            if at not in self._times:
                self._times.add(at)
                return at

    def _fee(self) -> Decimal:
        return Decimal(self.rng.choice((self.rng.randrange(2_000), self.rng.randrange(10**12)))) / 100

    def _services(self) -> tuple[int, ...]:
        return tuple(sorted(self.rng.sample(SERVICES, self.rng.randint(1, 3))))

    async def write_once(self) -> None:
        """Create, change, move, cancel, reinstate or delete an order."""
        what = self.rng.random()
        if what < 0.45 or not self.now:
            await self._create()
        elif what < 0.75:
            await self._change(self.rng.choice(list(self.now)))
        elif what < 0.85 and self._cancelled:
            order = self._cancelled.pop(self.rng.choice(list(self._cancelled)))
            if self.rng.random() < 0.7:
                await update_order(order.id, StatusChange("booked"), ANYONE)
                self._keep(order)
            else:
                await delete_order(order.id, ANYONE)
                self.states.append(self.now)
        else:
            await self._end(self.rng.choice(list(self.now)))

    async def _end(self, order_id: int) -> None:
        if self.rng.random() < 0.6:
            self._cancelled[order_id] = self.now[order_id]
            await update_order(order_id, StatusChange("cancelled"), ANYONE)
        else:
            await delete_order(order_id, ANYONE)
        self.states.append({i: order for i, order in self.now.items() if i != order_id})

    async def write(self, changes: int) -> None:
        """Make changes."""
        for _ in range(changes):
            await self.write_once()

    async def _create(self) -> None:
        at, fee, services = self._free_time(), self._fee(), self._services()
        calendar = self.rng.choice(CALENDARS)
        order_id = await place(at, fee=str(fee), services=services, calendar=calendar)
        self._keep(CountedOrder(order_id, at, fee, services, calendar))

    async def _change(self, order_id: int) -> None:
        order = self.now[order_id]
        at, fee, services = order.at, order.fee, order.services
        fields: dict[str, Any] = {}
        if self.rng.random() < 0.5:
            at = self._free_time()
            fields["datetime"] = at.isoformat()
        if self.rng.random() < 0.5:
            services = self._services()
            fields["services"] = [{"id": service} for service in services]
        # A write that changes nothing is no change, so at least one member gets another value.
        if (at, services) == (order.at, order.services) or self.rng.random() < 0.5:
            while fee == order.fee:
                fee = self._fee()
            fields["totalfee"] = fee
        await update_order(order_id, OrderPatch.model_validate(fields, strict=True), ANYONE)
        self._keep(CountedOrder(order_id, at, fee, services, order.calendar))

    def _keep(self, order: CountedOrder) -> None:
        self.states.append({**self.now, order.id: order})

    def at(self, position: int) -> Iterable[CountedOrder]:
        """Return the orders as they were at a position."""
        return self.states[position].values()
