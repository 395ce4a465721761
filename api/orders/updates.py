"""Updating and deleting orders: each command is one transaction, committed here; locks as in ``commands``."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import asyncpg
import msgspec

from api.orders.bodies import OrderPatch, OrderReplacement
from api.orders.calendars import calendar_ids, lock_calendars
from api.orders.errors import OrderNotFoundError, VersionMismatchError
from api.orders.members import COLUMNS, parameters, values_of
from api.orders.orderable_services import orderable_names
from api.orders.queries import StoredOrder, find_order, refuse_if_too_close
from api.orders.transactions import in_transaction
from shared.database.statements import fetch_optional, fetch_value, fetch_values
from shared.database.transaction import retry_on_lock_timeout, transaction

if TYPE_CHECKING:
    from api.http.entity_tags import Preconditions

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
        await refuse_if_too_close(wanted.calendar, wanted.datetime, order_id, import_id)
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
