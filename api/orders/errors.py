"""Why a command about orders is refused: each carries what the caller needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta


@dataclass(frozen=True)
class Conflict:
    """An order that is too close to another."""

    id: int
    datetime: datetime
    index: int | None = None
    """Its place in the batch, if it is of the same batch and so not stored either."""


@dataclass
class OrdersTooCloseError(Exception):
    """Another order on the calendar is less than its spacing away, before or after."""

    calendar: str
    spacing: timedelta
    requested: datetime
    conflicts: Sequence[Conflict]
    nearest_before: datetime | None
    """The latest free datetime before the requested one; None if there is none from 1970 on."""
    nearest_after: datetime | None
    """The earliest free datetime after the requested one; None if there is none up to 2199."""


@dataclass
class OrderNotFoundError(Exception):
    """No order has this id, or it was deleted."""

    order_id: int


@dataclass
class OrderIdTakenError(Exception):
    """The id that a caller chose for a new order is, or was, the id of another order."""

    order_id: int


@dataclass
class ReferenceTakenError(Exception):
    """Another order has the reference."""

    reference: str
    order_id: int
    """The order that has it."""


@dataclass
class StatusNotSettableError(Exception):
    """The body of an update has another status than the order, which only a command of its own changes."""

    status: str
    """The order's."""


@dataclass
class OrderCancelledError(Exception):
    """The order is cancelled, so only its reference and metadata can be changed."""

    order_id: int


@dataclass
class TooMuchMetadataError(Exception):
    """An order's metadata would have more keys than it may."""

    keys: int


@dataclass
class ServicesNotOrderableError(Exception):
    """Services of an order are unknown or archived: JSON Pointers into the body, and why."""

    faults: Sequence[tuple[str, str]]


@dataclass
class VersionMismatchError(Exception):
    """The order is at a version that the caller's preconditions, or the version in the body, exclude."""

    order_id: int
    version: int
    tag: str
    """The current one."""
    weak_tag: str | None = None
    """The weak form of the tag, if If-Match has it: it never matches."""
    stated: int | None = None
    """The version in the body, if that is the one that excludes it."""


@dataclass(frozen=True)
class Namesake:
    """A calendar that does not exist, and one that does whose name differs only in case."""

    name: str
    existing: str

    @property
    def reason(self) -> str:
        """Why it can't be made."""
        return f"there is a calendar {self.existing}; a name may not differ only in case"


@dataclass
class CalendarNameTakenError(Exception):
    """Calendars would be made whose names differ only in case from those of others."""

    namesakes: Sequence[Namesake]
    pointers: Sequence[str] = ("#/calendar",)
    """Where each was named in the body."""


@dataclass
class CalendarNotInCellError(Exception):
    """This installation is a cell, and has no calendars of these names."""

    cell: str
    names: Sequence[str]
    pointers: Sequence[str] = ("#/calendar",)
    """Where they were named in the body."""


Refusal = (
    OrdersTooCloseError
    | OrderIdTakenError
    | ReferenceTakenError
    | ServicesNotOrderableError
    | CalendarNameTakenError
    | CalendarNotInCellError
    | OrderNotFoundError
    | VersionMismatchError
    | StatusNotSettableError
    | TooMuchMetadataError
    | OrderCancelledError
)
"""Why one order of a batch is refused."""


@dataclass
class BatchRefusedError(Exception):
    """Some orders of a batch are refused, by their index; nothing is done to the others either."""

    refusals: Sequence[tuple[int, Refusal]]
    participle: str = "stored"
    """What can't be done to them."""


class CalendarChangedError(Exception):
    """A calendar was deleted or restored by another transaction: roll back and try again."""


class ImportRefusedError(Exception):
    """Nothing was imported; the report that ``import_orders`` was called with says why."""


class ImportsBusyError(Exception):
    """This process is importing another file."""


class ImportTooSlowError(Exception):
    """Storing a file took longer than the API allows; nothing of it was stored."""


class ContentionError(Exception):
    """Other transactions changed what this command had read, several times in a row. Try again."""
