"""What can stand in the way of a command: nouns of the domain, carrying what the caller needs to go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


@dataclass(frozen=True)
class Conflict:
    """An order in the way of another."""

    id: int
    datetime: datetime
    index: int | None = None
    """Its place in the batch, if it is of the same batch and so not stored either."""


@dataclass
class OrdersTooCloseError(Exception):
    """The 3-hour rule: another order on the calendar is less than three hours away, either way."""

    calendar: str
    asked: datetime
    conflicts: Sequence[Conflict]
    nearest_before: datetime | None
    """The latest free datetime before the one asked for; None if there is none from 1970 on."""
    nearest_after: datetime | None
    """The earliest free datetime after the one asked for; None if there is none up to 2199."""


@dataclass
class OrderNotFoundError(Exception):
    """No order has this id, or it was deleted."""

    order_id: int


@dataclass
class OrderIdTakenError(Exception):
    """A caller's id for a new order names, or named, another order."""

    order_id: int


@dataclass
class ServicesNotOrderableError(Exception):
    """Services of an order that are unknown or archived: JSON Pointers into the body, and why."""

    faults: Sequence[tuple[str, str]]


@dataclass
class BatchRefusedError(Exception):
    """Orders of a batch that can't be stored, by their places in it; the others are not stored either."""

    refusals: Sequence[tuple[int, OrdersTooCloseError | OrderIdTakenError]]


@dataclass
class VersionMismatchError(Exception):
    """The order is at none of the versions that the caller meant."""

    order_id: int
    version: int


@dataclass
class IdempotencyKeyReusedError(Exception):
    """An Idempotency-Key was used before, for other content."""

    key: str


@dataclass
class ServiceNotFoundError(Exception):
    """No service has this id."""

    service_id: int


@dataclass
class ServiceIdTakenError(Exception):
    """A caller's id for a new service is another service's."""

    service_id: int


@dataclass
class ServiceNameTakenError(Exception):
    """Another service that is not archived has this name, whatever its case."""

    name: str


class ContentionError(Exception):
    """Others kept changing what this command looked at, several times over. Trying again is right."""
