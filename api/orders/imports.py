"""Importing orders that have a history of their own: all of a file's orders, or none.

The orders of one import keep their datetimes, even if they are less than three hours apart: they share an
``import_id``, and the exclusion constraint compares only orders of different ones. The 3-hour rule holds
between them and all other orders. Every order is recorded as a change, like any other write.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime as Datetime  # noqa: N812 (a member is called datetime)
from typing import TYPE_CHECKING, Annotated

import asyncpg
import msgspec

from api.http.json_text import encode_text
from api.orders.bodies import NewOrder, OrderDatetime
from api.orders.calendars import calendar_ids, lock_calendars
from api.orders.commands import claim_ids
from api.orders.errors import CalendarNameTakenError, ContentionError
from api.orders.imported_services import ImportedService, add_services
from api.orders.members import COLUMNS, STORED_AS_SENT, TYPED_COLUMNS, values_of
from api.orders.spacing import CLEARANCE
from api.orders.transactions import in_transaction
from shared.database.statements import execute, fetch_all, fetch_optional, fetch_value
from shared.progress import Progress, ReportProgress, ignore_progress

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

CHUNK = 1_000
"""Orders that one statement compares or stores."""

# Retention deletes old changes, but the log's last position and the claimed ids stay: they show that the
# database has held orders.
_EVER_HELD_DATA = """
SELECT
    EXISTS (SELECT FROM orders) OR EXISTS (SELECT FROM service)
    OR EXISTS (SELECT FROM order_change) OR EXISTS (SELECT FROM claimed_order_id)
    OR EXISTS (SELECT FROM change_log WHERE last_position > 0)
"""

_INSERT_IMPORT = """
INSERT INTO order_import (sha256, file_name, orders, imported_at) VALUES ($1, $2, $3, now())
ON CONFLICT DO NOTHING RETURNING id, orders, imported_at
"""

_FIND_IMPORT = "SELECT id, orders, imported_at FROM order_import WHERE sha256 = $1"

_FIND_SERVICES = "SELECT id, archived_at IS NULL AS is_orderable FROM service WHERE id = ANY($1::bigint[])"

_INSERT_ORDERS = f"""
INSERT INTO orders (id, service_ids, service_names, calendar_id, import_id, {COLUMNS})
SELECT
    coalesce(id, nextval('orders_id_seq')),
    service_ids, ARRAY(SELECT name FROM service AS s WHERE s.id = ANY (service_ids) ORDER BY s.id),
    calendar_id, $2, {COLUMNS}
FROM json_to_recordset($1::json) AS o (id bigint, service_ids bigint[], calendar_id int, {TYPED_COLUMNS})
"""

_FIND_TOO_CLOSE = """
SELECT n.place, o.id, utc_text(o.datetime) AS datetime
FROM unnest($1::int[], $2::timestamptz[], $3::int[]) AS n (place, at, calendar_id)
CROSS JOIN LATERAL (
    SELECT id, datetime FROM orders
    WHERE orders.calendar_id = n.calendar_id
      AND datetime > n.at - $4::interval AND datetime < n.at + $4::interval
    ORDER BY datetime LIMIT 1
) AS o
ORDER BY n.place
"""


class ImportedOrder(NewOrder):
    """An order in a file: as in a create, but with a required datetime."""

    datetime: Annotated[Datetime, OrderDatetime]


@dataclass
class ImportRefusedError(Exception):
    """Nothing was imported; each of ``reasons`` begins with the place in its file of what it is about."""

    reasons: Sequence[str]


@dataclass(frozen=True)
class Imported:
    """What an import stored, or what the same file's earlier import stored."""

    orders: int
    at: Datetime
    before: bool
    """Whether the orders were imported before, and not by this import."""
    services_added: int
    """How many services this import added to the catalogue, also if its orders were imported before."""


class NotEmptyError(Exception):
    """The import was for an empty database, and this one holds data, or did."""


class _ImportRow(msgspec.Struct, frozen=True):
    id: int
    orders: int
    imported_at: Datetime


class _OrderedService(msgspec.Struct, frozen=True):
    id: int
    is_orderable: bool


class _TooCloseOrder(msgspec.Struct, frozen=True):
    """The place in the file of an order, and a stored order that is too close to it."""

    place: int
    id: int
    datetime: str


