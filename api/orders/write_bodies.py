"""The bodies of cancellations, reinstatements and of writes of many orders at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Protocol, TypeVar

from pydantic import AfterValidator, Field, PlainValidator

from api.http.bodies import Body
from api.http.fields import read_id
from api.http.texts import read_reason
from api.orders.bodies import LARGEST_BATCH, OrderPatch, Version

Reason = PlainValidator(read_reason)


class StatusReason(Body):
    """The body of a cancellation or a reinstatement. There may be none."""

    reason: Annotated[str | None, Reason] = None


class PatchOfBatch(OrderPatch):
    """One of the merge patches of a batch."""

    id: Annotated[int, PlainValidator(read_id)]


class OrderOfBatch(Body):
    """An order that a batch cancels or deletes."""

    id: Annotated[int, PlainValidator(read_id)]
    version: Annotated[int | None, Version] = None
    """If given, it must be the order's current version."""


class _Identified(Protocol):
    @property
    def id(self) -> int: ...


Identified = TypeVar("Identified", bound=Sequence[_Identified])


def _require_distinct_orders(orders: Identified) -> Identified:
    twice = [str(order_id) for order_id, n in Counter(order.id for order in orders).items() if n > 1]
    if twice:
        raise ValueError(f"must name each order once; these appear more than once: {', '.join(twice)}")
    return orders


def _require_distinct_references(patches: list[PatchOfBatch]) -> list[PatchOfBatch]:
    times = Counter(patch.reference for patch in patches if patch.reference is not None)
    twice = [reference for reference, n in times.items() if n > 1]
    if twice:
        raise ValueError(f"must not use a reference for two orders: {', '.join(twice)}")
    return patches


class OrderPatches(Body):
    """The body of a batch of merge patches."""

    orders: Annotated[
        list[PatchOfBatch],
        Field(min_length=1, max_length=LARGEST_BATCH),
        AfterValidator(_require_distinct_orders),
        AfterValidator(_require_distinct_references),
    ]


class OrdersOfBatch(StatusReason):
    """The body of a batch of cancellations or deletions."""

    orders: Annotated[
        list[OrderOfBatch],
        Field(min_length=1, max_length=LARGEST_BATCH),
        AfterValidator(_require_distinct_orders),
    ]
