"""Comparing a file's orders with what is stored, and with each other, before any of them is stored."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from api.http.durations import duration_in_words
from api.http.fields import GREATEST_CALLERS_ID
from api.orders.calendars import calendar_ids
from api.orders.commands import claim_ids
from api.orders.errors import CalendarNameTakenError, ImportRefusedError
from api.orders.references import find_references, lock_references
from shared.database.statements import fetch_all, fetch_values

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from api.orders.imports.faults import FaultReport
    from api.orders.imports.imported_orders import ImportedOrder

_FIND_SERVICES = "SELECT id, archived_at FROM service WHERE id = ANY($1::bigint[])"

_FIND_TOO_CLOSE = """
SELECT n.place, o.id, utc_text(o.datetime) AS datetime, spacing
FROM (
    SELECT new.*, make_interval(secs => spacing_seconds) AS spacing
    FROM unnest($1::int[], $2::timestamptz[], $3::int[], $4::bigint[])
        AS new (place, at, calendar_id, import_id)
    JOIN calendar ON calendar.id = new.calendar_id
) AS n
CROSS JOIN LATERAL (
    SELECT id, datetime FROM orders
    WHERE orders.calendar_id = n.calendar_id AND orders.status = 'booked'
      AND datetime > n.at - spacing AND datetime < n.at + spacing
      AND orders.import_id IS DISTINCT FROM n.import_id
    ORDER BY datetime LIMIT 1
) AS o
ORDER BY n.place
"""

# Calendars on which orders are stored near those of the file. Orders on others need no comparison one by one.
_FIND_CALENDARS_TO_COMPARE = """
SELECT n.calendar_id
FROM unnest($1::int[], $2::timestamptz[], $3::timestamptz[]) AS n (calendar_id, earliest, latest)
JOIN calendar ON calendar.id = n.calendar_id
CROSS JOIN LATERAL (
    SELECT FROM orders
    WHERE orders.calendar_id = n.calendar_id AND orders.status = 'booked'
      AND datetime > n.earliest - make_interval(secs => spacing_seconds)
      AND datetime < n.latest + make_interval(secs => spacing_seconds)
    ORDER BY datetime LIMIT 1
) AS o
"""

_FIND_SPACINGS = """
SELECT name, make_interval(secs => spacing_seconds) AS spacing FROM calendar WHERE id = ANY($1::int[])
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

_FIND_KNOWN = """
SELECT id, 'stored' AS how FROM orders WHERE id = ANY($1::bigint[])
UNION ALL
SELECT id, 'deleted' FROM deleted_order WHERE id = ANY($1::bigint[])
UNION ALL
SELECT order_id, 'imported' FROM imported_place WHERE order_id = ANY($1::bigint[])
"""


class _OrderedService(msgspec.Struct, frozen=True):
    id: int
    archived_at: datetime | None


class _TooCloseOrder(msgspec.Struct, frozen=True):
    """The place in the file of an order, and a stored order that is too close to it."""

    place: int
    id: int
    datetime: str
    spacing: timedelta


class _CalendarSpacing(msgspec.Struct, frozen=True):
    name: str
    spacing: timedelta


class _EarlierImport(msgspec.Struct, frozen=True):
    """The place in the file of an order, and the import that placed it where the file has it."""

    place: int
    import_id: int


class _KnownOrder(msgspec.Struct, frozen=True):
    """The id of an order, and how it is known: ``stored``, ``deleted`` or ``imported``."""

    id: int
    how: str


async def claim_ids_of_file(orders: Mapping[int, ImportedOrder], faults: FaultReport) -> set[int]:
    """Claim the file's ids, and name the orders whose ids are, or were, those of other orders.

    An order that was imported and has been deleted may be imported again. Returns the ids of those.
    """
    ids = {order.id for order in orders.values() if order.id is not None}
    claimed = await claim_ids([order_id for order_id in ids if order_id <= GREATEST_CALLERS_ID])
    known = await fetch_all(_KnownOrder, _FIND_KNOWN, list(ids))
    stored, deleted, imported = (
        {order.id for order in known if order.how == how} for how in ("stored", "deleted", "imported")
    )
    taken = stored | ((claimed | deleted) - (deleted & imported))
    for place, order in orders.items():
        if order.id in taken:
            faults.add("orders", place, ".id", f"{order.id} is, or was, the id of another order")
    return imported - stored


