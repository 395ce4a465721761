"""Reading services, with Piccolo's query builder."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from piccolo.columns.combination import And

from api.http.json_text import encode_text
from api.http.pages import Page
from api.http.times import utc_text
from api.services.errors import ServiceNotFoundError
from shared.database.tables import Service

if TYPE_CHECKING:
    from piccolo.custom_types import Combinable


class StoredService(msgspec.Struct, frozen=True):
    """A row of ``service``."""

    id: int
    name: str
    archived_at: datetime | None
    created_at: datetime
    updated_at: datetime

    def json(self) -> str:
        """Return the service as JSON."""
        return encode_text(
            {
                "id": str(self.id),
                "name": self.name,
                "archived_at": utc_text(self.archived_at) if self.archived_at else None,
                "created_at": utc_text(self.created_at),
                "updated_at": utc_text(self.updated_at),
            }
        )


async def find_service(service_id: int) -> StoredService:
    """Find a service, archived or not.

    Raises:
        ServiceNotFoundError: no service has this id.

    """
    row = await Service.select().where(Service.id == service_id).first()
    if row is None:
        raise ServiceNotFoundError(service_id)
    return StoredService(**row)


async def list_services(after: int, limit: int, *, include_archived: bool) -> Page:
    """List services by id, beginning after the id ``after``."""
    wanted: Combinable = Service.id > after
    if not include_archived:
        wanted = And(wanted, Service.archived_at.is_null())
    rows = await Service.select().where(wanted).order_by(Service.id).limit(limit + 1)
    return Page.of(
        [StoredService(**row) for row in rows], limit, StoredService.json, lambda service: [service.id]
    )
