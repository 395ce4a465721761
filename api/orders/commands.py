"""Creating orders: each command is one transaction, often a single statement; nothing below it commits.

An order's row is written together with its change: the trigger ``orders_record_creation`` records it in the
same statement, so there is no path on which one is stored without the other. Nothing here touches Redis.

Locks are always taken in this order, so that no two commands can deadlock:
an Idempotency-Key → ids that callers claim (ascending) → orders' rows (by id) → calendars that do not exist
yet (by name) → the advisory locks of calendars (by id) → those of references (by bucket) → a calendar's
spacing, in a trigger → a place on a calendar (inside the exclusion constraint) or a reference (its index).
Creates of single orders take no lock of calendars or references: with ``ON CONFLICT DO NOTHING`` they hold
neither a place nor a reference while they wait for one, so others may wait for them, but never in a cycle.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import asyncpg

from api.http.attribution import ATTRIBUTION_VALUES, Attribution, set_attribution
from api.http.idempotency_keys import (
    Answer,
    IdempotencyKey,
    idempotent,
    lock_of_key,
    store_with_key,
)
from api.http.times import current_millisecond
from api.orders.calendars import (
    calendar_ids,
    lock_calendars,
    make_calendar,
    refuse_namesakes,
    refuse_other_cells,
)
from api.orders.errors import (
    BatchRefusedError,
    CalendarNameTakenError,
    CalendarNotInCellError,
    OrderIdTakenError,
    OrdersTooCloseError,
    ReferenceTakenError,
    ServicesNotOrderableError,
)
from api.orders.members import COLUMNS, STORED_AS_SENT, parameters, values_of
from api.orders.orderable_services import orderable_names, refuse_unless_orderable
from api.orders.queries import StoredOrder, refuse_if_too_close
from api.orders.references import lock_references, refuse_if_reference_is_taken
from api.orders.transactions import in_transaction
from shared.database.statements import fetch_optional, fetch_values
from shared.database.transaction import fetch_and_commit, retry_on_lock_timeout
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from api.orders.bodies import NewOrder


_ATTRIBUTION = 4 + len(STORED_AS_SENT)
"""The first parameter of ``Attribution.values``."""


def _insert_statement(first: str = "") -> str:
    """Write the statement that stores an order; ``first`` is read before anything is written.

    No row comes back when the place or the reference is taken, a service can't be ordered or the calendar
    does not exist yet.
    The calling function finds out which.
    """
    return f"""
    WITH ordered AS (
        SELECT array_agg(id ORDER BY id) AS ids, array_agg(name ORDER BY id) AS names
        FROM service WHERE id = ANY($2::bigint[]) AND archived_at IS NULL
    )
    INSERT INTO orders (id, service_ids, service_names, calendar_id, {COLUMNS})
    SELECT
        coalesce($1::bigint, nextval('orders_id_seq')), ordered.ids, ordered.names, calendar.id,
        {parameters(4)}
    FROM {first} ordered, calendar, (SELECT {set_attribution(_ATTRIBUTION)}) AS attributed
    WHERE cardinality(ordered.ids) = cardinality($2::bigint[]) AND calendar.name = $3::text
      AND calendar.deleted_at IS NULL
    ON CONFLICT DO NOTHING
    RETURNING id, version, format, rendered AS json
    """


INSERT = _insert_statement()

_KEY = _ATTRIBUTION + ATTRIBUTION_VALUES
"""The first parameter after those of ``INSERT``."""

INSERT_WITH_KEY = f"""
WITH locked AS MATERIALIZED (SELECT {lock_of_key(_KEY)}),
stored AS ({_insert_statement("locked,")}),
answered AS ({store_with_key(_KEY, "SELECT json::text, format FROM stored")})
SELECT * FROM stored
"""

# The sequence started at 10^12 once, so orders may have ids that callers can choose now.
_CLAIM_IDS = """
INSERT INTO claimed_order_id (id) SELECT id FROM unnest($1::bigint[]) AS wanted (id)
WHERE NOT EXISTS (SELECT FROM orders WHERE orders.id = wanted.id)
  AND NOT EXISTS (SELECT FROM deleted_order WHERE deleted_order.id = wanted.id)
