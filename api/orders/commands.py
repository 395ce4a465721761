"""Changing orders: each command is one transaction; nothing below it commits.

An order's row is written together with its change: the trigger ``orders_record_change`` records it in the
same statement, so there is no path on which one is stored without the other. Nothing here touches Redis.

Locks are always taken in this order, so that no two commands can deadlock:
an Idempotency-Key → ids that callers claim (ascending) → the order's row → calendars that do not exist yet
(by name) → the advisory locks of calendars (by id) → a place on a calendar, inside the exclusion constraint.
Creates of single orders take no calendar lock: with ``ON CONFLICT DO NOTHING`` they hold no place while they
wait for one, so others may wait for them, but never in a cycle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

import asyncpg
import msgspec

from api.http.idempotency_keys import Answer, IdempotencyKey, idempotent
from api.http.json_text import read_json
from api.http.times import current_millisecond
from api.orders.bodies import OrderPatch, OrderReplacement
from api.orders.calendars import calendar_ids, lock_calendars, make_calendar, refuse_namesakes
from api.orders.errors import (
    BatchRefusedError,
    CalendarNameTakenError,
    OrderIdTakenError,
    OrderNotFoundError,
    OrdersTooCloseError,
    VersionMismatchError,
)
from api.orders.members import COLUMNS, SETTABLE, parameters, values_of
from api.orders.orderable_services import orderable_names, refuse_unless_orderable
from api.orders.queries import StoredOrder, conflicts_near, find_order, nearest_free
from api.orders.transactions import in_transaction
from shared.database.statements import fetch_optional, fetch_value, fetch_values
from shared.database.transaction import retry_on_lock_timeout, transaction

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from api.http.entity_tags import Preconditions
    from api.orders.bodies import NewOrder


# No row comes back when the place is taken, a service can't be ordered or the calendar does not exist yet.
# The calling function finds out which.
INSERT = f"""
WITH ordered AS (
    SELECT array_agg(id ORDER BY id) AS ids, array_agg(name ORDER BY id) AS names
    FROM service WHERE id = ANY($2::bigint[]) AND archived_at IS NULL
)
INSERT INTO orders (id, service_ids, service_names, calendar_id, {COLUMNS})
SELECT
    coalesce($1::bigint, nextval('orders_id_seq')), ordered.ids, ordered.names, calendar.id, {parameters(4)}
FROM ordered, calendar
WHERE cardinality(ordered.ids) = cardinality($2::bigint[]) AND calendar.name = $3::text
ON CONFLICT DO NOTHING
RETURNING id, version, order_json(orders) AS json
"""

_LOCK_ORDER = f"""
SELECT version, service_ids, service_names, calendar_id, calendar, import_id, {COLUMNS}
FROM orders JOIN (SELECT id AS calendar_id, name AS calendar FROM calendar) AS c USING (calendar_id)
WHERE id = $1 FOR UPDATE OF orders
"""

# An order that moves may not be near the others of its import, unless it returns to where it came from. Where
# that is can't change meanwhile: only an import that stores this order again writes it.
_IMPORT_ID_THERE = """
SELECT coalesce(
    (SELECT import_id FROM imported_place
     WHERE order_id = $1 AND calendar_id = $2 AND datetime = $3::timestamptz),
    nextval('order_import_id_seq')
)
"""

_UPDATE = f"""
UPDATE orders SET
    (service_ids, service_names, calendar_id, {COLUMNS}) = ROW ($2, $3, $4, {parameters(6)}),
    import_id = $5,
    version = version + 1, updated_at = clock_timestamp()
