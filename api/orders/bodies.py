"""The bodies of requests about orders. Every member is checked, and every fault of a body is named."""

from __future__ import annotations

from collections import Counter
from datetime import datetime as Datetime  # noqa: N812 (a member is called datetime)
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator

from api.http.bodies import Body, Patch, ReadOnly
from api.http.fields import GREATEST_VERSION, read_id, whole_number
from api.http.times import read_datetime
from api.orders.fields import (
    DEFAULT_CALENDAR,
    MOST_METADATA,
    read_calendar,
    read_fee,
    read_metadata_change,
    read_metadata_key,
    read_metadata_value,
    read_new_order_id,
    read_reference,
    read_status,
    read_status_of_new,
)

LARGEST_BATCH = 100
LARGEST_BATCH_BYTES = 1_048_576
LARGEST_ORDER_BYTES = 524_288
"""Any order, also if each character of its metadata is written as two escapes of six bytes."""

OrderId = PlainValidator(read_new_order_id)
Fee = PlainValidator(read_fee)
OrderDatetime = PlainValidator(read_datetime)
CalendarName = PlainValidator(read_calendar)
Version = PlainValidator(whole_number(1, GREATEST_VERSION))
Reference = PlainValidator(read_reference)
_MetadataKey = Annotated[str, PlainValidator(read_metadata_key)]
Metadata = Annotated[
    dict[_MetadataKey, Annotated[str, PlainValidator(read_metadata_value)]], Field(max_length=MOST_METADATA)
]
MetadataChange = dict[_MetadataKey, Annotated[str | None, PlainValidator(read_metadata_change)]]
"""A merge patch; how many keys there may be is checked when it is merged."""


class ServiceReference(Body):
    """A service of an order: ``{"id": "123"}``; the id may also be a number, and the name is ignored."""

    id: Annotated[int, PlainValidator(read_id)]
    name: ReadOnly = None


def require_distinct_services(services: list[ServiceReference]) -> list[ServiceReference]:
    """Refuse a list that names a service more than once."""
    ids = [service.id for service in services]
    if len(set(ids)) < len(ids):
        twice = sorted(str(service_id) for service_id, times in Counter(ids).items() if times > 1)
        raise ValueError(f"must name each service once; these appear more than once: {', '.join(twice)}")
    return services


Services = Annotated[
    list[ServiceReference], Field(min_length=1, max_length=50), AfterValidator(require_distinct_services)
]


class NewOrder(Body):
    """The body of a create. Without a datetime, the order is for now; without an id, the server sets it."""

    id: Annotated[int | None, OrderId] = None
    datetime: Annotated[Datetime | None, OrderDatetime] = None
    totalfee: Annotated[Decimal, Fee]
    services: Services
    calendar: Annotated[str, CalendarName] = DEFAULT_CALENDAR
    reference: Annotated[str | None, Reference] = None
    metadata: Metadata = Field(default_factory=dict)
    status: Annotated[str | None, PlainValidator(read_status_of_new), Field(exclude=True)] = None
    version: ReadOnly = None
    created_at: ReadOnly = None
    updated_at: ReadOnly = None

    def content(self) -> dict[str, Any]:
        """Return the members that the order gets; a reference and metadata only if it gets some."""
        content = self.model_dump()
        # A create that an earlier release answered has neither, and may be repeated after the upgrade.
        if self.reference is None:
            del content["reference"]
        if self.metadata:
            content["metadata"] = dict(sorted(self.metadata.items()))
        else:
            del content["metadata"]
        return content


def _require_distinct(orders: list[NewOrder]) -> list[NewOrder]:
    ids = Counter(order.id for order in orders if order.id is not None)
    references = Counter(order.reference for order in orders if order.reference is not None)
    for what, times in (("an id", ids), ("a reference", references)):
        twice = [str(value) for value, n in times.items() if n > 1]
        if twice:
            raise ValueError(f"must not use {what} for two orders: {', '.join(twice)}")
    return orders


class NewOrders(Body):
    """The body of a batch."""

    orders: Annotated[
        list[NewOrder], Field(min_length=1, max_length=LARGEST_BATCH), AfterValidator(_require_distinct)
    ]

    def content(self) -> dict[str, Any]:
        """Return the members that the orders get."""
        return {"orders": [order.content() for order in self.orders]}


class OrderReplacement(NewOrder):
    """The body of a PUT: the whole order, with a datetime. Without a calendar, it is on ``default``."""

    if_missing = "must be sent, as PUT replaces the whole order; PATCH changes only what it names"

    id: Annotated[int | None, PlainValidator(read_id)] = None
    datetime: Annotated[Datetime, OrderDatetime]
    status: Annotated[str | None, PlainValidator(read_status)] = None
    """If given, it must be the order's current status."""
    version: Annotated[int | None, Version] = None
    """If given, it must be the order's current version."""


class OrderPatch(Patch):
    """The body of a PATCH."""

    removable = frozenset({"reference", "metadata"})

    id: Annotated[int | None, PlainValidator(read_id)] = None
    datetime: Annotated[Datetime | None, OrderDatetime] = None
    totalfee: Annotated[Decimal | None, Fee] = None
    services: Services | None = None
    calendar: Annotated[str | None, CalendarName] = None
    reference: Annotated[str | None, Reference] = None
    metadata: MetadataChange | None = None
    status: Annotated[str | None, PlainValidator(read_status)] = None
    """If given, it must be the order's current status."""
    version: Annotated[int | None, Version] = None
    """If given, it must be the order's current version."""
    created_at: ReadOnly = None
    updated_at: ReadOnly = None
