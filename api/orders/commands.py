"""Changing orders: each command is one transaction, and the only place that commits.

An order's row is written together with its change: the trigger ``orders_record_change`` records it in the
same statement, so there is no path on which one is stored without the other. Nothing here touches Redis.

Locks are always taken in this order, so that no two commands ever wait for each other:
an Idempotency-Key → ids that callers claim (ascending) → the order's row → calendars that do not exist yet
(by name) → the advisory locks of calendars (by id) → a place on a calendar, inside the exclusion constraint.
Creates of single orders take no calendar lock: with ``ON CONFLICT DO NOTHING`` they hold no place while
they wait for one, so they can be waited for but never close a circle.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import asyncpg

from api.orders.bodies import OrderPatch, OrderReplacement
from api.orders.errors import (
    BatchRefusedError,
    ContentionError,
    OrderIdTakenError,
    OrderNotFoundError,
    OrdersTooCloseError,
    ServicesNotOrderableError,
    VersionMismatchError,
)
from api.orders.queries import StoredOrder, conflicts_near, nearest_free
from shared.database.locks import CALENDAR_LOCK
from shared.database.rows import row, rows
from shared.database.transaction import retry_on_lock_timeout, transaction

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from api.idempotency import IdempotencyKey
    from api.orders.bodies import NewOrder
    from api.preconditions import Preconditions


ATTEMPTS = 5
"""How often a command looks again when what stood in its way was gone by the time it looked."""

# One statement. No row comes back when the place is taken, a service can't be ordered or there is no such
# calendar yet: the caller finds out which.
_STORE = """
WITH ordered AS (
    SELECT array_agg(id ORDER BY id) AS ids, array_agg(name ORDER BY id) AS names
    FROM service WHERE id = ANY($4::bigint[]) AND archived_at IS NULL
)
INSERT INTO orders (id, datetime, totalfee, service_ids, service_names, calendar_id)
SELECT
    coalesce($1::bigint, nextval('orders_id_seq')),
    $2::timestamptz, $3::numeric, ordered.ids, ordered.names, calendar.id
