"""Changing, cancelling and deleting many orders: each command is one transaction, all or nothing.

Orders may swap places, or move up one after the other, in whatever order they are named. All that take a
place leave theirs first: ``clear_until`` becomes their datetime, so they are in nobody's way. Then each is
written where it is to be, and the constraint ``orders_spacing`` judges the result. References are given up
and given in the same way. Should an order be left without, the trigger ``orders_require_place`` refuses
the commit.

Locks as in ``commands``: all rows, then all calendars, then all references, before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import asyncpg

from api.http.idempotency_keys import Answer, IdempotencyKey, idempotent
from api.orders.calendars import calendar_ids, lock_calendars, refuse_other_cells
from api.orders.current_orders import OrderChange, PendingChange, StatusChange, check_version, read_change
from api.orders.errors import (
    BatchRefusedError,
    CalendarNameTakenError,
    CalendarNotInCellError,
    OrderCancelledError,
    OrderNotFoundError,
    OrdersTooCloseError,
    ReferenceTakenError,
    ServicesNotOrderableError,
    StatusNotSettableError,
    TooMuchMetadataError,
    VersionMismatchError,
)
from api.orders.fields import CANCELLED
from api.orders.queries import StoredOrder, refuse_if_too_close
from api.orders.references import find_references, lock_references
from api.orders.transactions import in_transaction
from api.orders.updates import DELETE, WRITE_IF_FREE, arguments_of
from shared.database.statements import execute, fetch_optional
from shared.database.transaction import retry_on_lock_timeout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from api.http.attribution import Attribution
    from api.orders.errors import Refusal
    from api.orders.write_bodies import OrderOfBatch, PatchOfBatch

_LEAVE = """
UPDATE orders SET
    clear_until = CASE WHEN id = ANY($1::bigint[]) THEN datetime ELSE clear_until END,
    reference = CASE WHEN id = ANY($2::bigint[]) THEN NULL ELSE reference END
WHERE id = ANY($1::bigint[] || $2::bigint[])
"""

_FAULTS = (
    OrderNotFoundError,
    VersionMismatchError,
    ServicesNotOrderableError,
    StatusNotSettableError,
    TooMuchMetadataError,
    OrderCancelledError,
)


class _ConflictChangedError(Exception):
    """A conflict was there a moment ago and is gone, or has just come: roll back and try again."""


@dataclass
class _Batch:
    """The items of a batch that may be written, and why others may not, by their index."""

    pending: dict[int, PendingChange] = field(default_factory=dict)
    refusals: dict[int, Refusal] = field(default_factory=dict)

    def refuse(self, index: int, refusal: Refusal) -> None:
        """Leave an item out, and say why."""
        self.pending.pop(index, None)
        self.refusals[index] = refusal


@retry_on_lock_timeout
@in_transaction(_ConflictChangedError)
async def update_orders(patches: Sequence[PatchOfBatch], attribution: Attribution) -> Answer:
    """Change orders as merge patches say, all or none. The rule holds for where they are at the end.

    Raises:
        BatchRefusedError: some can't be changed; each is named, with what ``update_order`` would raise.
        ContentionError: other transactions kept interfering.

    """
    return await _change_all({patch.id: patch for patch in patches}, "changed", attribution)


@retry_on_lock_timeout
@in_transaction(_ConflictChangedError)
async def cancel_orders(
    orders: Sequence[OrderOfBatch], attribution: Attribution, key: IdempotencyKey | None = None
) -> Answer:
    """Cancel orders, all or none. Those that are cancelled already stay as they are.

    Raises:
        IdempotencyKeyReusedError: the key was used for other content.
        BatchRefusedError: some can't be cancelled; each is named.
        ContentionError: other transactions kept interfering.

    """
    changes = {order.id: StatusChange(CANCELLED, order.version) for order in orders}
    return await _change_all_once(key, changes, "cancelled", attribution)


@retry_on_lock_timeout
@in_transaction(_ConflictChangedError)
async def delete_orders(
    orders: Sequence[OrderOfBatch], attribution: Attribution, key: IdempotencyKey | None = None
) -> Answer:
    """Delete orders, all or none; the answer has them as they were.

    Raises:
        IdempotencyKeyReusedError: the key was used for other content.
        BatchRefusedError: some can't be deleted; each is named.
        ContentionError: other transactions kept interfering.

    """
    return await _delete_all_once(key, orders, attribution)


@idempotent
async def _delete_all_once(orders: Sequence[OrderOfBatch], attribution: Attribution) -> Answer:
    refusals: dict[int, Refusal] = {}
    stored: dict[int, StoredOrder] = {}
    for index, order in sorted(enumerate(orders), key=lambda item: item[1].id):
        deleted = await fetch_optional(StoredOrder, DELETE, order.id, *attribution.values)
        if deleted is None:
            refusals[index] = OrderNotFoundError(order.id)
            continue
        stored[index] = deleted
        try:
            check_version(order.id, deleted.version, deleted.format, None, order.version)
        except VersionMismatchError as refusal:
            refusals[index] = refusal
    if refusals:
        raise BatchRefusedError(sorted(refusals.items(), key=_index_of), "deleted")
    return _answer(stored)


async def _change_all(
    changes: Mapping[int, OrderChange], participle: str, attribution: Attribution
) -> Answer:
    """Change orders, in this order; ``participle`` says what is done to them."""
    batch = _Batch()
    for index, (order_id, change) in sorted(enumerate(changes.items()), key=lambda item: item[1][0]):
        try:
            batch.pending[index] = await read_change(order_id, change, lock=True)
        except _FAULTS as refusal:
            batch.refusals[index] = refusal
    await _find_calendars(batch)
    await _leave(batch)
    await _refuse_taken_references(batch)
    stored = await _write(batch, attribution)
    if batch.refusals:
        raise BatchRefusedError(sorted(batch.refusals.items(), key=_index_of), participle)
    written = (stored[index] for index, pending in batch.pending.items() if not pending.changes_nothing)
    return _answer(stored, next(written, None))


_change_all_once = idempotent(_change_all)


def _answer(orders: Mapping[int, StoredOrder], written: StoredOrder | None = None) -> Answer:
    return Answer(
        f'{{"orders":[{",".join(orders[index].json for index in sorted(orders))}]}}',
        written=None if written is None else (written.id, written.version),
    )


def _index_of(refused: tuple[int, Refusal]) -> int:
    return refused[0]


async def _find_calendars(batch: _Batch) -> None:
    """Find the calendars that orders move to, or make them; refuse those that can't be made."""
    moving = {index: pending for index, pending in batch.pending.items() if pending.takes_a_place}
    missing = {p.wanted.calendar for p in moving.values() if p.current.wanted_calendar_id is None}
    ids: dict[str, int] = {}
    try:
        await refuse_other_cells(missing)
    except CalendarNotInCellError as refusal:
        missing -= set(refusal.names)
        for index, pending in moving.items():
            if pending.wanted.calendar in refusal.names:
                batch.refuse(index, CalendarNotInCellError(refusal.cell, [pending.wanted.calendar]))
    if missing:
        try:
            ids = await calendar_ids(missing)
        except CalendarNameTakenError as refusal:
            taken = {namesake.name: namesake for namesake in refusal.namesakes}
            ids = await calendar_ids(missing - taken.keys())
            for index, pending in moving.items():
                if pending.wanted.calendar in taken:
                    batch.refuse(index, CalendarNameTakenError([taken[pending.wanted.calendar]]))
    for index in moving.keys() & batch.pending.keys():
        pending = batch.pending[index]
        calendar_id = pending.current.wanted_calendar_id or ids[pending.wanted.calendar]
        batch.pending[index] = pending.on_calendar(calendar_id)


