"""The orders behind fee summaries: which they were at one position, and what each contributes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from api.fee_summaries.statements import Statement
from api.http.json_text import encode_text
from api.http.times import utc_text

if TYPE_CHECKING:
    from collections.abc import Sequence

_COUNTED_ORDERS = Statement("counted_orders.sql")


class CountedOrder(msgspec.Struct, frozen=True):
    """An order as it was at the position, and the share of its fee that each of its services has."""

    id: int
    datetime: datetime
    json: str
    day: date
    """The day that it is counted in."""
    shares: list[Decimal]
    """In the order of the services in ``json``."""

    def place(self) -> list[object]:
        """Return its place in the list, as a cursor keeps it."""
        return [utc_text(self.datetime), self.id]


@dataclass(frozen=True)
class CountedOrdersQuery:
    """Which orders to list: of which days, with which services and on which calendars (None: any)."""

    first: date | None = None
    end: date | None = None
    services: Sequence[int] | None = None
    calendars: Sequence[str] | None = None

    def statement(
        self, position: int | None, after: tuple[datetime, int] | None, limit: int
    ) -> tuple[str, list[Any]]:
        """Return the statement for the orders after a place, and its arguments."""
        after_datetime, after_id = after or (None, None)
        return _COUNTED_ORDERS.sql, _COUNTED_ORDERS.arguments(
            position=position,
            first=self.first,
            end=self.end,
            services=self.services,
            calendars=self.calendars,
            after_datetime=after_datetime,
            after_id=after_id,
            limit=limit,
        )

    def item(self, counted: CountedOrder) -> str:
        """Return an order as JSON, with the share of each service and how much of its fee is counted."""
        order = json.loads(counted.json, parse_float=Decimal, parse_int=Decimal)
        chosen = set(self.services or ())
        services = [
            {**service, "share": share}
            for service, share in zip(order["services"], counted.shares, strict=True)
        ]
        fee = sum(
            (service["share"] for service in services if not chosen or int(service["id"]) in chosen),
            Decimal(0),
        )
        return encode_text(
            {
                "id": order["id"],
                "version": int(order["version"]),
                "datetime": order["datetime"],
                "day": counted.day.isoformat(),
                "calendar": order["calendar"],
                "totalfee": order["totalfee"],
                "services": services,
                "counted": fee,
            }
        )
