"""The commands of random histories, how they are drawn, and how they are written as requests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from tests.builders import NOON, text_of
from tests.calendar_commands import CalendarCommand, calendar_commands

if TYPE_CHECKING:
    from collections.abc import Callable

calendars = st.sampled_from(["default", "default", "default", "north", "north", "East.2"])
# Mostly a grid of the clearance, so that gaps of exactly three and six hours are common; else half of it,
# or a millisecond beside it.
times = st.builds(
    lambda step, tick: NOON + step * timedelta(minutes=90) + tick * timedelta(milliseconds=1),
    st.sampled_from([-2, 0, 2, 4, 6, 8, 10, 1, 3, 5]),
    st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1]),
)
fees = st.one_of(st.integers(0, 1_000), st.integers(0, 999_999_999_999)).map(lambda c: Decimal(c) / 100)
orderable = st.sampled_from([(123,), (789,), (123, 789), (789, 123)])
services = st.one_of(
    *[orderable] * 5,
    st.lists(st.sampled_from([123, 456, 456, 789, 5]), min_size=1, max_size=4, unique=True).map(tuple),
)
callers_ids = st.integers(1, 9)
references = st.sampled_from([None, None, None, None, "PO 1", "PO 2", "Ä/3"])
texts = st.dictionaries(st.sampled_from(["source", "note"]), st.sampled_from(["web", "", "line\nline"]))
metadata_of_new: st.SearchStrategy[dict[str, str]] = st.one_of(st.just({}), st.just({}), texts)
metadata_changes = st.dictionaries(
    st.sampled_from(["source", "note", "x"]), st.sampled_from(["web", "phone", None]), min_size=1
)
which = st.sampled_from([*range(1, 16), 0])
"""Which order a command refers to: the n-th existing one, modulo their number; 0: one that never existed."""


@dataclass(frozen=True)
class Create:
    """POST an order."""

    id: int | None
    at: datetime
    fee: Decimal
    services: tuple[int, ...]
    calendar: str
    reference: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Put:
    """PUT an order."""

    which: int
    at: datetime
    fee: Decimal
    services: tuple[int, ...]
    calendar: str
    reference: str | None
    metadata: dict[str, str]


@dataclass(frozen=True)
class Patch:
    """PATCH an order."""

    which: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class Delete:
    """DELETE an order."""

    which: int


@dataclass(frozen=True)
class ImportedOrder(Create):
    """An order of a file."""

    status: str = "booked"


@dataclass(frozen=True)
class Import:
    """Import a file."""

    orders: tuple[ImportedOrder, ...]


@dataclass(frozen=True)
class Archive:
    """DELETE a service."""

    service: int


@dataclass(frozen=True)
class Rename:
    """PUT a service."""

    service: int
    name: str


@dataclass(frozen=True)
class ChangeStatus:
    """Cancel an order, or reinstate it."""

    which: int
    status: str


@dataclass(frozen=True)
class PatchMany:
    """PATCH several orders at once."""

    patches: tuple[tuple[int, dict[str, Any]], ...]


@dataclass(frozen=True)
class Swap:
    """Let two orders or more swap datetimes, calendars and references, at once."""

    which: tuple[int, ...]


@dataclass(frozen=True)
class EndMany:
    """Cancel or delete several orders at once."""

    how: str
    which: tuple[int, ...]


@dataclass(frozen=True)
class DryRun:
    """What a command would answer."""

    command: Create | Put | Patch | Delete | ChangeStatus | PatchMany | Swap | EndMany


Command = (
    Create
    | Put
    | Patch
    | Delete
    | Import
    | Archive
    | Rename
    | ChangeStatus
    | PatchMany
    | Swap
    | EndMany
    | DryRun
    | CalendarCommand
)

creates = st.builds(
    Create, st.none() | st.none() | callers_ids, times, fees, services, calendars, references, metadata_of_new
)
imported = st.builds(
    ImportedOrder,
    st.none() | callers_ids,
    times,
    fees,
    orderable | services,
    calendars,
    references,
    metadata_of_new,
    st.sampled_from(["booked", "booked", "booked", "cancelled"]),
)
imports = st.lists(
    imported, min_size=1, max_size=4, unique_by=lambda o: o.id if o.id is not None else object()
)
patches = st.fixed_dictionaries(
    {},
    optional={
        "at": times,
        "fee": fees,
        "services": services,
        "calendar": calendars,
        "reference": references,
        "metadata": metadata_changes,
    },
).filter(bool)
puts = st.builds(Put, which, times, fees, services, calendars, references, metadata_of_new)
merges = st.builds(Patch, which, patches)
status_changes = st.builds(ChangeStatus, which, st.sampled_from(["cancelled", "booked"]))
existing = st.integers(1, 15)
patches_of_many = st.lists(
    st.tuples(
        existing | which, st.fixed_dictionaries({"at": times}, optional={"calendar": calendars}) | patches
    ),
    min_size=1,
    max_size=5,
)
of_many = st.one_of(
    st.builds(PatchMany, patches_of_many.map(tuple)),
    st.builds(Swap, st.lists(existing, min_size=2, max_size=4, unique=True).map(tuple)),
    st.builds(
        EndMany,
        st.sampled_from(["cancel", "cancel", "delete"]),
        st.lists(existing | which, min_size=1, max_size=2, unique=True).map(tuple),
    ),
)
services_written = st.one_of(
    st.builds(Archive, st.sampled_from([456, 456, 123, 5])),
    st.builds(Rename, st.sampled_from([123, 789]), st.sampled_from(["Ä", "INSPECTION", "x y"])),
)
commands = st.lists(
    st.one_of(
        *[creates] * 6,
        *[puts] * 2,
        *[merges] * 3,
        *[st.builds(Delete, which)] * 2,
        *[status_changes] * 2,
        *[of_many] * 3,
        st.builds(
            DryRun, st.one_of(creates, puts, merges, st.builds(Delete, which), status_changes, of_many)
        ),
        st.builds(Import, imports.map(tuple)),
        services_written,
        calendar_commands,
    ),
    min_size=25,
    max_size=45,
)


def written(**fields: Any) -> str:
    """Write an order's fields as a body, its fee exactly."""
    shown: dict[str, Callable[[Any], Any]] = {
        "id": lambda order_id: order_id,
        "at": text_of,
        "fee": str,
        "services": lambda ids: [{"id": str(service)} for service in reversed(ids)],
        "calendar": str,
        "reference": lambda reference: reference,
        "metadata": dict,
        "status": str,
    }
    names = {"at": "datetime", "fee": "totalfee"}
    body = {
        names.get(name, name): shown[name](value)
        for name, value in fields.items()
        if value is not None or name == "reference"
    }
    fee = body.pop("totalfee", None)
    text = json.dumps(body)
    return text if fee is None else text[:-1] + (", " if body else "") + f'"totalfee": {fee}}}'