WHERE id = $1
RETURNING id, version, order_json(orders) AS json
"""

_CLAIM_IDS = """
INSERT INTO claimed_order_id (id) SELECT id FROM unnest($1::bigint[]) AS id ORDER BY id
ON CONFLICT DO NOTHING RETURNING id
"""


class _ConflictVanishedError(Exception):
    """A conflict was there a moment ago and is gone: roll back and try again."""


@retry_on_lock_timeout
@in_transaction(_ConflictVanishedError)
async def create_order(new: NewOrder, key: IdempotencyKey | None = None) -> Answer:
    """Store a new order and its change, or return the stored answer of an earlier request with the same key.

    Raises:
        IdempotencyKeyReusedError: the key was used for other content.
        OrderIdTakenError: the id that the caller chose is, or was, another order's.
        ServicesNotOrderableError: a service is unknown or archived.
        CalendarNameTakenError: the calendar is new, and its name differs only in case from another's.
        OrdersTooCloseError: the 3-hour rule.
        ContentionError: other transactions kept interfering.

    """
    return await _create_once(key, new)


@idempotent
async def _create_once(new: NewOrder) -> str:
    return (await _create(new)).json


@dataclass
class _PreviewedError(Exception):
    """A preview succeeded; raised to roll it back."""

    order: StoredOrder


@retry_on_lock_timeout
async def preview_order(new: NewOrder) -> dict[str, Any]:
    """Do all that a create does, and roll it back. Raises what ``create_order`` raises.

    Returns the order as it would be stored, without the members that only a stored order has.
    """
    try:
        await _create_and_roll_back(new)
    except _PreviewedError as preview:
        members = read_json(preview.order.json.encode())
    return {"id": None if new.id is None else members["id"]} | {name: members[name] for name in SETTABLE}


@in_transaction(_ConflictVanishedError)
async def _create_and_roll_back(new: NewOrder) -> NoReturn:
    raise _PreviewedError(await _create(new))


async def _create(new: NewOrder) -> StoredOrder:
    if new.id is not None and await claim_ids([new.id]):
        raise OrderIdTakenError(new.id)
    at = new.datetime or current_millisecond()
    order = await _insert(new, at)
    if order is None:
        await orderable_names([service.id for service in new.services])
        if await make_calendar(new.calendar):
            order = await _insert(new, at)
        else:
            await refuse_namesakes([new.calendar])
    if order is None:
        await _refuse_if_too_close(new.calendar, at)
        raise _ConflictVanishedError
    return order


async def _insert(new: NewOrder, at: datetime) -> StoredOrder | None:
    values = values_of(new.model_copy(update={"datetime": at}))
    service_ids = [service.id for service in new.services]
    return await fetch_optional(StoredOrder, INSERT, new.id, service_ids, new.calendar, *values)


@retry_on_lock_timeout
@in_transaction(_ConflictVanishedError)
async def create_orders(batch: Sequence[NewOrder], key: IdempotencyKey | None = None) -> Answer:
    """Store all orders of a batch, or none; the rule holds between them too.

    Raises:
        IdempotencyKeyReusedError: the key was used for other content.
        ServicesNotOrderableError: a service is unknown or archived.
        CalendarNameTakenError: calendars are new, and their names differ only in case from others.
        BatchRefusedError: some ids are taken or some orders too close to others; each is named.
        ContentionError: other transactions kept interfering.

    """
    return await _create_all_once(key, batch)


@idempotent
async def _create_all_once(batch: Sequence[NewOrder]) -> str:
    return f'{{"orders":[{",".join(order.json for order in await _create_all(batch))}]}}'


async def _create_all(batch: Sequence[NewOrder]) -> list[StoredOrder]:
    now = current_millisecond()
    taken = await claim_ids([new.id for new in batch if new.id is not None])
    places = [
        (f"#/orders/{index}/services/{place}/id", service.id)
        for index, new in enumerate(batch)
        for place, service in enumerate(new.services)
    ]
    await refuse_unless_orderable(places)
    try:
        ids = await calendar_ids({new.calendar for new in batch})
    except CalendarNameTakenError as refusal:
        existing = {namesake.name: namesake for namesake in refusal.namesakes}
        places_of = {f"#/orders/{i}/calendar": existing.get(new.calendar) for i, new in enumerate(batch)}
        namesakes = {pointer: namesake for pointer, namesake in places_of.items() if namesake}
        raise CalendarNameTakenError(list(namesakes.values()), list(namesakes)) from None
    await lock_calendars(ids.values())
    stored: dict[int, StoredOrder] = {}
    refusals: list[tuple[int, OrdersTooCloseError | OrderIdTakenError]] = []
    for index, new in enumerate(batch):
        if new.id in taken:
            refusals.append((index, OrderIdTakenError(new.id)))
            continue
        at = new.datetime or now
        order = await _insert(new, at)
        if order is not None:
            stored[index] = order
            continue
        # The batch's earlier orders are stored by now, so they are among the conflicts.
        try:
            await _refuse_if_too_close(new.calendar, at)
        except OrdersTooCloseError as refusal:
            indexes = {order.id: index for index, order in stored.items()}
            refusal.conflicts = [replace(c, index=indexes.get(c.id)) for c in refusal.conflicts]
            refusals.append((index, refusal))
        else:
            raise _ConflictVanishedError
    if refusals:
        raise BatchRefusedError(refusals)
    return list(stored.values())


class _LockedOrder(msgspec.Struct, frozen=True):
    """What an update reads of the current order."""

    version: int
    datetime: datetime
    totalfee: Decimal
    service_ids: list[int]
    service_names: list[str]
    calendar_id: int
    calendar: str
    import_id: int


# A create needs no calendar lock, so one may still take the place between our check and our UPDATE. Then the
# constraint refuses the UPDATE, and the next attempt names the conflict.
@retry_on_lock_timeout
@in_transaction(asyncpg.ExclusionViolationError)
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
        ContentionError: other transactions kept interfering.

    """
    current = await fetch_optional(_LockedOrder, _LOCK_ORDER, order_id)
    if current is None:
        raise OrderNotFoundError(order_id)
    _check_preconditions(order_id, current.version, preconditions)
    if change.version not in (None, current.version):
        raise VersionMismatchError(order_id, current.version, stated=change.version)
    members = change.model_dump(
        exclude={"id", "services", "version"}, exclude_unset=isinstance(change, OrderPatch)
    )
    wanted = msgspec.structs.replace(current, **members)
    if change.services is not None:
        service_ids = [service.id for service in change.services]
        wanted = msgspec.structs.replace(
            wanted,
            service_ids=sorted(service_ids),
            service_names=await orderable_names(service_ids, order_id),
        )
    if wanted == current:
        return await find_order(order_id)
    moves = (wanted.datetime, wanted.calendar) != (current.datetime, current.calendar)
    if moves:
        calendar_id = (await calendar_ids([wanted.calendar]))[wanted.calendar]
        import_id = await fetch_value(int, _IMPORT_ID_THERE, order_id, calendar_id, wanted.datetime)
        wanted = msgspec.structs.replace(wanted, calendar_id=calendar_id, import_id=import_id)
        # The calendar that it leaves is locked too: two orders that swap calendars would deadlock otherwise.
        await lock_calendars({current.calendar_id, calendar_id})
        await _refuse_if_too_close(wanted.calendar, wanted.datetime, order_id, import_id)
    order = await fetch_optional(
        StoredOrder,
        _UPDATE,
        order_id,
        wanted.service_ids,
        wanted.service_names,
        wanted.calendar_id,
        wanted.import_id,
        *values_of(wanted),
    )
    if order is None:
        raise OrderNotFoundError(order_id)
    return order


