"""An order as it is when it is to be changed, and as it is to become: checked, and not yet written."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from api.http.entity_tags import Preconditions, etag
from api.http.json_text import encode_text
from api.orders.bodies import OrderPatch, OrderReplacement
from api.orders.errors import (
    OrderCancelledError,
    OrderNotFoundError,
    StatusNotSettableError,
    TooMuchMetadataError,
    VersionMismatchError,
)
from api.orders.fields import BOOKED, CANCELLED, MOST_METADATA, merge_metadata
from api.orders.members import COLUMNS
from api.orders.orderable_services import orderable_names
from api.orders.queries import StoredOrder
from shared.database.statements import fetch_optional

if TYPE_CHECKING:
    from collections.abc import Sequence

# Besides the order, what most updates need to know of the one that it is to become: the names of its services
# ($2), of those that can be ordered; its calendar ($3); and for the place that it then has ($4: its datetime)
# the import that placed it there, if any, and whether others are in its way. What the change leaves is null.
# An order that is reinstated ($5) takes its place anew.
_READ_ORDER = f"""
SELECT
    version, format, rendered AS json, service_ids, service_names, o.calendar_id,
    rendered ->> 'calendar' AS calendar, import_id, status, {COLUMNS},
    (
        SELECT array_agg(name ORDER BY id) FROM service WHERE id = ANY($2::bigint[]) AND archived_at IS NULL
    ) AS orderable_names,
    place.calendar_id AS wanted_calendar_id,
    import_there,
    ((place.calendar_id, place.at) <> (o.calendar_id, o.datetime) OR $5) AND EXISTS (
        SELECT FROM orders AS other
        WHERE other.calendar_id = place.calendar_id AND other.status = 'booked'
          AND other.datetime > place.at - place.spacing AND other.datetime < place.at + place.spacing
          AND other.id <> o.id AND other.import_id IS DISTINCT FROM import_there
    ) AS is_taken
FROM (SELECT * FROM orders WHERE id = $1 %(lock)s) AS o
LEFT JOIN calendar ON calendar.name = coalesce($3, rendered ->> 'calendar') AND calendar.deleted_at IS NULL
CROSS JOIN LATERAL (
    SELECT calendar.id AS calendar_id, coalesce($4::timestamptz, o.datetime) AS at,
        make_interval(secs => spacing_seconds) AS spacing
) AS place
LEFT JOIN LATERAL (
    SELECT import_id AS import_there FROM imported_place
    WHERE order_id = o.id AND calendar_id = place.calendar_id AND datetime = place.at
) AS earlier ON true
"""
_READ, _LOCK = _READ_ORDER % {"lock": ""}, _READ_ORDER % {"lock": "FOR UPDATE"}
# The lock is in the subquery, and the calendar's name comes from the order. When PostgreSQL has waited for
# the lock, it reads that row again, but not the rows that it was joined to: an order that was moved meanwhile
# would seem to be gone.


@dataclass(frozen=True)
class StatusChange:
    """An order is to be cancelled or reinstated."""

    status: str
    version: int | None = None
    """If given, it must be the order's current version."""
    services: None = None
    calendar: None = None
    datetime: None = None


OrderChange = OrderReplacement | OrderPatch | StatusChange


class CurrentOrder(msgspec.Struct, frozen=True):
    """The current order, and what else an update needs to know."""

    version: int
    format: int
    json: str
    datetime: datetime
    totalfee: Decimal
    reference: str | None
    metadata: str
    """As JSON."""
    status: str
    service_ids: list[int]
    service_names: list[str]
    calendar_id: int
    calendar: str
    import_id: int
    orderable_names: list[str] | None
    wanted_calendar_id: int | None
    import_there: int | None
    is_taken: bool | None


