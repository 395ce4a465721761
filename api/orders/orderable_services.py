"""The services that an order may have: those in use; and those that it has, or had, though archived since."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from api.orders.errors import ServicesNotOrderableError
from shared.database.statements import fetch_all, fetch_values

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

# Read only where an archived service is named. What an order had is known as far back as its changes are
# retained.
_EVER_ORDERED = """
SELECT unnest(service_ids) FROM orders WHERE id = $1
UNION
SELECT (service ->> 'id')::bigint
FROM order_change, json_array_elements(previous_state -> 'services') AS service
WHERE order_id = $1 AND previous_state IS NOT NULL
"""


async def orderable_names(ids: Sequence[int], order_id: int | None = None) -> list[str]:
    """Return the names of an order's services, in the order of their ids.

    Args:
        ids: the services, as the body lists them.
        order_id: the order, if it exists: services that it has, or had, may be archived.

    Raises:
        ServicesNotOrderableError: one is unknown or archived.

    """
    places = [(f"#/services/{place}/id", service_id) for place, service_id in enumerate(ids)]
    names = await refuse_unless_orderable(places, order_id)
    return [names[service_id] for service_id in sorted(ids)]


class _OrderedService(msgspec.Struct, frozen=True):
    id: int
    name: str
    is_archived: bool


async def refuse_unless_orderable(
    places: Sequence[tuple[str, int]], order_id: int | None = None
) -> dict[int, str]:
    """Return the names of services by id; ``places`` are JSON Pointers and the ids there.

    Raises:
        ServicesNotOrderableError: one is unknown or archived.

    """
    rows = await fetch_all(
        _OrderedService,
        "SELECT id, name, archived_at IS NOT NULL AS is_archived FROM service WHERE id = ANY($1::bigint[])",
        list({service_id for _, service_id in places}),
    )
    services = {service.id: service for service in rows}
    its_own: Collection[int] = ()
    if order_id is not None and any(service.is_archived for service in rows):
        its_own = await fetch_values(int, _EVER_ORDERED, order_id)
    faults = []
    for pointer, service_id in places:
        service = services.get(service_id)
        if service is None:
            faults.append((pointer, f"there is no service {service_id}; GET /services lists them"))
        elif service.is_archived and service_id not in its_own:
            faults.append((pointer, f"service {service_id} ({service.name}) is archived"))
    if faults:
        raise ServicesNotOrderableError(faults)
    return {service.id: service.name for service in rows}
