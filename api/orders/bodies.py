"""What callers may send about orders. Every field is checked, and every fault of a body is named."""

from __future__ import annotations

from collections import Counter
from datetime import datetime as Datetime  # noqa: N812 (a field has its name)
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    model_validator,
)

from api.http import fields
from api.http.times import read_datetime

LARGEST_BATCH = 100

OrderId = PlainValidator(fields.read_callers_id)
Fee = PlainValidator(fields.read_fee)
OrderDatetime = PlainValidator(read_datetime)
CalendarName = PlainValidator(fields.read_calendar)


class Body(BaseModel):
    """A JSON object with exactly these fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServiceReference(Body):
    """A service of an order: ``{"id": "123"}``, or ``{"id": 123}`` as in the catalogue."""

    id: Annotated[int, PlainValidator(fields.read_id)]


def _each_once(services: list[ServiceReference]) -> list[ServiceReference]:
    twice = [str(i) for i, times in Counter(service.id for service in services).items() if times > 1]
    if twice:
        message = f"must name each service once; these stand more than once: {', '.join(sorted(twice))}"
        raise ValueError(message)
    return services


Services = Annotated[list[ServiceReference], Field(min_length=1, max_length=50), AfterValidator(_each_once)]


class NewOrder(Body):
    """The body of a create. Without a datetime it means now; the sample orders' bodies fit as they are."""

    id: Annotated[int | None, OrderId] = None
    datetime: Annotated[Datetime | None, OrderDatetime] = None
    totalfee: Annotated[Decimal, Fee]
    services: Services
    calendar: Annotated[str, CalendarName] = fields.DEFAULT_CALENDAR


def _ids_once(orders: list[NewOrder]) -> list[NewOrder]:
    times = Counter(order.id for order in orders if order.id is not None)
    twice = [str(order_id) for order_id, n in times.items() if n > 1]
    if twice:
        message = f"must not give an id to two orders: {', '.join(twice)}"
        raise ValueError(message)
    return orders


class NewOrders(Body):
    """The body of a batch."""

    orders: Annotated[
        list[NewOrder], Field(min_length=1, max_length=LARGEST_BATCH), AfterValidator(_ids_once)
    ]


class OrderReplacement(Body):
    """The body of a PUT: the whole order. Without a calendar it means ``default``, as on create."""

    id: Annotated[int | None, PlainValidator(fields.read_id)] = None
    datetime: Annotated[Datetime, OrderDatetime]
    totalfee: Annotated[Decimal, Fee]
    services: Services
    calendar: Annotated[str, CalendarName] = fields.DEFAULT_CALENDAR


def _given(value: Any) -> Any:
    if value is None:
        message = "must be a JSON array; leave it out to keep the services"
        raise ValueError(message)
    return value


def _or_default(value: Any) -> str:
    return fields.DEFAULT_CALENDAR if value is None else fields.read_calendar(value)


class OrderPatch(Body):
    """The body of a PATCH (JSON Merge Patch, RFC 7396): what is not there stays; null unsets the calendar."""

    datetime: Annotated[Datetime | None, OrderDatetime] = None
    totalfee: Annotated[Decimal | None, Fee] = None
    services: Annotated[Services | None, BeforeValidator(_given)] = None
    calendar: Annotated[str | None, PlainValidator(_or_default)] = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            message = "must name at least one field: datetime, totalfee, services or calendar"
            raise ValueError(message)
        return self