@dataclass(frozen=True)
class PendingChange:
    """An order as it is, and as it is to become."""

    order_id: int
    current: CurrentOrder
    wanted: CurrentOrder

    @property
    def changes_nothing(self) -> bool:
        """Whether the order stays as it is."""
        return self.wanted == self.current

    @property
    def takes_a_place(self) -> bool:
        """Whether it moves, or is reinstated."""
        return self.wanted.status == BOOKED and _place(self.wanted) != _place(self.current)

    @property
    def calendars(self) -> list[int]:
        """The calendars to lock, ascending: the one that the order leaves too, if it takes a place."""
        return sorted({self.current.calendar_id, self.wanted.calendar_id}) if self.takes_a_place else []

    @property
    def references(self) -> set[str | None]:
        """The references to lock: its own too, if it gets another one or none."""
        own, wanted = self.current.reference, self.wanted.reference
        return {own, wanted} if own != wanted else set()

    @property
    def stored(self) -> StoredOrder:
        """The current order, as callers see it."""
        return StoredOrder(self.order_id, self.current.version, self.current.format, self.current.json)

    def on_calendar(self, calendar_id: int) -> PendingChange:
        """Return it with the id of the calendar that the order is to be on."""
        return replace(self, wanted=msgspec.structs.replace(self.wanted, calendar_id=calendar_id))


def _place(order: CurrentOrder) -> Sequence[object]:
    return order.datetime, order.calendar, order.status


async def read_change(
    order_id: int, change: OrderChange, preconditions: Preconditions | None = None, *, lock: bool
) -> PendingChange:
    """Read an order, and check what it is to become.

    Args:
        order_id: the order.
        change: what is to become of it.
        preconditions: those of the request.
        lock: lock the order until the current transaction ends.

    Raises:
        OrderNotFoundError: there is no such order.
        VersionMismatchError: its version is one that the preconditions exclude, or not the one in the body.
        ServicesNotOrderableError: a service is unknown; or archived, and the order has and had it never.
        StatusNotSettableError: the status in the body is not the order's.
        TooMuchMetadataError: its metadata would have too many keys.
        OrderCancelledError: it is cancelled, and more would change than its reference and metadata.

    """
    is_reinstatement = isinstance(change, StatusChange) and change.status == BOOKED
    service_ids = sorted(service.id for service in change.services or ())
    current = await fetch_optional(
        CurrentOrder,
        _LOCK if lock else _READ,
        order_id,
        service_ids,
        change.calendar,
        change.datetime,
        is_reinstatement,
    )
    if current is None:
        raise OrderNotFoundError(order_id)
    check_version(order_id, current.version, current.format, preconditions, change.version)
    if isinstance(change, StatusChange):
        return PendingChange(order_id, current, msgspec.structs.replace(current, status=change.status))
    if change.status not in (None, current.status):
        raise StatusNotSettableError(current.status)
    wanted = msgspec.structs.replace(current, **_members_of(change, current))
    is_cancelled = current.status == CANCELLED
    # A cancelled order also keeps the names of its services, which an update would otherwise refresh.
    if change.services is not None and not (is_cancelled and service_ids == current.service_ids):
        names = current.orderable_names or []
        if len(names) < len(service_ids):
            names = await orderable_names([service.id for service in change.services], order_id)
        wanted = msgspec.structs.replace(wanted, service_ids=service_ids, service_names=names)
    if is_cancelled and wanted != msgspec.structs.replace(
        current, reference=wanted.reference, metadata=wanted.metadata
    ):
        raise OrderCancelledError(order_id)
    return PendingChange(order_id, current, wanted)


def check_version(
    order_id: int,
    version: int,
    rendering: int,
    preconditions: Preconditions | None,
    stated: int | None = None,
) -> None:
    """Check the version of an order, in a format, against a request's preconditions and its body.

    Raises:
        VersionMismatchError: one of them excludes it.

    """
    tag = etag(version, rendering)
    if preconditions is not None and not preconditions.hold_at(tag):
        tags = preconditions.if_match
        raise VersionMismatchError(order_id, version, tag, tags.weak_form_of(tag) if tags else None)
    if stated not in (None, version):
        raise VersionMismatchError(order_id, version, tag, stated=stated)


def _members_of(change: OrderReplacement | OrderPatch, current: CurrentOrder) -> dict[str, Any]:
    """Return the columns that hold what they are sent."""
    is_patch = isinstance(change, OrderPatch)
    members = change.model_dump(exclude={"id", "services", "status", "version"}, exclude_unset=is_patch)
    if "metadata" in members:
        metadata = json.loads(current.metadata)
        merged = merge_metadata(metadata if is_patch else {}, members["metadata"])
        if len(merged) > MOST_METADATA:
            raise TooMuchMetadataError(len(merged))
        # Written the same way only if it is the same.
        members["metadata"] = current.metadata if merged == metadata else encode_text(merged)
    return members
