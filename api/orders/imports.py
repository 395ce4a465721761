"""Importing orders that have a history of their own: all of a file's orders, or none.

The orders of one import keep the times they came with, also when they are less than three hours apart:
they share an ``import_id``. Towards all other orders the rule holds as always. Every order is recorded as a
change, like any other write.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime as Datetime  # noqa: N812 (a field has its name)
from typing import TYPE_CHECKING, Annotated

import asyncpg
import msgspec

from api.http.times import utc_text
from api.orders.bodies import NewOrder, OrderDatetime
from api.orders.commands import ATTEMPTS, calendar_ids, claim_ids, lock_calendars
from api.orders.errors import ContentionError
from api.orders.imported_services import ImportedService, add_services
from api.orders.spacing import CLEARANCE
from shared.database.rows import row, rows
from shared.database.transaction import transaction

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

CHUNK = 1_000

STORED = "stored"
Progress = Callable[[str, int, int], None]
"""Told a step, and with how many orders of how many it is done; each step begins with none."""


class ImportedOrder(NewOrder):
    """An order in a file: as in a create, but its datetime must be said."""

    datetime: Annotated[Datetime, OrderDatetime]


@dataclass
class ImportRefusedError(Exception):
    """Nothing was imported; each of ``reasons`` begins with the place of what is bad, in its file."""

    reasons: Sequence[str]


@dataclass(frozen=True)
class Imported:
    """What an import brought, or had brought when the same file was imported before."""

    orders: int
    at: Datetime
    before: bool
    services_added: int
    """How many services were new to the catalogue, now: also if the orders came before."""


class NotEmptyError(Exception):
    """Only an empty database was to be filled, and this one holds something, or did."""


async def import_orders(
    file_name: str,
    sha256: str,
    orders: Mapping[int, ImportedOrder],
    services: Sequence[ImportedService] = (),
    progress: Progress = lambda *_: None,
    *,
    faults: Sequence[str] = (),
    faulty_services: Collection[int] = (),
    only_if_empty: bool = False,
) -> Imported:
    """Store a file's orders in one transaction, adding the services that are not there yet.

    The orders of a file that was imported before are left alone, whatever became of them since; services that
    come with it are added all the same.

    Args:
        file_name: for people.
        sha256: of the file of orders.
        orders: by their places in the file, from 0, ascending.
        services: the catalogue that came with them.
        progress: told how many orders are compared with what is stored, and then stored, so far.
        faults: what is wrong with the files themselves. The orders and services given, those that could be
            read, are checked all the same, so that everything is named at once.
        faulty_services: ids of services whose faults are among these: no order is to blame for ordering one.
        only_if_empty: import only if there are no orders, services or changes, and none were deleted.

    Raises:
        ImportRefusedError: there are faults, an id is taken, a service is unknown or archived, or an order
            outside of the import is too close; or a service of the file is another one in the catalogue.
        NotEmptyError: only an empty database was to be filled.
        ContentionError: others kept placing orders in the way meanwhile.

    """
    for _ in range(ATTEMPTS):
        # A create needs no calendar lock, so it may take a place between our look and our INSERT.
        with suppress(asyncpg.ExclusionViolationError):
            async with transaction():
                await rows("SET LOCAL statement_timeout = 0")
                if only_if_empty and await _holds_something():
                    raise NotEmptyError
                return await _import(
                    file_name,
                    sha256,
                    orders,
                    services,
                    progress,
                    faults=faults,
                    faulty_services=faulty_services,
                )
    raise ContentionError


async def _holds_something() -> bool:
    # Of a deleted order that no change tells of any more, the change log has the position still.
    found = await row(
        """
        SELECT
            EXISTS (SELECT FROM orders) OR EXISTS (SELECT FROM service)
            OR EXISTS (SELECT FROM order_change) OR EXISTS (SELECT FROM claimed_order_id)
            OR EXISTS (SELECT FROM change_log WHERE last_position > 0) AS something
        """
    )
    return found is not None and bool(found["something"])


async def _import(
    file_name: str,
    sha256: str,
    orders: Mapping[int, ImportedOrder],
    services: Sequence[ImportedService],
    progress: Progress,
    *,
    faults: Sequence[str],
    faulty_services: Collection[int],
) -> Imported:
    begun = await row(
        """
        INSERT INTO order_import (sha256, file_name, orders, imported_at) VALUES ($1, $2, $3, now())
        ON CONFLICT DO NOTHING RETURNING id, orders, imported_at
        """,
        sha256,
        file_name,
        len(orders),
    )
    known = begun or await row("SELECT id, orders, imported_at FROM order_import WHERE sha256 = $1", sha256)
    if known is None:  # the other transaction that had it was rolled back
        raise ContentionError
    added, bad_services = await add_services(services)
    if begun is None:
        if faults or bad_services:
            raise ImportRefusedError([*faults, *bad_services])
        return Imported(known["orders"], known["imported_at"], before=True, services_added=added)
    taken = await claim_ids({order.id for order in orders.values() if order.id is not None})
    calendars = await calendar_ids({order.calendar for order in orders.values()})
    await lock_calendars(calendars.values())
    reasons = [
        *faults,
        *bad_services,
        *(
            f"orders[{place}].id: {order.id} is, or was, the id of another order"
            for place, order in orders.items()
            if order.id in taken
        ),
        *await _unorderable(orders, {*faulty_services, *(service.id for service in services)}),
    ]
    placed = list(orders.items())
    chunks = [dict(placed[start : start + CHUNK]) for start in range(0, len(placed), CHUNK)]
    for n, chunk in enumerate(chunks):
        progress("compared with what is stored", n * CHUNK, len(orders))
        reasons += await _too_close(chunk, calendars)
    if reasons:
        raise ImportRefusedError(reasons)
    for n, chunk in enumerate(chunks):
        progress(STORED, n * CHUNK, len(orders))
        await rows(
            """
            INSERT INTO orders
                (id, datetime, totalfee, service_ids, service_names, calendar_id, import_id)
            SELECT
                coalesce(id, nextval('orders_id_seq')), datetime, totalfee, service_ids,
                ARRAY(SELECT name FROM service AS s WHERE s.id = ANY (service_ids) ORDER BY s.id),
                calendar_id, $2
            FROM json_to_recordset($1::json) AS o
                (id bigint, datetime timestamptz, totalfee numeric, service_ids bigint[], calendar_id int)
            """,
            _records(chunk.values(), calendars),
            begun["id"],
        )
    return Imported(len(orders), begun["imported_at"], before=False, services_added=added)


def _records(orders: Iterable[ImportedOrder], calendars: dict[str, int]) -> str:
    return msgspec.json.encode(
        [
            {
                "id": order.id,
                "datetime": utc_text(order.datetime),
                "totalfee": order.totalfee,
                "service_ids": sorted(service.id for service in order.services),
                "calendar_id": calendars[order.calendar],
            }
            for order in orders
        ]
    ).decode()


async def _unorderable(orders: Mapping[int, ImportedOrder], in_file: Collection[int]) -> list[str]:
    """Name orders of services that are archived or unknown; those of the file are known, faulty or not."""
    wanted = {service.id for order in orders.values() for service in order.services}
    found = await rows(
        "SELECT id, archived_at IS NULL AS in_use FROM service WHERE id = ANY($1::bigint[])", list(wanted)
    )
    orderable = dict.fromkeys(in_file, True) | {service["id"]: service["in_use"] for service in found}
    return [
        f"orders[{place}].services[{i}].id: there is no service {service.id}, or it is archived"
        for place, order in orders.items()
        for i, service in enumerate(order.services)
        if not orderable.get(service.id)
    ]


async def _too_close(orders: Mapping[int, ImportedOrder], calendars: dict[str, int]) -> list[str]:
    found = await rows(
        """
        SELECT n.place, o.id, utc_text(o.datetime) AS datetime
        FROM unnest($1::int[], $2::timestamptz[], $3::int[]) AS n (place, at, calendar_id)
        CROSS JOIN LATERAL (
            SELECT id, datetime FROM orders
            WHERE orders.calendar_id = n.calendar_id
              AND datetime > n.at - $4::interval AND datetime < n.at + $4::interval
            ORDER BY datetime LIMIT 1
        ) AS o
        ORDER BY n.place
        """,
        list(orders),
        [order.datetime for order in orders.values()],
        [calendars[order.calendar] for order in orders.values()],
        CLEARANCE,
    )
    return [
        f"orders[{near['place']}].datetime: less than three hours from order {near['id']} at "
        f"{near['datetime']} on the same calendar"
        for near in found
    ]
