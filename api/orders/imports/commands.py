"""Importing orders that have a history of their own: all of a file's orders, or none.

The orders of one import keep their datetimes, even if they are nearer than their calendar's spacing: they
share an ``import_id``, and the exclusion constraint compares only orders of different ones. The rule holds
between them and all other orders. Every order is recorded as a change, like any other write.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec

from api.http.attribution import Attribution, attribute
from api.http.json_text import encode_text
from api.orders.calendars import lock_calendars
from api.orders.errors import ContentionError, ImportRefusedError
from api.orders.fields import CANCELLED
from api.orders.imports.cell_ids import check_cell_ids
from api.orders.imports.checks import (
    calendars_of_file,
    check_references,
    check_services,
    check_spacing,
    check_spacing_in_file,
    claim_ids_of_file,
    find_calendars_to_compare,
    find_earlier_imports,
)
from api.orders.imports.imported_services import ImportedService, add_services
from api.orders.members import COLUMNS, STORED_AS_SENT, TYPED_COLUMNS
from api.orders.transactions import in_transaction
from shared.database.statements import execute, fetch_optional, fetch_value
from shared.database.transaction import lift_time_limit
from shared.progress import Progress, ReportProgress, ignore_progress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence
    from datetime import datetime as Datetime  # noqa: N812 (a member is called datetime)

    from api.orders.imports.faults import FaultReport
    from api.orders.imports.imported_orders import ImportedOrder

ACTOR = "import"
"""Who makes the changes of an import that no caller of the API asks for."""

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

# An order that is where it came from rejoins the import that it came with. The version of one that was
# deleted is above that of its deletion, so that no version means two things.
_INSERT_ORDERS = f"""
WITH stored AS (
    INSERT INTO orders (
        id, service_ids, service_names, calendar_id, import_id, status, version, created_at, updated_at,
        {COLUMNS}
    )
    SELECT
        coalesce(id, nextval('orders_id_seq')),
        service_ids,
        ARRAY(
            SELECT coalesce(given.name, (SELECT s.name FROM service AS s WHERE s.id = given.id))
            FROM unnest(service_ids, service_names) WITH ORDINALITY AS given (id, name, place)
            ORDER BY given.place
        ),
        calendar_id,
        coalesce(
            (SELECT p.import_id FROM imported_place AS p
             WHERE p.order_id = o.id AND p.calendar_id = o.calendar_id AND p.datetime = o.datetime),
            $2
        ),
        coalesce(status, 'booked'),
        greatest(version, 1, (SELECT d.version + 1 FROM deleted_order AS d WHERE d.id = o.id)),
        coalesce(created_at, updated_at), coalesce(updated_at, created_at),
        {COLUMNS}
    FROM json_to_recordset($1::json) AS o (
        id bigint, service_ids bigint[], service_names text[], calendar_id int,
        status text, version int, created_at timestamptz, updated_at timestamptz, {TYPED_COLUMNS}
    )
    RETURNING id, calendar_id, datetime, import_id
)
INSERT INTO imported_place (order_id, calendar_id, datetime, import_id)
SELECT id, calendar_id, datetime, import_id FROM stored ON CONFLICT DO NOTHING
"""

# Not below what it has reached, also if others take numbers between the comparison and the assignment: nobody
# takes ten thousand meanwhile.
_RAISE_SEQUENCE = """
SELECT setval('orders_id_seq', $1::bigint + 10000) FROM orders_id_seq WHERE last_value <= $1::bigint
"""


@dataclass(frozen=True)
class Imported:
    """What an import stored, or what the same file's earlier import stored."""

    id: int
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