ORDER BY id
ON CONFLICT DO NOTHING RETURNING id
"""


class _ConflictVanishedError(Exception):
    """A conflict was there a moment ago and is gone: roll back and try again."""


@retry_on_lock_timeout
async def create_order(new: NewOrder, attribution: Attribution, key: IdempotencyKey | None = None) -> Answer:
    """Store a new order and its change, or return the stored answer of an earlier request with the same key.

    Raises:
        IdempotencyKeyReusedError: the key was used for other content.
        OrderIdTakenError: the id that the caller chose is, or was, another order's.
        ServicesNotOrderableError: a service is unknown or archived.
        CalendarNameTakenError: the calendar is new, and its name differs only in case from another's.
        CalendarNotInCellError: this is a cell, and has no such calendar.
        ReferenceTakenError: another order has the reference.
        OrdersTooCloseError: another order on the calendar is nearer than its spacing.
        ContentionError: other transactions kept interfering.

    """
    # An answer that is to be encrypted comes here first, so it needs a second statement.
    is_one_statement = new.id is None and not (key and settings().secret_keys.encrypts)
    order = await _create_at_once(new, attribution, key) if is_one_statement else None
    if order is not None:
        return Answer(order.json, order.format)
    return await _create_in_transaction(new, attribution, key)


async def _create_at_once(
    new: NewOrder, attribution: Attribution, key: IdempotencyKey | None
) -> StoredOrder | None:
    """Store an order by one statement that commits by itself; None if it needs more than that.

    Raises:
        ServicesNotOrderableError, ReferenceTakenError, OrdersTooCloseError: as ``create_order``.

    """
    at = new.datetime or current_millisecond()
    statement, of_key = (INSERT_WITH_KEY, key.values) if key else (INSERT, ())
    try:
        arguments = _arguments_of(new, at, attribution)
        order = await fetch_and_commit(StoredOrder, statement, *arguments, *of_key)
    except (asyncpg.UniqueViolationError, asyncpg.ForeignKeyViolationError):
        return None  # the key was used before; or the calendar was deleted right now
    if order is None:
        try:
            await orderable_names([service.id for service in new.services])
            await refuse_if_reference_is_taken(new.reference)
            await refuse_if_too_close(new.calendar, at)
        except (ServicesNotOrderableError, ReferenceTakenError, OrdersTooCloseError):
            # Looked up after the refusal: the order in the way may be the one that was stored with the key.
            if key and await key.is_used():
                return None
            raise
    return order


@in_transaction(_ConflictVanishedError)
async def _create_in_transaction(
    new: NewOrder, attribution: Attribution, key: IdempotencyKey | None
) -> Answer:
    return await _create_once(key, new, attribution)


@idempotent
async def _create_once(new: NewOrder, attribution: Attribution) -> Answer:
    order = await _create(new, attribution)
    return Answer(order.json, order.format)


async def _create(new: NewOrder, attribution: Attribution) -> StoredOrder:
    if new.id is not None and await claim_ids([new.id]):
        raise OrderIdTakenError(new.id)
    at = new.datetime or current_millisecond()
    order = await _insert(new, at, attribution)
    if order is None:
        await orderable_names([service.id for service in new.services])
        await refuse_if_reference_is_taken(new.reference)
        await refuse_other_cells([new.calendar])
        if await make_calendar(new.calendar):
            order = await _insert(new, at, attribution)
        else:
            await refuse_namesakes([new.calendar])
    if order is None:
        await refuse_if_reference_is_taken(new.reference)
        await refuse_if_too_close(new.calendar, at)
        raise _ConflictVanishedError
    return order


async def _insert(new: NewOrder, at: datetime, attribution: Attribution) -> StoredOrder | None:
    return await fetch_optional(StoredOrder, INSERT, *_arguments_of(new, at, attribution))


def _arguments_of(new: NewOrder, at: datetime, attribution: Attribution) -> list[object]:
    values = values_of(new if new.datetime else new.model_copy(update={"datetime": at}))
    return [new.id, [service.id for service in new.services], new.calendar, *values, *attribution.values]


@retry_on_lock_timeout
@in_transaction(_ConflictVanishedError)
async def create_orders(
    batch: Sequence[NewOrder], attribution: Attribution, key: IdempotencyKey | None = None
) -> Answer:
    """Store all orders of a batch, or none; the rule holds between them too.

    Raises:
        IdempotencyKeyReusedError: the key was used for other content.
        ServicesNotOrderableError: a service is unknown or archived.
        CalendarNameTakenError: calendars are new, and their names differ only in case from others.
        CalendarNotInCellError: this is a cell, and has no such calendars.
        BatchRefusedError: some ids or references are taken or some orders too close; each is named.
        ContentionError: other transactions kept interfering.

    """
    return await _create_all_once(key, batch, attribution)


@idempotent
async def _create_all_once(batch: Sequence[NewOrder], attribution: Attribution) -> Answer:
    orders = await _create_all(batch, attribution)
    return Answer(f'{{"orders":[{",".join(order.json for order in orders)}]}}')


async def _create_all(batch: Sequence[NewOrder], attribution: Attribution) -> list[StoredOrder]:
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
    except CalendarNotInCellError as refusal:
        named = [f"#/orders/{i}/calendar" for i, new in enumerate(batch) if new.calendar in refusal.names]
        raise CalendarNotInCellError(refusal.cell, refusal.names, named) from None
    await lock_calendars(ids.values())
    await lock_references(new.reference for new in batch)
    stored: dict[int, StoredOrder] = {}
    refusals: list[tuple[int, OrdersTooCloseError | OrderIdTakenError | ReferenceTakenError]] = []
    for index, new in enumerate(batch):
        if new.id in taken:
            refusals.append((index, OrderIdTakenError(new.id)))
            continue
        at = new.datetime or now
        order = await _insert(new, at, attribution)
        if order is not None:
            stored[index] = order
            continue
        # The batch's earlier orders are stored by now, so they are among the conflicts.
        try:
            await refuse_if_reference_is_taken(new.reference)
            await refuse_if_too_close(new.calendar, at)
        except ReferenceTakenError as refusal:
            refusals.append((index, refusal))
        except OrdersTooCloseError as refusal:
            indexes = {order.id: index for index, order in stored.items()}
            refusal.conflicts = [replace(c, index=indexes.get(c.id)) for c in refusal.conflicts]
            refusals.append((index, refusal))
        else:
            raise _ConflictVanishedError
    if refusals:
        raise BatchRefusedError(refusals)
    return list(stored.values())


async def claim_ids(order_ids: Collection[int]) -> set[int]:
    """Claim ids for new orders, permanently; return those that are, or were, the ids of other orders."""
    return set(order_ids) - set(await fetch_values(int, _CLAIM_IDS, list(order_ids)))
