"""Updating, cancelling, reinstating and deleting an order: commands that commit; locks as in ``commands``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from api.http.attribution import Attribution, set_attribution
from api.http.entity_tags import Preconditions
from api.orders.calendars import calendar_ids
from api.orders.current_orders import OrderChange, PendingChange, check_version, read_change
from api.orders.errors import ContentionError, OrderNotFoundError
from api.orders.members import COLUMNS, parameters, values_of
from api.orders.queries import StoredOrder, refuse_if_too_close
from api.orders.references import buckets_of, refuse_if_reference_is_taken
from api.orders.transactions import ATTEMPTS, CALENDAR_CHANGED
from shared.database.locks import CALENDAR_LOCK, REFERENCE_LOCK
from shared.database.statements import fetch_optional
from shared.database.transaction import fetch_and_commit, retry_on_lock_timeout, transaction

# Buckets of references ($8) are locked after the calendars: two that swap theirs would deadlock otherwise.
#
# An order that takes a place (its calendars: $6) may not be near the others of its import, unless it returns
# to where it came from ($5). That place can't change meanwhile: only an import that stores this order again
# writes it.
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
), attributed AS MATERIALIZED (
    SELECT {set_attribution(10)}
)
UPDATE orders SET
    (service_ids, service_names, calendar_id, {COLUMNS}) = ROW ($2, $3, $4, {parameters(13)}),
    import_id = CASE WHEN cardinality($6::int[]) = 0 THEN import_id
        ELSE coalesce($5::bigint, nextval('order_import_id_seq')) END,
    status = $9, version = version + 1, updated_at = clock_timestamp()
WHERE id = $1 AND version = $7 AND (SELECT count(*) FROM locked) = cardinality($6::int[])
  AND (SELECT count(*) FROM references_locked) = cardinality($8::int[])
  AND (SELECT count(*) FROM attributed) = 1%(condition)s
RETURNING id, version, format, rendered AS json
"""
_WRITE = _UPDATE % {"condition": ""}

WRITE_IF_FREE = _UPDATE % {
    "condition": """
  AND NOT (cardinality($6::int[]) > 0 AND EXISTS (
    SELECT FROM orders AS other JOIN calendar ON calendar.id = other.calendar_id
    WHERE other.calendar_id = $4 AND other.id <> $1 AND other.import_id IS DISTINCT FROM $5
      AND tstzrange(other.datetime, other.clear_until)
        && tstzrange($13::timestamptz, $13::timestamptz + make_interval(secs => calendar.spacing_seconds))
  ))
"""
}
"""The same, but nothing is written if an order is in the way. Those that have left their place are not."""


@dataclass
class _OrderInTheWayError(Exception):
    """Another order is, or was a moment ago, where an order is to be."""

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
    order_id: int, change: OrderChange, attribution: Attribution, preconditions: Preconditions | None = None
) -> StoredOrder:
    """Replace an order, change what a merge patch names and leave the rest, cancel it, or reinstate it.

    It never creates one. If nothing would change, nothing is stored: the order keeps its version.

    Raises:
        OrderNotFoundError, VersionMismatchError, ServicesNotOrderableError, StatusNotSettableError,
        TooMuchMetadataError, OrderCancelledError: as ``read_change``.
        CalendarNameTakenError: the calendar is new, and its name differs only in case from another's.
        OrdersTooCloseError: the order would be too close to another.
        ReferenceTakenError: another order has the reference.
        ContentionError: other transactions kept interfering.

    """
    for _ in range(ATTEMPTS):
        try:
            order = await _update(order_id, change, attribution, preconditions, is_locked=False)
            if order is None:
                async with transaction():
                    order = await _update(order_id, change, attribution, preconditions, is_locked=True)
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
    change: OrderChange,
    attribution: Attribution,
    preconditions: Preconditions | None,
    *,
    is_locked: bool,
) -> StoredOrder | None:
    """Read an order, and write what it is to become.

    Without a lock these are two statements, each a transaction of its own, and nobody waits. That is enough
    unless nothing changes, the order is written in between, or is to move to a calendar that does not exist.

    Args:
        order_id: the order.
        change: what is to become of it.
        attribution: who changes it, and why.
        preconditions: those of the request.
        is_locked: in the current transaction, with the order locked in between.

    Returns:
        The order as it is stored; None if that needs a lock.

    """
    pending = await read_change(order_id, change, preconditions, lock=is_locked)
    if pending.changes_nothing:
        # Maybe a repeat: the commit of a lock waits for standbys, also for what the first try has stored.
        return pending.stored if is_locked else None
    if pending.takes_a_place:
        calendar_id = pending.current.wanted_calendar_id
        if calendar_id is None:
            if not is_locked:
                return None
            calendar_id = (await calendar_ids([pending.wanted.calendar]))[pending.wanted.calendar]
        pending = pending.on_calendar(calendar_id)
    return await _store(pending, attribution, is_locked=is_locked)


async def _store(pending: PendingChange, attribution: Attribution, *, is_locked: bool) -> StoredOrder | None:
    wanted, import_id = pending.wanted, pending.current.import_there
    in_the_way = _OrderInTheWayError(pending.order_id, wanted.calendar, wanted.datetime, import_id)
    # The constraint would refuse it too. But there it has its new place while it waits for the orders near
    # it, and one of them that is written meanwhile may wait for that place: a deadlock.
    if pending.current.is_taken:
        raise in_the_way
    try:
        return await (fetch_optional if is_locked else fetch_and_commit)(
            StoredOrder, _WRITE, *arguments_of(pending, attribution)
        )
    except asyncpg.ExclusionViolationError:
        raise in_the_way from None
    except asyncpg.UniqueViolationError:
        raise _ReferenceUsedError(wanted.reference or "") from None


def arguments_of(pending: PendingChange, attribution: Attribution) -> list[object]:
    """Return the arguments of the statements that write a change."""
    wanted = pending.wanted
    return [
        pending.order_id,
        wanted.service_ids,
        wanted.service_names,
        wanted.calendar_id,
        pending.current.import_there,
        pending.calendars,
        pending.current.version,
        buckets_of(pending.references),
        wanted.status,
        *attribution.values,
        *values_of(wanted),
    ]


DELETE = f"""
WITH attributed AS MATERIALIZED (SELECT {set_attribution(2)})
DELETE FROM orders WHERE id = $1 AND (SELECT count(*) FROM attributed) = 1
RETURNING id, version, format, rendered AS json
"""


@retry_on_lock_timeout
async def delete_order(
    order_id: int, attribution: Attribution, preconditions: Preconditions | None = None
) -> int:
    """Delete an order and record that; return the version that the deletion is.

    Its place is free as soon as this returns.

    Raises:
        OrderNotFoundError: there is no such order, or no longer.
        VersionMismatchError: its version is one that the preconditions exclude.

    """
    arguments = (order_id, *attribution.values)
    if preconditions is None or preconditions == Preconditions():
        order = await fetch_and_commit(StoredOrder, DELETE, *arguments)
        if order is None:
            raise OrderNotFoundError(order_id)
        return order.version + 1
    async with transaction():
        order = await fetch_optional(StoredOrder, DELETE, *arguments)
        if order is None:
            raise OrderNotFoundError(order_id)
        # Checked after the deletion, which is rolled back if need be: the row can't change in between.
        check_version(order_id, order.version, order.format, preconditions)
    return order.version + 1
