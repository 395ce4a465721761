"""The services that come with imported orders: those that are new to the catalogue are added."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from api.services.commands import lock_catalogue
from shared.database.statements import execute, fetch_all
from shared.database.stored_cell import stored_cell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from api.orders.imports.faults import FaultReport

# Only PostgreSQL compares names, as its unique index does: Python folds some letters differently.
_COMPARE_SERVICES = """
WITH given AS (
    SELECT
        place, id, name,
        min(place) OVER (PARTITION BY id) AS first_of_id,
        min(place) FILTER (WHERE is_orderable) OVER (PARTITION BY name_key(name)) AS first_of_name
    FROM unnest($1::int[], $2::bigint[], $3::text[], $4::boolean[]) AS s (place, id, name, is_orderable)
)
SELECT given.*, known.name AS known_as, namesake.id AS taken_by
FROM given
LEFT JOIN service AS known ON known.id = given.id
LEFT JOIN service AS namesake
    ON name_key(namesake.name) = name_key(given.name) AND namesake.archived_at IS NULL
ORDER BY place
"""

# No ON CONFLICT: a service that the comparison let through must not be left out silently.
_INSERT_SERVICES = """
INSERT INTO service (id, name, archived_at, created_at, updated_at)
SELECT
    id, name, archived_at,
    coalesce(created_at, updated_at, now()),
    coalesce(updated_at, archived_at, created_at, now())
FROM unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[])
    AS s (id, name, archived_at, created_at, updated_at)
ORDER BY id
"""

# Under the catalogue's lock, nobody takes a number meanwhile.
_RAISE_SEQUENCE = """
SELECT setval('service_id_seq', $1::bigint) FROM service_id_seq WHERE last_value <= $1::bigint
"""


@dataclass(frozen=True)
class ImportedService:
    """A service in a file."""

    place: int
    """Its index in the file's array, from 0."""
    id: int
    name: str
    archived_at: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


class _ComparedService(msgspec.Struct, frozen=True):
    """A service in a file, and what the file and the catalogue have of the same id or name."""

    place: int
    id: int
    name: str
    first_of_id: int
    """The place of the file's first service with this id."""
    first_of_name: int | None
    """The place of the file's first unarchived service with this name."""
    known_as: str | None
    """The name of the catalogue's service with this id."""
    taken_by: int | None
    """The id of the catalogue's unarchived service with this name."""


async def add_services(services: Sequence[ImportedService], faults: FaultReport) -> int:
    """Add the services that the catalogue does not have.

    Appends the faults of those that can't be stored, each with its place, and returns how many were added.
    """
    if not services:  # without services, an import does not lock others out of the catalogue
        return 0
    await lock_catalogue()
    compared = await fetch_all(
        _ComparedService,
        _COMPARE_SERVICES,
        [service.place for service in services],
        [service.id for service in services],
        [service.name for service in services],
        [service.archived_at is None for service in services],
    )
    of_place = {service.place: service for service in services}
    missing: list[ImportedService] = []
    for comparison in compared:
        service = of_place[comparison.place]
        service_faults = list(_faults_of_service(comparison, is_orderable=service.archived_at is None))
        for member, detail in service_faults:
            faults.add("services", service.place, member, detail)
        if not service_faults and comparison.known_as is None:
            missing.append(service)
    cell = await stored_cell()
    own_ids = [service.id for service in missing if not cell or service.id in cell.server_ids]
    await execute(_RAISE_SEQUENCE, max(own_ids, default=0))
    await execute(
        _INSERT_SERVICES,
        [service.id for service in missing],
        [service.name for service in missing],
        [service.archived_at for service in missing],
        [service.created_at for service in missing],
        [service.updated_at for service in missing],
    )
    return len(missing)


def _faults_of_service(service: _ComparedService, *, is_orderable: bool) -> Iterator[tuple[str, str]]:
    if service.first_of_id != service.place:
        yield ".id", f"{service.id} is the id of services[{service.first_of_id}] too"
    if service.known_as == service.name:
        return
    # Archived services leave their names to others.
    if is_orderable and service.first_of_name != service.place:
        yield ".name", f"{service.name!r} is the name of services[{service.first_of_name}] too"
    if service.known_as is not None:
        yield ".name", f"service {service.id} is called {service.known_as!r}, not {service.name!r}"
    elif is_orderable and service.taken_by is not None:
        yield ".name", f"{service.name!r} is the name of service {service.taken_by}"
