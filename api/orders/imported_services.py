"""The services that come with imported orders: those that are new to the catalogue are added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.services.commands import lock_catalogue
from shared.database.rows import Row, rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True)
class ImportedService:
    """A service in a file."""

    place: int
    """Where it stands in the file, from 0."""
    id: int
    name: str


async def add_services(services: Sequence[ImportedService]) -> tuple[int, list[str]]:
    """Add the services that are not there; tell how many, and what is wrong with those that can't be stored.

    Names are compared by PostgreSQL alone, as its index does: to Python other letters are the same.
    """
    if not services:  # nobody who writes services has to wait for an import without any
        return 0, []
    await lock_catalogue()
    found = await rows(
        """
        WITH given AS (
            SELECT
                place, id, name,
                min(place) OVER (PARTITION BY id) AS first_of_id,
                min(place) OVER (PARTITION BY lower(name)) AS first_of_name
            FROM unnest($1::int[], $2::bigint[], $3::text[]) AS s (place, id, name)
        )
        SELECT given.*, known.name AS known_as, namesake.id AS taken_by
        FROM given
        LEFT JOIN service AS known ON known.id = given.id
        LEFT JOIN service AS namesake
            ON lower(namesake.name) = lower(given.name) AND namesake.archived_at IS NULL
        ORDER BY place
        """,
        [service.place for service in services],
        [service.id for service in services],
        [service.name for service in services],
    )
    faults: list[str] = []
    missing: list[Row] = []
    for service in found:
        wrong = list(_faults_of_service(service))
        faults += [f"services[{service['place']}].{fault}" for fault in wrong]
        if not wrong and service["known_as"] is None:
            missing.append(service)
    # Without ON CONFLICT: one that the look above let through must not be left out silently.
    await rows(
        """
        INSERT INTO service (id, name, created_at, updated_at)
        SELECT id, name, now(), now() FROM unnest($1::bigint[], $2::text[]) AS s (id, name) ORDER BY id
        """,
        [service["id"] for service in missing],
        [service["name"] for service in missing],
    )
    return len(missing), faults


def _faults_of_service(service: Row) -> Iterator[str]:
    place, service_id, name, known_as = (service[key] for key in ("place", "id", "name", "known_as"))
    if service["first_of_id"] != place:
        yield f"id: {service_id} is the id of services[{service['first_of_id']}] too"
    if known_as == name:
        return
    if service["first_of_name"] != place:
        yield f"name: {name!r} is the name of services[{service['first_of_name']}] too"
    if known_as is not None:
        yield f"name: service {service_id} is called {known_as!r}, not {name!r}"
    elif service["taken_by"] is not None:
        yield f"name: {name!r} is the name of service {service['taken_by']}"