async def check_references(orders: Mapping[int, ImportedOrder], faults: FaultReport) -> None:
    """Lock the file's references, and name orders whose reference another order has."""
    places: dict[str, int] = {}
    for place, order in orders.items():
        if order.reference is not None:
            first = places.setdefault(order.reference, place)
            if first != place:
                faults.add("orders", place, ".reference", f"is the reference of orders[{first}] too")
    await lock_references(places)
    for reference, order_id in (await find_references(places)).items():
        faults.add("orders", places[reference], ".reference", f"order {order_id} has this reference")


async def calendars_of_file(orders: Mapping[int, ImportedOrder], faults: FaultReport) -> dict[str, int]:
    """Return the ids of the orders' calendars by name, making those that do not exist yet.

    Raises:
        ImportRefusedError: the name of a new one differs only in case from another's, so nothing
            can be compared with its orders.

    """
    try:
        return await calendar_ids({order.calendar for order in orders.values()}, of_orders=False)
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


async def find_earlier_imports(
    orders: Mapping[int, ImportedOrder], calendars: Mapping[str, int], imported_ids: Collection[int]
) -> dict[int, int]:
    """Return the earlier imports that orders rejoin, by their places.

    Args:
        orders: the file's orders by their places.
        calendars: the calendars' ids by their names.
        imported_ids: ids of orders that were imported and are not stored now. Only these can rejoin one.

    """
    returning = {place: order for place, order in orders.items() if order.id in imported_ids}
    earlier = await fetch_all(
        _EarlierImport,
        _FIND_EARLIER_IMPORTS,
        list(returning),
        [order.id for order in returning.values()],
        [order.datetime for order in returning.values()],
        [calendars[order.calendar] for order in returning.values()],
    )
    return {order.place: order.import_id for order in earlier}


async def find_calendars_to_compare(
    orders: Mapping[int, ImportedOrder], calendars: Mapping[str, int]
) -> set[str]:
    """Return the names of the calendars on which stored orders may be too close to the file's."""
    datetimes: dict[str, list[datetime]] = {}
    for order in orders.values():
        datetimes.setdefault(order.calendar, []).append(order.datetime)
    ids = {calendars[name]: name for name in datetimes}
    to_compare = await fetch_values(
        int,
        _FIND_CALENDARS_TO_COMPARE,
        list(ids),
        [min(datetimes[name]) for name in ids.values()],
        [max(datetimes[name]) for name in ids.values()],
    )
    return {ids[calendar_id] for calendar_id in to_compare}


async def check_spacing(
    orders: Mapping[int, ImportedOrder],
    calendars: Mapping[str, int],
    rejoining: Mapping[int, int],
    faults: FaultReport,
) -> None:
    """Name orders that are too close to stored ones.

    Args:
        orders: orders by their places.
        calendars: the calendars' ids by their names.
        rejoining: the earlier imports that some of them rejoin, by their places.
        faults: gets their faults.

    """
    if not orders:
        return
    too_close = await fetch_all(
        _TooCloseOrder,
        _FIND_TOO_CLOSE,
        list(orders),
        [order.datetime for order in orders.values()],
        [calendars[order.calendar] for order in orders.values()],
        [rejoining.get(place) for place in orders],
    )
    for order in too_close:
        faults.add(
            "orders",
            order.place,
            ".datetime",
            f"less than {duration_in_words(order.spacing)} from order {order.id} at {order.datetime} "
            "on the same calendar",
        )


async def check_spacing_in_file(
    orders: Mapping[int, ImportedOrder],
    calendars: Mapping[str, int],
    rejoining: Mapping[int, int],
    faults: FaultReport,
) -> None:
    """Name orders that are too close to others of the file because they will not be of one import.

    Args:
        orders: the file's orders by their places.
        calendars: the calendars' ids by their names.
        rejoining: the earlier imports that some of them rejoin, by their places.
        faults: gets their faults.

    """
    if not rejoining:
        return
    rows = await fetch_all(_CalendarSpacing, _FIND_SPACINGS, list(calendars.values()))
    spacings = {calendar.name: calendar.spacing for calendar in rows}
    latest: dict[tuple[str, int | None], int] = {}  # by calendar and import
    imports = {None, *rejoining.values()}
    for place in sorted(orders, key=lambda place: orders[place].datetime):
        order, own = orders[place], rejoining.get(place)
        spacing = spacings[order.calendar]
        for other in imports - {own}:
            before = latest.get((order.calendar, other))
            if before is not None and order.datetime - orders[before].datetime < spacing:
                why = "and only one of them returns to where an earlier import placed it"
                faults.add(
                    "orders",
                    place,
                    ".datetime",
                    f"less than {duration_in_words(spacing)} from orders[{before}], {why}",
                )
                break
        latest[order.calendar, own] = place
