"""The bodies of requests about orders. Every member is checked, and every fault of a body is named."""

from __future__ import annotations

from collections import Counter
from datetime import datetime as Datetime  # noqa: N812 (a member is called datetime)
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    model_validator,
)

from api.http.bodies import Body
from api.http.fields import read_callers_id, read_id
from api.http.times import read_datetime
from api.orders.fields import DEFAULT_CALENDAR, read_calendar, read_fee

LARGEST_BATCH = 100

OrderId = PlainValidator(read_callers_id)
Fee = PlainValidator(read_fee)
OrderDatetime = PlainValidator(read_datetime)
CalendarName = PlainValidator(read_calendar)


class ServiceReference(Body):
    """A service of an order: ``{"id": "123"}``; the id may also be a number."""

    id: Annotated[int, PlainValidator(read_id)]


def _require_distinct_services(services: list[ServiceReference]) -> list[ServiceReference]:
    twice = [str(i) for i, times in Counter(service.id for service in services).items() if times > 1]
    if twice:
        raise ValueError(
            f"must name each service once; these appear more than once: {', '.join(sorted(twice))}"
        )
    return services


Services = Annotated[
    list[ServiceReference], Field(min_length=1, max_length=50), AfterValidator(_require_distinct_services)
]


class NewOrder(Body):
    """The body of a create. Without a datetime, the order is for now; without an id, the server sets it."""

    id: Annotated[int | None, OrderId] = None
    datetime: Annotated[Datetime | None, OrderDatetime] = None
    totalfee: Annotated[Decimal, Fee]
    services: Services
    calendar: Annotated[str, CalendarName] = DEFAULT_CALENDAR


def _require_distinct_ids(orders: list[NewOrder]) -> list[NewOrder]:
    times = Counter(order.id for order in orders if order.id is not None)
    twice = [str(order_id) for order_id, n in times.items() if n > 1]
    if twice:
        raise ValueError(f"must not use an id for two orders: {', '.join(twice)}")
    return orders


class NewOrders(Body):
    """The body of a batch."""

    orders: Annotated[
        list[NewOrder], Field(min_length=1, max_length=LARGEST_BATCH), AfterValidator(_require_distinct_ids)
    ]


class OrderReplacement(NewOrder):
    """The body of a PUT: the whole order, with a datetime. Without a calendar, it is on ``default``."""

    id: Annotated[int | None, PlainValidator(read_id)] = None
    datetime: Annotated[Datetime, OrderDatetime]


def _require_an_array(value: Any) -> Any:
    if value is None:
        raise ValueError("must be a JSON array; leave it out to keep the services")
    return value


def _read_calendar_or_null(value: Any) -> str:
    return DEFAULT_CALENDAR if value is None else read_calendar(value)


class OrderPatch(Body):
    """The body of a PATCH (JSON Merge Patch, RFC 7396): absent members stay; null moves it to ``default``."""

    datetime: Annotated[Datetime | None, OrderDatetime] = None
    totalfee: Annotated[Decimal | None, Fee] = None
    services: Annotated[Services | None, BeforeValidator(_require_an_array)] = None
    calendar: Annotated[str | None, PlainValidator(_read_calendar_or_null)] = None

    @model_validator(mode="after")
    def _require_a_member(self) -> Self:
        if not self.model_fields_set:
            *names, last = type(self).model_fields
            raise ValueError(f"must name at least one field: {', '.join(names)} or {last}")
        return self