FROM ordered, calendar
WHERE cardinality(ordered.ids) = cardinality($4::bigint[]) AND calendar.name = $5::text
ON CONFLICT DO NOTHING
RETURNING id, version, order_json(orders) AS json
"""


class _GoneByNowError(Exception):
    """What stood in the way is gone: roll back and look again."""


@retry_on_lock_timeout
async def create_order(new: NewOrder, key: IdempotencyKey | None = None) -> StoredOrder:
    """Store a new order and its change, or give the order that an earlier try with the same key stored.

    Raises:
        IdempotencyKeyReusedError: the key was used for other content.
        OrderIdTakenError: the id that the caller gave names another order, or did.
        ServicesNotOrderableError: a service is unknown or archived.
        OrdersTooCloseError: the 3-hour rule.
        ContentionError: others kept getting in between.

    """
    for _ in range(ATTEMPTS):
        # Raising rolls back also the key, the claim and the new calendar: a refusal leaves nothing behind.
        with suppress(_GoneByNowError):
            async with transaction():
                answered = await key.claim() if key else None
                if answered is not None:
                    return StoredOrder.replay(answered)
                stored = await _create(new)
                if key:
                    await key.keep(stored.json)
                return stored
    raise ContentionError


@dataclass
class _RehearsedError(Exception):
    """A rehearsal ended well; raised to roll it back."""

    order: StoredOrder


@retry_on_lock_timeout
async def rehearse_order(new: NewOrder) -> StoredOrder:
    """Do all that a create does, and undo it; raises what ``create_order`` raises."""
    for _ in range(ATTEMPTS):
        with suppress(_GoneByNowError):
            try:
                async with transaction():
                    raise _RehearsedError(await _create(new))  # noqa: TRY301 (only raising rolls back)
            except _RehearsedError as rehearsed:
                return rehearsed.order
    raise ContentionError


async def _create(new: NewOrder) -> StoredOrder:
    if new.id is not None and await claim_ids([new.id]):
        raise OrderIdTakenError(new.id)
    service_ids = [service.id for service in new.services]
    at = new.datetime or datetime.now(UTC)
    stored = await _store(new, at, service_ids)
    if stored is None:
        await _orderable_names(service_ids)
        if await make_calendar(new.calendar):
            stored = await _store(new, at, service_ids)
    if stored is None:
        await _refuse_if_too_close(new.calendar, at, None)
        raise _GoneByNowError
    return stored


async def _store(new: NewOrder, at: datetime, service_ids: list[int]) -> StoredOrder | None:
    stored = await row(_STORE, new.id, at, new.totalfee, service_ids, new.calendar)
    return StoredOrder(**stored) if stored else None


@retry_on_lock_timeout
async def create_orders(
    batch: Sequence[NewOrder], key: IdempotencyKey | None = None
) -> Sequence[StoredOrder]:
    """Store all orders of a batch, or none; the rule holds between them too.

    Raises:
        IdempotencyKeyReusedError: the key was used for other content.
        ServicesNotOrderableError: a service is unknown or archived.
        BatchRefusedError: ids are taken or orders are in the way, for each order that can't be stored.
        ContentionError: others kept getting in between.

    """
    for _ in range(ATTEMPTS):
        with suppress(_GoneByNowError):
            async with transaction():
                answered = await key.claim() if key else None
                if answered is not None:
                    return [StoredOrder.replay(line) for line in answered.splitlines()]
                stored = await _create_all(batch)
                if key:
                    await key.keep("\n".join(order.json for order in stored))
                return stored
    raise ContentionError


async def _create_all(batch: Sequence[NewOrder]) -> list[StoredOrder]:
    now = datetime.now(UTC)
    taken = await claim_ids([new.id for new in batch if new.id is not None])
    places = [
        (f"#/orders/{index}/services/{place}/id", service.id)
        for index, new in enumerate(batch)
        for place, service in enumerate(new.services)
    ]
    await _refuse_unless_orderable(places)
    ids = await calendar_ids({new.calendar for new in batch})
    await lock_calendars(ids.values())
    stored: dict[int, StoredOrder] = {}
    refusals: list[tuple[int, OrdersTooCloseError | OrderIdTakenError]] = []
    for index, new in enumerate(batch):
        if new.id in taken:
            refusals.append((index, OrderIdTakenError(new.id)))
            continue
        at = new.datetime or now
        order = await _store(new, at, [service.id for service in new.services])
        if order is not None:
            stored[index] = order
            continue
        # The batch's earlier orders are stored by now, so they are among those in the way.
        try:
            await _refuse_if_too_close(new.calendar, at, None)
        except OrdersTooCloseError as refusal:
            indexes = {order.id: index for index, order in stored.items()}
            refusal.conflicts = [replace(c, index=indexes.get(c.id)) for c in refusal.conflicts]
            refusals.append((index, refusal))
        else:
            raise _GoneByNowError
    if refusals:
        raise BatchRefusedError(refusals)
    return list(stored.values())


async def replace_order(
    order_id: int, new: OrderReplacement, meant: Preconditions | None = None
) -> StoredOrder:
    """Replace an order, if it is at a version that is ``meant``. It never creates one.

    Raises:
        OrderNotFoundError: there is no such order.
        VersionMismatchError: it is at another version.
        ServicesNotOrderableError: a service that the order did not have yet is unknown or archived.
        OrdersTooCloseError: it would move to where another order is near.
        ContentionError: others kept getting in between.

    """
    return await _update(order_id, new, meant)


async def patch_order(order_id: int, patch: OrderPatch, meant: Preconditions | None = None) -> StoredOrder:
    """Change what a merge patch names and leave the rest. Raises what ``replace_order`` raises."""
    return await _update(order_id, patch, meant)


@retry_on_lock_timeout
async def delete_order(order_id: int, meant: Preconditions | None = None) -> None:
    """Delete an order and record that. Its place is free as soon as this returns.

    Raises:
        OrderNotFoundError: there is no such order, or not any more.
        VersionMismatchError: it is at another version than is ``meant``.

    """
    async with transaction():
        deleted = await row("DELETE FROM orders WHERE id = $1 RETURNING version", order_id)
        if deleted is None:
            raise OrderNotFoundError(order_id)
        # Looked at behind the deletion, which is rolled back: the row can't change in between.
        _refuse_unless_meant(order_id, deleted["version"], meant)


def _refuse_unless_meant(order_id: int, version: int, meant: Preconditions | None) -> None:
    if meant is not None and not meant.hold_at(version):
        raise VersionMismatchError(order_id, version)


@retry_on_lock_timeout
async def _update(
    order_id: int, change: OrderReplacement | OrderPatch, meant: Preconditions | None
) -> StoredOrder:
    for _ in range(ATTEMPTS):
        # A create needs no calendar lock, so one may still take the place between our look and our
        # UPDATE: the constraint refuses it, and the next round says who is in the way.
        with suppress(asyncpg.ExclusionViolationError):
            async with transaction():
                return await _update_locked(order_id, change, meant)
    raise ContentionError


async def _update_locked(
    order_id: int, change: OrderReplacement | OrderPatch, meant: Preconditions | None
) -> StoredOrder:
    current = await row(
        """
        SELECT
            o.version, o.datetime, o.totalfee, o.service_ids, o.service_names, o.calendar_id,
            c.name AS calendar
        FROM orders AS o JOIN calendar AS c ON c.id = o.calendar_id WHERE o.id = $1 FOR UPDATE OF o
        """,
        order_id,
    )
    if current is None:
        raise OrderNotFoundError(order_id)
    _refuse_unless_meant(order_id, current["version"], meant)
    wanted = {
        **current,
        **change.model_dump(exclude={"id", "services"}, exclude_unset=isinstance(change, OrderPatch)),
    }
    service_ids, names = current["service_ids"], current["service_names"]
    if change.services is not None:
        service_ids = sorted(service.id for service in change.services)
        names = await _orderable_names(
            [service.id for service in change.services], already_ordered=current["service_ids"]
        )
    calendar_id = current["calendar_id"]
    moves = (wanted["datetime"], wanted["calendar"]) != (current["datetime"], current["calendar"])
    if moves:
        calendar_id = (await calendar_ids([wanted["calendar"]]))[wanted["calendar"]]
        # Also the calendar that it leaves: two orders that change places would wait for each other.
        await lock_calendars({current["calendar_id"], calendar_id})
        await _refuse_if_too_close(wanted["calendar"], wanted["datetime"], order_id)
    stored = await row(
        """
        UPDATE orders SET
            datetime = $2, totalfee = $3, service_ids = $4, service_names = $5, calendar_id = $6,
            -- an order that stays may go on standing near the others of its import; one that moves may not
            import_id = CASE WHEN $7 THEN nextval('order_import_id_seq') ELSE import_id END,
            version = version + 1, updated_at = clock_timestamp()
        WHERE id = $1
        RETURNING id, version, order_json(orders) AS json
        """,
        order_id,
        wanted["datetime"],
        wanted["totalfee"],
        service_ids,
        names,
        calendar_id,
        moves,
    )
    if stored is None:  # the row is locked
        raise OrderNotFoundError(order_id)
    return StoredOrder(**stored)


async def claim_ids(order_ids: Collection[int]) -> set[int]:
    """Claim ids for new orders, for ever; return those that are taken: they name other orders, or did."""
    claimed = await rows(
        """
        INSERT INTO claimed_order_id (id) SELECT id FROM unnest($1::bigint[]) AS id ORDER BY id
        ON CONFLICT DO NOTHING RETURNING id
        """,
        list(order_ids),
    )
    return set(order_ids) - {claim["id"] for claim in claimed}


async def make_calendar(name: str) -> bool:
    """Make a calendar if there is none of that name; tell whether this transaction made it.

    If another transaction is making it just now, this waits for that one to end.
    """
    # Its id is drawn and not counted: a sequence never takes a number back, so refused batches and rehearsals
    # would use up all there are. Where the number is another calendar's already none is made, and the caller,
    # who finds none, makes it again.
    made = await row(
        """
        INSERT INTO calendar (id, name)
        SELECT 1 + floor(random() * 2147483647)::int, $1::text
        WHERE NOT EXISTS (SELECT FROM calendar WHERE name = $1::text)
        ON CONFLICT DO NOTHING RETURNING id
        """,
        name,
    )
    return made is not None


async def calendar_ids(names: Collection[str]) -> dict[str, int]:
    """Give the ids of calendars, making those that do not exist yet."""
    ids: dict[str, int] = {}
    while len(ids) < len(names):
        for name in sorted(set(names) - set(ids)):
            await make_calendar(name)
        found = await rows("SELECT name, id FROM calendar WHERE name = ANY($1::text[])", list(names))
        ids = {calendar["name"]: calendar["id"] for calendar in found}
    return ids


async def lock_calendars(ids: Collection[int]) -> None:
    """Hold calendars until the transaction ends, against everybody else who may move orders on them."""
    await rows(
        "SELECT pg_advisory_xact_lock($1, id) FROM unnest($2::int[]) AS id", CALENDAR_LOCK, sorted(ids)
    )


async def _orderable_names(ids: Sequence[int], already_ordered: Collection[int] = ()) -> list[str]:
    """Give the names of an order's services by id; those that it already has may be archived.

    Raises:
        ServicesNotOrderableError: one is unknown or archived.

    """
    places = [(f"#/services/{place}/id", service_id) for place, service_id in enumerate(ids)]
    names = await _refuse_unless_orderable(places, already_ordered)
    return [names[service_id] for service_id in sorted(ids)]


async def _refuse_unless_orderable(
    places: Sequence[tuple[str, int]], already_ordered: Collection[int] = ()
) -> dict[int, str]:
    found = await rows(
        "SELECT id, name, archived_at FROM service WHERE id = ANY($1::bigint[])",
        list({service_id for _, service_id in places}),
    )
    services = {service["id"]: service for service in found}
    faults = []
    for pointer, service_id in places:
        service = services.get(service_id)
        if service is None:
            faults.append((pointer, f"there is no service {service_id}; GET /services lists them"))
        elif service["archived_at"] is not None and service_id not in already_ordered:
            faults.append((pointer, f"service {service_id} ({service['name']}) is archived"))
    if faults:
        raise ServicesNotOrderableError(faults)
    return {service_id: service["name"] for service_id, service in services.items()}


async def _refuse_if_too_close(calendar: str, at: datetime, order_id: int | None) -> None:
    conflicts = await conflicts_near(calendar, at, order_id)
    if conflicts:
        before, after = await nearest_free(calendar, at, order_id)
        raise OrdersTooCloseError(calendar, at, conflicts, before, after)
