"""Updating and deleting orders: each command commits here; locks as in ``commands``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import asyncpg
import msgspec

from api.http.entity_tags import Preconditions, etag
from api.http.json_text import encode_text
from api.orders.bodies import OrderPatch, OrderReplacement
from api.orders.calendars import calendar_ids
from api.orders.errors import (
    ContentionError,
    OrderNotFoundError,
    StatusNotSettableError,
    TooMuchMetadataError,
    VersionMismatchError,
)
from api.orders.fields import MOST_METADATA, merge_metadata
from api.orders.members import COLUMNS, parameters, values_of
from api.orders.orderable_services import orderable_names
from api.orders.queries import StoredOrder, refuse_if_too_close
from api.orders.references import buckets_of, refuse_if_reference_is_taken
from api.orders.transactions import ATTEMPTS, CALENDAR_CHANGED
from shared.database.locks import CALENDAR_LOCK, REFERENCE_LOCK
from shared.database.statements import fetch_optional
from shared.database.transaction import fetch_and_commit, retry_on_lock_timeout, transaction

# Besides the order, what most updates need to know of the one that it is to become: the names of its services
# ($2), of those that can be ordered; its calendar ($3); and for the place that it then has ($4: its datetime)
# the import that placed it there, if any, and whether others are in its way. What the change leaves is null.
_READ_ORDER = f"""
SELECT
    version, format, rendered AS json, service_ids, service_names, o.calendar_id,
    rendered ->> 'calendar' AS calendar, import_id, status, {COLUMNS},
    (
        SELECT array_agg(name ORDER BY id) FROM service WHERE id = ANY($2::bigint[]) AND archived_at IS NULL
    ) AS orderable_names,
    place.calendar_id AS wanted_calendar_id,
    import_there,
    (place.calendar_id, place.at) <> (o.calendar_id, o.datetime) AND EXISTS (
        SELECT FROM orders AS other
        WHERE other.calendar_id = place.calendar_id
          AND other.datetime > place.at - place.spacing AND other.datetime < place.at + place.spacing
          AND other.status = 'booked'
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

# Buckets of references ($8) are locked after the calendars: two that swap theirs would deadlock otherwise.
#
# An order that moves (its calendars: $6) may not be near the others of its import, unless it returns to where
# it came from ($5). That place can't change meanwhile: only an import that stores this order again writes it.
#
# The order's row is locked before its calendars, and these before anything is written, since the condition is
# checked first. The calendar that the order leaves is locked too: two that swap would deadlock otherwise.
_UPDATE = f"""
WITH changing AS MATERIALIZED (
    SELECT id FROM orders WHERE id = $1 AND version = $7 FOR UPDATE
), locked AS MATERIALIZED (
    SELECT pg_advisory_xact_lock({CALENDAR_LOCK}, calendar_id)
    FROM (SELECT unnest($6::int[]) AS calendar_id FROM changing) AS calendars
), references_locked AS MATERIALIZED (
    SELECT pg_advisory_xact_lock({REFERENCE_LOCK}, bucket)
    FROM (
        SELECT unnest($8::int[]) AS bucket FROM changing WHERE (SELECT count(*) FROM locked) >= 0
    ) AS buckets
)
UPDATE orders SET
    (service_ids, service_names, calendar_id, {COLUMNS}) = ROW ($2, $3, $4, {parameters(9)}),
    import_id = CASE WHEN cardinality($6::int[]) = 0 THEN import_id
        ELSE coalesce($5::bigint, nextval('order_import_id_seq')) END,
    version = version + 1, updated_at = clock_timestamp()
WHERE id = $1 AND version = $7 AND (SELECT count(*) FROM locked) = cardinality($6::int[])
  AND (SELECT count(*) FROM references_locked) = cardinality($8::int[])
RETURNING id, version, format, rendered AS json
"""


class _CurrentOrder(msgspec.Struct, frozen=True):
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


@dataclass
class _OrderInTheWayError(Exception):
    """Another order is, or was a moment ago, where an order is to move."""

    order_id: int
    calendar: str
    at: datetime
    import_id: int | None


@dataclass
class _ReferenceUsedError(Exception):
    """Another order has, or had a moment ago, the reference that an order is to get."""

    reference: str


@retry_on_lock_timeout
async def update_order(
    order_id: int, change: OrderReplacement | OrderPatch, preconditions: Preconditions | None = None
) -> StoredOrder:
    """Replace an order, or change what a merge patch names and leave the rest. It never creates one.

    If nothing would change, nothing is stored: the order keeps its version.

    Raises:
        OrderNotFoundError: there is no such order.
        VersionMismatchError: its version is one that the preconditions exclude, or not the one in the body.
        ServicesNotOrderableError: a service is unknown; or archived, and the order has and had it never.
        CalendarNameTakenError: the calendar is new, and its name differs only in case from another's.
        OrdersTooCloseError: the order would move too close to another.
        ReferenceTakenError: another order has the reference.
        StatusNotSettableError: the status in the body is not the order's.
        TooMuchMetadataError: its metadata would have too many keys.
        ContentionError: other transactions kept interfering.

    """
    for _ in range(ATTEMPTS):
        try:
            order = await _update(order_id, change, preconditions, is_locked=False)
            if order is None:
                async with transaction():
                    order = await _update(order_id, change, preconditions, is_locked=True)
            if order is not None:
                return order
        except _OrderInTheWayError as refusal:
            # If the order in the way is gone by now, the next attempt may succeed.
            await refuse_if_too_close(refusal.calendar, refusal.at, order_id, refusal.import_id)
        except _ReferenceUsedError as refusal:
            await refuse_if_reference_is_taken(refusal.reference)
        except CALENDAR_CHANGED:
            continue
    raise ContentionError


async def _update(
    order_id: int,
    change: OrderReplacement | OrderPatch,
    preconditions: Preconditions | None,
    *,
    is_locked: bool,
) -> StoredOrder | None:
    """Read an order, and write what it is to become.

    Without a lock these are two statements, each a transaction of its own, and nobody waits. That is enough
    unless the order is written in between, or is to move to a calendar that does not exist yet.

    Args:
        order_id: the order.
        change: what is to become of it.
        preconditions: those of the request.
        is_locked: in the current transaction, with the order locked in between.

    Returns:
        The order as it is stored; None if that needs a lock.

    """
    service_ids = sorted(service.id for service in change.services or ())
    read = _LOCK if is_locked else _READ
    current = await fetch_optional(
        _CurrentOrder, read, order_id, service_ids, change.calendar, change.datetime
    )
    if current is None:
        raise OrderNotFoundError(order_id)
    tag = etag(current.version, current.format)
    _check_preconditions(order_id, current.version, tag, preconditions)
    if change.version not in (None, current.version):
        raise VersionMismatchError(order_id, current.version, tag, stated=change.version)
    if change.status not in (None, current.status):
        raise StatusNotSettableError(current.status)
    wanted = msgspec.structs.replace(current, **_members_of(change, current))
    if change.services is not None:
        names = current.orderable_names or []
        if len(names) < len(service_ids):
            names = await orderable_names([service.id for service in change.services], order_id)
        wanted = msgspec.structs.replace(wanted, service_ids=service_ids, service_names=names)
    if wanted == current:
        return StoredOrder(order_id, current.version, current.format, current.json)
    calendars: list[int] = []
    if (wanted.datetime, wanted.calendar) != (current.datetime, current.calendar):
        calendar_id = current.wanted_calendar_id
        if calendar_id is None:
            if not is_locked:
                return None
            calendar_id = (await calendar_ids([wanted.calendar]))[wanted.calendar]
        wanted = msgspec.structs.replace(wanted, calendar_id=calendar_id)
        calendars = sorted({current.calendar_id, calendar_id})
    return await _store(order_id, current, wanted, calendars, is_locked=is_locked)


def _members_of(change: OrderReplacement | OrderPatch, current: _CurrentOrder) -> dict[str, Any]:
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


async def _store(
    order_id: int, current: _CurrentOrder, wanted: _CurrentOrder, calendars: list[int], *, is_locked: bool
) -> StoredOrder | None:
    in_the_way = _OrderInTheWayError(order_id, wanted.calendar, wanted.datetime, current.import_there)
    # The constraint would refuse it too. But there it has its new place while it waits for the orders near
    # it, and one of them that is written meanwhile may wait for that place: a deadlock.
    if current.is_taken:
        raise in_the_way
    try:
        return await (fetch_optional if is_locked else fetch_and_commit)(
            StoredOrder,
            _UPDATE,
            order_id,
            wanted.service_ids,
            wanted.service_names,
            wanted.calendar_id,
            current.import_there,
            calendars,
            current.version,
            buckets_of({current.reference, wanted.reference})
            if wanted.reference != current.reference
            else [],
            *values_of(wanted),
        )
    except asyncpg.ExclusionViolationError:
        raise in_the_way from None
    except asyncpg.UniqueViolationError:
        raise _ReferenceUsedError(wanted.reference or "") from None


_DELETE = "DELETE FROM orders WHERE id = $1 RETURNING id, version, format, rendered AS json"


@retry_on_lock_timeout
async def delete_order(order_id: int, preconditions: Preconditions | None = None) -> None:
    """Delete an order and record that. Its place is free as soon as this returns.

    Raises:
        OrderNotFoundError: there is no such order, or no longer.
        VersionMismatchError: its version is one that the preconditions exclude.

    """
    if preconditions is None or preconditions == Preconditions():
        if await fetch_and_commit(StoredOrder, _DELETE, order_id) is None:
            raise OrderNotFoundError(order_id)
        return
    async with transaction():
        order = await fetch_optional(StoredOrder, _DELETE, order_id)
        if order is None:
            raise OrderNotFoundError(order_id)
        # Checked after the deletion, which is rolled back if need be: the row can't change in between.
        _check_preconditions(order_id, order.version, order.tag, preconditions)


def _check_preconditions(order_id: int, version: int, tag: str, preconditions: Preconditions | None) -> None:
    if preconditions is not None and not preconditions.hold_at(tag):
        tags = preconditions.if_match
        raise VersionMismatchError(order_id, version, tag, tags.weak_form_of(tag) if tags else None)