# Creates take no calendar lock, so one may take a place between our comparison and our INSERT; a create or
# an import may take an id of the server's range. Then a constraint refuses the INSERT, and the next attempt
# names what was in the way.
@in_transaction(asyncpg.ExclusionViolationError, asyncpg.UniqueViolationError)
async def import_orders(
    file_name: str,
    sha256: str,
    orders: Mapping[int, ImportedOrder],
    services: Sequence[ImportedService] = (),
    progress: ReportProgress = ignore_progress,
    *,
    faults: FaultReport,
    faulty_services: Collection[int] = (),
    attribution: Attribution = Attribution(ACTOR),  # noqa: B008 (immutable)
    only_if_empty: bool = False,
    only_compare: bool = False,
) -> Imported:
    """Store a file's orders, and the services of a file that the catalogue does not have, in one transaction.

    If the file was imported before, no order is stored or changed, but the services are added all the same.

    Args:
        file_name: the name of the file of orders, for people.
        sha256: the digest of that file, in hexadecimal; a file is imported once.
        orders: its orders by their places, from 0, ascending.
        services: the services of the other file.
        progress: is called with how many orders are compared with what is stored, then how many are stored.
        faults: has those found while the files were read, and gets all others. The orders and services that
            could be read are checked all the same, so that one refusal names everything.
        faulty_services: ids of services that ``faults`` is about. Orders of them are not refused for that.
        attribution: who imports, and why, for the changes.
        only_compare: compare all orders with what is stored, and store none: for a dry run. Rows that are
            inserted and rolled back would stay in the index of the spacing until VACUUM, where each further
            dry run of a file with many orders near each other visited all of them (9, 69, 88 s).
        only_if_empty: import only into a database that never held orders or changes and holds no service.

    Raises:
        ImportRefusedError: there are faults; an id is taken; a service is unknown or archived; an order is
            too close to one outside of the import; a service differs from the one in the catalogue; or a
            calendar is new, and its name differs only in case from another's.
        NotEmptyError: ``only_if_empty``, and the database is not.
        ContentionError: other transactions kept interfering.

    """
    await lift_time_limit()
    await attribute(attribution)
    if only_if_empty and await fetch_value(bool, _EVER_HELD_DATA):
        raise NotEmptyError
    this_import = await fetch_optional(_ImportRow, _INSERT_IMPORT, sha256, file_name, len(orders))
    if this_import is None:
        return await _import_services_again(sha256, services, faults)
    added = await add_services(services, faults)
    await check_cell_ids(orders, faults)
    imported_ids = await claim_ids_of_file(orders, faults)
    calendars = await calendars_of_file(orders, faults)
    await lock_calendars(calendars.values())
    await check_references(orders, faults)
    await check_services(orders, {*faulty_services, *(service.id for service in services)}, faults)
    places = list(orders.items())
    chunks = [dict(places[start : start + CHUNK]) for start in range(0, len(places), CHUNK)]
    booked = {place: order for place, order in orders.items() if order.status != CANCELLED}
    rejoining = await find_earlier_imports(orders, calendars, imported_ids)
    to_compare = await find_calendars_to_compare(orders, calendars)
    for n, chunk in enumerate(chunks):
        progress(Progress(n * CHUNK, len(orders), "compared with what is stored", is_last_step=False))
        near = {
            place: order for place, order in chunk.items() if place in booked and order.calendar in to_compare
        }
        await check_spacing(near, calendars, rejoining, faults)
    await check_spacing_in_file(booked, calendars, rejoining, faults)
    if faults:
        raise ImportRefusedError
    imported = Imported(
        this_import.id, len(orders), this_import.imported_at, before=False, services_added=added
    )
    if only_compare:
        return imported
    await execute(_RAISE_SEQUENCE, max((order.id or 0 for order in orders.values()), default=0))
    n = 0
    async for records in _records(chunks, calendars):
        progress(Progress(n * CHUNK, len(orders), "stored"))
        await execute(_INSERT_ORDERS, records, this_import.id)
        n += 1
    return imported


async def _import_services_again(
    sha256: str, services: Sequence[ImportedService], faults: FaultReport
) -> Imported:
    """Import a file that was imported before: only services are added."""
    earlier_import = await fetch_optional(_ImportRow, _FIND_IMPORT, sha256)
    if earlier_import is None:  # its transaction has been rolled back since
        raise ContentionError
    added = await add_services(services, faults)
    if faults:
        raise ImportRefusedError
    return Imported(
        earlier_import.id,
        earlier_import.orders,
        earlier_import.imported_at,
        before=True,
        services_added=added,
    )


async def _records(
    chunks: Sequence[Mapping[int, ImportedOrder]], calendars: dict[str, int]
) -> AsyncIterator[str]:
    """Yield each chunk as ``_INSERT_ORDERS`` takes it, and write the next one while that is stored."""

    def write(chunk: Mapping[int, ImportedOrder]) -> str:
        return encode_text([_record(order, calendars[order.calendar]) for order in chunk.values()])

    following: asyncio.Future[str] | None = None
    for chunk in chunks:
        written, following = following, asyncio.get_running_loop().run_in_executor(None, write, chunk)
        if written:
            yield await written
    if following:
        yield await following


def _record(order: ImportedOrder, calendar_id: int) -> dict[str, Any]:
    services = sorted(order.services, key=lambda service: service.id)
    return {
        "id": order.id,
        "service_ids": [service.id for service in services],
        "service_names": [service.name for service in services],
        "calendar_id": calendar_id,
        "status": order.status,
        "version": order.version,
        "created_at": order.created_at,
        "updated_at": order.updated_at,
        **{name: getattr(order, name) for name in STORED_AS_SENT},
    }