@retry_on_lock_timeout
async def delete_order(order_id: int, preconditions: Preconditions | None = None) -> None:
    """Delete an order and record that. Its place is free as soon as this returns.

    Raises:
        OrderNotFoundError: there is no such order, or no longer.
        VersionMismatchError: its version is one that the preconditions exclude.

    """
    async with transaction():
        versions = await fetch_values(int, "DELETE FROM orders WHERE id = $1 RETURNING version", order_id)
        if not versions:
            raise OrderNotFoundError(order_id)
        # Checked after the deletion, which is rolled back if need be: the row can't change in between.
        _check_preconditions(order_id, versions[0], preconditions)


def _check_preconditions(order_id: int, version: int, preconditions: Preconditions | None) -> None:
    if preconditions is not None and not preconditions.hold_at(version):
        tags = preconditions.if_match
        raise VersionMismatchError(order_id, version, tags.weak_tag_of(version) if tags else None)


async def claim_ids(order_ids: Collection[int]) -> set[int]:
    """Claim ids for new orders, permanently; return those that are, or were, the ids of other orders."""
    return set(order_ids) - set(await fetch_values(int, _CLAIM_IDS, list(order_ids)))


async def _refuse_if_too_close(
    calendar: str, at: datetime, order_id: int | None = None, import_id: int | None = None
) -> None:
    conflicts = await conflicts_near(calendar, at, order_id, import_id)
    if conflicts:
        before, after = await nearest_free(calendar, at, order_id)
        raise OrdersTooCloseError(calendar, at, conflicts, before, after)
