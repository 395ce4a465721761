"""Comparing a file's orders with what is stored, and with each other, before any of them is stored."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from api.http.fields import GREATEST_CALLERS_ID
from api.orders.calendars import calendar_ids
from api.orders.commands import claim_ids
from api.orders.errors import CalendarNameTakenError, ImportRefusedError
from api.orders.spacing import CLEARANCE
from shared.database.statements import fetch_all, fetch_values

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from api.orders.import_faults import FaultReport
    from api.orders.imported_orders import ImportedOrder

_FIND_SERVICES = "SELECT id, archived_at FROM service WHERE id = ANY($1::bigint[])"

_FIND_TOO_CLOSE = """
SELECT n.place, o.id, utc_text(o.datetime) AS datetime
FROM unnest($1::int[], $2::timestamptz[], $3::int[], $5::bigint[]) AS n (place, at, calendar_id, import_id)
CROSS JOIN LATERAL (
    SELECT id, datetime FROM orders
    WHERE orders.calendar_id = n.calendar_id
      AND datetime > n.at - $4::interval AND datetime < n.at + $4::interval
      AND orders.import_id IS DISTINCT FROM n.import_id
    ORDER BY datetime LIMIT 1
) AS o
ORDER BY n.place
"""

_FIND_EARLIER_IMPORTS = """
SELECT o.place, p.import_id
FROM unnest($1::int[], $2::bigint[], $3::timestamptz[], $4::int[]) AS o (place, id, at, calendar_id)
CROSS JOIN LATERAL (
    SELECT import_id FROM imported_place
    WHERE order_id = o.id AND calendar_id = o.calendar_id AND datetime = o.at
      AND NOT EXISTS (SELECT FROM orders WHERE orders.id = o.id)
    LIMIT 1
) AS p
"""

_FIND_STORED = "SELECT id FROM orders WHERE id = ANY($1::bigint[])"

_FIND_DELETED = """
SELECT d.id, EXISTS (SELECT FROM imported_place AS p WHERE p.order_id = d.id) AS was_imported
FROM deleted_order AS d WHERE d.id = ANY($1::bigint[])
"""


class _OrderedService(msgspec.Struct, frozen=True):
    id: int
    archived_at: datetime | None


class _TooCloseOrder(msgspec.Struct, frozen=True):
    """The place in the file of an order, and a stored order that is too close to it."""

    place: int
    id: int
    datetime: str


class _EarlierImport(msgspec.Struct, frozen=True):
    """The place in the file of an order, and the import that placed it where the file has it."""

    place: int
    import_id: int


class _DeletedOrder(msgspec.Struct, frozen=True):
    id: int
    was_imported: bool


async def claim_ids_of_file(orders: Mapping[int, ImportedOrder], faults: FaultReport) -> None:
    """Claim the file's ids, and name the orders whose ids are, or were, those of other orders.

    An order that was imported and has been deleted may be imported again.
    """
    ids = {order.id for order in orders.values() if order.id is not None}
    claimed = await claim_ids([order_id for order_id in ids if order_id <= GREATEST_CALLERS_ID])
    stored = set(await fetch_values(int, _FIND_STORED, list(ids)))
    deleted = await fetch_all(_DeletedOrder, _FIND_DELETED, list(ids))
    known = claimed | {order.id for order in deleted}
    taken = stored | (known - {order.id for order in deleted if order.was_imported})
    for place, order in orders.items():
        if order.id in taken:
            faults.add("orders", place, ".id", f"{order.id} is, or was, the id of another order")


async def calendars_of_file(orders: Mapping[int, ImportedOrder], faults: FaultReport) -> dict[str, int]:
    """Return the ids of the orders' calendars by name, making those that do not exist yet.

    Raises:
        ImportRefusedError: the name of a new one differs only in case from another's, so nothing
            can be compared with its orders.

    """
    try:
        return await calendar_ids({order.calendar for order in orders.values()})
    except CalendarNameTakenError as refusal:
        reasons = {namesake.name: namesake.reason for namesake in refusal.namesakes}
    for place, order in orders.items():
        if order.calendar in reasons:
            faults.add("orders", place, ".calendar", reasons[order.calendar])
    raise ImportRefusedError


async def check_services(
    orders: Mapping[int, ImportedOrder], in_file: Collection[int], faults: FaultReport
) -> None:
    """Name orders of services that the catalogue does not have, or that were archived before the order.

    An order keeps a service that is archived later. So one that comes with its own ``created_at`` may
    have such a service.

    Args:
        orders: the file's orders by their places.
        in_file: ids of the services that came with them. What the catalogue lacks of these has a fault
            of its own.
        faults: gets the orders' faults.

    """
    ordered = {service.id for order in orders.values() for service in order.services}
    catalogue = {
        service.id: service for service in await fetch_all(_OrderedService, _FIND_SERVICES, list(ordered))
    }
    for place, order in orders.items():
        for i, service in enumerate(order.services):
            known = catalogue.get(service.id)
            if known is None:
                may_be_ordered = service.id in in_file
            elif known.archived_at is None:
                may_be_ordered = True
            else:
                may_be_ordered = order.created_at is not None and order.created_at <= known.archived_at
            if not may_be_ordered:
                why = f"there is no service {service.id}, or it is archived"
                faults.add("orders", place, f".services[{i}].id", why)


async def check_spacing(
    orders: Mapping[int, ImportedOrder], calendars: dict[str, int], faults: FaultReport
) -> dict[int, int]:
    """Name orders that are too close to stored ones; return which earlier imports they rejoin."""
    datetimes = [order.datetime for order in orders.values()]
    calendar_of = [calendars[order.calendar] for order in orders.values()]
    ids = [order.id for order in orders.values()]
    earlier = await fetch_all(
        _EarlierImport, _FIND_EARLIER_IMPORTS, list(orders), ids, datetimes, calendar_of
    )
    rejoining = {order.place: order.import_id for order in earlier}
    too_close = await fetch_all(
        _TooCloseOrder,
        _FIND_TOO_CLOSE,
        list(orders),
        datetimes,
        calendar_of,
        CLEARANCE,
        [rejoining.get(place) for place in orders],
    )
    for order in too_close:
        faults.add(
            "orders",
            order.place,
            ".datetime",
            f"less than three hours from order {order.id} at {order.datetime} on the same calendar",
        )
    return rejoining


def check_spacing_in_file(
    orders: Mapping[int, ImportedOrder], rejoining: Mapping[int, int], faults: FaultReport
) -> None:
    """Name orders that are too close to others of the file because they will not be of one import.

    Args:
        orders: the file's orders by their places.
        rejoining: the earlier imports that some of them rejoin, by their places.
        faults: gets their faults.

    """
    if not rejoining:
        return
    latest: dict[tuple[str, int | None], int] = {}  # by calendar and import
    imports = {None, *rejoining.values()}
    for place in sorted(orders, key=lambda place: orders[place].datetime):
        order, own = orders[place], rejoining.get(place)
        for other in imports - {own}:
            before = latest.get((order.calendar, other))
            if before is not None and order.datetime - orders[before].datetime < CLEARANCE:
                why = "and only one of them returns to where an earlier import placed it"
                faults.add(
                    "orders", place, ".datetime", f"less than three hours from orders[{before}], {why}"
                )
                break
        latest[order.calendar, own] = place
