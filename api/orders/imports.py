"""Importing orders that have a history of their own: all of a file's orders, or none.

The orders of one import keep the times they came with, also when they are less than three hours apart:
they share an ``import_id``. Towards all other orders the rule holds as always. Every order is recorded as a
change, like any other write.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime as Datetime  # noqa: N812 (a field has its name)
from typing import TYPE_CHECKING, Annotated

import asyncpg
import msgspec

from api.orders.bodies import NewOrder, OrderDatetime
from api.orders.commands import ATTEMPTS, calendar_ids, claim_ids, lock_calendars
from api.orders.errors import ContentionError
from api.services import lock_catalogue
from api.times import utc_text
from shared.database import Row, row, rows, transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CHUNK = 1_000


class ImportedOrder(NewOrder):
    """An order in a file: as in a create, but its datetime must be said."""

    datetime: Annotated[Datetime, OrderDatetime]


@dataclass(frozen=True)
class CatalogueEntry:
    """A service in a file."""

    place: int
    """Where it stands in the file, from 0."""
    id: int
    name: str


@dataclass
class ImportRefusedError(Exception):
    """Nothing was imported; ``reasons`` name every bad order and service by its place in the file."""

    reasons: Sequence[str]


@dataclass(frozen=True)
class Imported:
    """What an import brought, or had brought when the same file was imported before."""

    orders: int
    at: Datetime
    before: bool


async def import_orders(
    file_name: str,
    sha256: str,
    orders: Sequence[ImportedOrder],
    services: Sequence[CatalogueEntry] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> Imported:
    """Store a file's orders in one transaction, adding the services that are not there yet.

    A file that was imported before is left alone, whatever became of its orders since. ``progress`` is told
    how many orders are stored so far.

    Raises:
        ImportRefusedError: an id is taken, a service is unknown or archived, or an order outside of the
            import is too close; or a service of the file is another one in the catalogue.
        ContentionError: others kept placing orders in the way meanwhile.

    """
    for _ in range(ATTEMPTS):
        # A create needs no calendar lock, so it may take a place between our look and our INSERT.
        with suppress(asyncpg.ExclusionViolationError):
            async with transaction():
                await rows("SET LOCAL statement_timeout = 0")
                return await _import(file_name, sha256, orders, services, progress)
    raise ContentionError


async def _import(
    file_name: str,
    sha256: str,
    orders: Sequence[ImportedOrder],
    services: Sequence[CatalogueEntry],
    progress: Callable[[int], None],
) -> Imported:
    begun = await row(
        """
        INSERT INTO order_import (sha256, file_name, orders, imported_at) VALUES ($1, $2, $3, now())
        ON CONFLICT DO NOTHING RETURNING id, imported_at
        """,
        sha256,
        file_name,
        len(orders),
    )
    if begun is None:
        earlier = await row("SELECT orders, imported_at FROM order_import WHERE sha256 = $1", sha256)
        if earlier is None:  # the other transaction that had it was rolled back
            raise ContentionError
        return Imported(earlier["orders"], earlier["imported_at"], before=True)
    unlike = await _add_services(services)
    taken = await claim_ids([order.id for order in orders if order.id is not None])
    calendars = await calendar_ids({order.calendar for order in orders})
    await lock_calendars(calendars.values())
    reasons = [
        *unlike,
        *(
            f"orders[{i}].id: {o.id} is, or was, the id of another order"
            for i, o in enumerate(orders)
            if o.id in taken
        ),
        *await _unorderable(orders),
    ]
    for start in range(0, len(orders), CHUNK):
        reasons += await _too_close(orders, start, calendars)
    if reasons:
        raise ImportRefusedError(reasons)
    for start in range(0, len(orders), CHUNK):
        await rows(
            """
            INSERT INTO orders
                (id, datetime, clear_until, totalfee, service_ids, service_names, calendar_id, import_id)
            SELECT
                coalesce(id, nextval('orders_id_seq')), datetime, datetime + interval '3 hours', totalfee,
                service_ids,
                ARRAY(SELECT name FROM service AS s WHERE s.id = ANY (service_ids) ORDER BY s.id),
                calendar_id, $2
            FROM json_to_recordset($1::json) AS o
                (id bigint, datetime timestamptz, totalfee numeric, service_ids bigint[], calendar_id int)
            """,
            _records(orders[start : start + CHUNK], calendars),
            begun["id"],
        )
        progress(min(start + CHUNK, len(orders)))
    return Imported(len(orders), begun["imported_at"], before=False)


def _records(orders: Sequence[ImportedOrder], calendars: dict[str, int]) -> str:
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


async def _add_services(services: Sequence[CatalogueEntry]) -> list[str]:
    """Add the services that are not there; tell which of them the catalogue doesn't hold as given."""
    await lock_catalogue()
    given = [service.id for service in services], [service.name for service in services]
    await rows(
        """
        INSERT INTO service (id, name, created_at, updated_at)
        SELECT id, name, now(), now() FROM unnest($1::bigint[], $2::text[]) AS s (id, name) ORDER BY id
        ON CONFLICT DO NOTHING
        """,
        *given,
    )
    # What was not added must be there already, just so: nothing of the file is left out silently.
    unlike = await rows(
        """
        SELECT n.place, known.name AS known_as, namesake.id AS taken_by
        FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS n (id, name, place)
        LEFT JOIN service AS known ON known.id = n.id
        LEFT JOIN service AS namesake
            ON lower(namesake.name) = lower(n.name) AND namesake.archived_at IS NULL
        WHERE known.name IS DISTINCT FROM n.name
        ORDER BY n.place
        """,
        *given,
    )
    return [_unlike(services[found["place"] - 1], found) for found in unlike]


def _unlike(service: CatalogueEntry, found: Row) -> str:
    reason = (
        f"{service.name!r} is the name of service {found['taken_by']}"
        if found["known_as"] is None
        else f"service {service.id} is called {found['known_as']!r}, not {service.name!r}"
    )
    return f"services[{service.place}].name: {reason}"


async def _unorderable(orders: Sequence[ImportedOrder]) -> list[str]:
    wanted = {service.id for order in orders for service in order.services}
    found = await rows(
        "SELECT id FROM service WHERE id = ANY($1::bigint[]) AND archived_at IS NULL", list(wanted)
    )
    orderable = {service["id"] for service in found}
    return [
        f"orders[{i}].services[{j}].id: there is no service {service.id}, or it is archived"
        for i, order in enumerate(orders)
        for j, service in enumerate(order.services)
        if service.id not in orderable
    ]


async def _too_close(orders: Sequence[ImportedOrder], start: int, calendars: dict[str, int]) -> list[str]:
    chunk = orders[start : start + CHUNK]
    found = await rows(
        """
        SELECT n.place, o.id, utc_text(o.datetime) AS datetime
        FROM unnest($1::timestamptz[], $2::int[]) WITH ORDINALITY AS n (at, calendar_id, place)
        CROSS JOIN LATERAL (
            SELECT id, datetime FROM orders
            WHERE orders.calendar_id = n.calendar_id
              AND datetime > n.at - interval '3 hours' AND datetime < n.at + interval '3 hours'
            ORDER BY datetime LIMIT 1
        ) AS o
        ORDER BY n.place
        """,
        [order.datetime for order in chunk],
        [calendars[order.calendar] for order in chunk],
    )
    return [
        f"orders[{start + near['place'] - 1}].datetime: less than three hours from order {near['id']} at "
        f"{near['datetime']} on the same calendar"
        for near in found
    ]