async def _leave(batch: _Batch) -> None:
    """Lock what the orders leave and take, and free the places and references that they leave."""
    pending = batch.pending.values()
    if calendars := {calendar_id for one in pending for calendar_id in one.calendars}:
        await lock_calendars(calendars)
    await lock_references({reference for one in pending for reference in one.references})
    leaving = [one.order_id for one in pending if one.takes_a_place]
    renamed = [one.order_id for one in pending if one.references and one.current.reference]
    if leaving or renamed:
        await execute(_LEAVE, leaving, renamed)


async def _refuse_taken_references(batch: _Batch) -> None:
    indexes = {
        pending.wanted.reference: index
        for index, pending in batch.pending.items()
        if pending.references and pending.wanted.reference is not None
    }
    if indexes:
        for reference, order_id in (await find_references(indexes)).items():
            batch.refuse(indexes[reference], ReferenceTakenError(reference, order_id))


async def _write(batch: _Batch, attribution: Attribution) -> dict[int, StoredOrder]:
    """Write every order that can be written, and refuse those that others are too close to at the end."""
    stored: dict[int, StoredOrder] = {}
    for index, pending in sorted(batch.pending.items(), key=lambda item: item[0]):
        if pending.changes_nothing:
            stored[index] = pending.stored
            continue
        try:
            order = await fetch_optional(StoredOrder, WRITE_IF_FREE, *arguments_of(pending, attribution))
        except (asyncpg.ExclusionViolationError, asyncpg.UniqueViolationError):
            raise _ConflictChangedError from None
        if order is not None:
            stored[index] = order
    indexes = {order.id: index for index, order in stored.items()}
    for index in batch.pending.keys() - stored.keys():
        pending = batch.pending[index]
        wanted, import_id = pending.wanted, pending.current.import_there
        try:
            await refuse_if_too_close(wanted.calendar, wanted.datetime, pending.order_id, import_id)
        except OrdersTooCloseError as refusal:
            refusal.conflicts = [replace(c, index=indexes.get(c.id)) for c in refusal.conflicts]
            batch.refuse(index, refusal)
        else:
            raise _ConflictChangedError
    return stored