# Creates take no calendar lock, so one may take a place between our comparison and our INSERT. Then the
# constraint refuses the INSERT, and the next attempt names the conflict.
@in_transaction(retry_on=asyncpg.ExclusionViolationError)
async def import_orders(
    file_name: str,
    sha256: str,
    orders: Mapping[int, ImportedOrder],
    services: Sequence[ImportedService] = (),
    progress: ReportProgress = ignore_progress,
    *,
    faults: Sequence[str] = (),
    faulty_services: Collection[int] = (),
    only_if_empty: bool = False,
) -> Imported:
    """Store a file's orders, and the services of a file that the catalogue does not have, in one transaction.

    If the file was imported before, no order is stored or changed, but the services are added all the same.

    Args:
        file_name: the name of the file of orders, for people.
        sha256: the digest of that file, in hexadecimal; a file is imported once.
        orders: its orders by their places, from 0, ascending.
        services: the services of the other file.
        progress: is called with how many orders are compared with what is stored, then how many are stored.
        faults: faults found while the files were read. The orders and services that could be read are checked
            all the same, so that one refusal names everything.
        faulty_services: ids of services that ``faults`` is about. Orders of them are not refused for that.
        only_if_empty: import only into a database that never held orders or changes and holds no service.

    Raises:
        ImportRefusedError: there are faults; an id is taken; a service is unknown or archived; an order is
            too close to one outside of the import; a service differs from the one in the catalogue; or a
            calendar is new, and its name differs only in case from another's.
        NotEmptyError: ``only_if_empty``, and the database is not.
        ContentionError: other transactions kept interfering.

    """
    await execute("SET LOCAL statement_timeout = 0")
    if only_if_empty and await fetch_value(bool, _EVER_HELD_DATA):
        raise NotEmptyError
    this_import = await fetch_optional(_ImportRow, _INSERT_IMPORT, sha256, file_name, len(orders))
    if this_import is None:
        return await _import_services_again(sha256, services, faults)
    added, service_faults = await add_services(services)
    taken = await claim_ids({order.id for order in orders.values() if order.id is not None})
    try:
        calendars = await calendar_ids({order.calendar for order in orders.values()})
    except CalendarNameTakenError as refusal:
        existing = {namesake.name: namesake.existing for namesake in refusal.namesakes}
        namesakes = [
            f"orders[{place}].calendar: there is a calendar {existing[order.calendar]}; a name may not "
            "differ only in case"
            for place, order in orders.items()
            if order.calendar in existing
        ]
        raise ImportRefusedError([*faults, *service_faults, *namesakes]) from None
    await lock_calendars(calendars.values())
    reasons = [
        *faults,
        *service_faults,
        *(
            f"orders[{place}].id: {order.id} is, or was, the id of another order"
            for place, order in orders.items()
            if order.id in taken
        ),
        *await _unorderable(orders, {*faulty_services, *(service.id for service in services)}),
    ]
    places = list(orders.items())
    chunks = [dict(places[start : start + CHUNK]) for start in range(0, len(places), CHUNK)]
    for n, chunk in enumerate(chunks):
        progress(Progress(n * CHUNK, len(orders), "compared with what is stored", is_last_step=False))
        reasons += await _too_close(chunk, calendars)
    if reasons:
        raise ImportRefusedError(reasons)
    for n, chunk in enumerate(chunks):
        progress(Progress(n * CHUNK, len(orders), "stored"))
        await execute(_INSERT_ORDERS, _records(chunk.values(), calendars), this_import.id)
    return Imported(len(orders), this_import.imported_at, before=False, services_added=added)


async def _import_services_again(
    sha256: str, services: Sequence[ImportedService], faults: Sequence[str]
) -> Imported:
    """Import a file that was imported before: only services are added."""
    earlier_import = await fetch_optional(_ImportRow, _FIND_IMPORT, sha256)
    if earlier_import is None:  # its transaction has been rolled back since
        raise ContentionError
    added, service_faults = await add_services(services)
    if faults or service_faults:
        raise ImportRefusedError([*faults, *service_faults])
    return Imported(earlier_import.orders, earlier_import.imported_at, before=True, services_added=added)


def _records(orders: Iterable[ImportedOrder], calendars: dict[str, int]) -> str:
    return encode_text(
        [
            {
                "id": order.id,
                "service_ids": sorted(service.id for service in order.services),
                "calendar_id": calendars[order.calendar],
                **dict(zip(STORED_AS_SENT, values_of(order), strict=True)),
            }
            for order in orders
        ]
    )


async def _unorderable(orders: Mapping[int, ImportedOrder], in_file: Collection[int]) -> list[str]:
    """Name orders of services that are archived, or neither in the catalogue nor in the file of services."""
    ordered = {service.id for order in orders.values() for service in order.services}
    catalogue = await fetch_all(_OrderedService, _FIND_SERVICES, list(ordered))
    orderable = dict.fromkeys(in_file, True) | {service.id: service.is_orderable for service in catalogue}
    return [
        f"orders[{place}].services[{i}].id: there is no service {service.id}, or it is archived"
        for place, order in orders.items()
        for i, service in enumerate(order.services)
        if not orderable.get(service.id)
    ]


async def _too_close(orders: Mapping[int, ImportedOrder], calendars: dict[str, int]) -> list[str]:
    too_close = await fetch_all(
        _TooCloseOrder,
        _FIND_TOO_CLOSE,
        list(orders),
        [order.datetime for order in orders.values()],
        [calendars[order.calendar] for order in orders.values()],
        CLEARANCE,
    )
    return [
        f"orders[{order.place}].datetime: less than three hours from order {order.id} at "
        f"{order.datetime} on the same calendar"
        for order in too_close
    ]
