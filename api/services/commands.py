"""Changing services, with Piccolo's query builder. Each command is one transaction, committed here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec

from api.http.idempotency_keys import Answer, IdempotencyKey, idempotent
from api.services.errors import ServiceIdTakenError, ServiceNameTakenError, ServiceNotFoundError
from api.services.queries import StoredService, find_service
from shared.database.locks import CATALOGUE_LOCK
from shared.database.statements import execute
from shared.database.tables import Service
from shared.database.transaction import retry_on_lock_timeout, transaction

if TYPE_CHECKING:
    from api.services.bodies import NewService


async def lock_catalogue() -> None:
    """Lock the catalogue of services until the transaction ends, against all others that write it.

    Otherwise two writers could deadlock, one waiting for the other's id and the other for its name.
    """
    await execute("SELECT pg_advisory_xact_lock($1)", CATALOGUE_LOCK)


@retry_on_lock_timeout
async def create_service(new: NewService, key: IdempotencyKey | None) -> Answer:
    """Store a service, or return the answer that an earlier try with the same key got.

    Raises:
        IdempotencyKeyReusedError: the key was used for other content.
        ServiceIdTakenError, ServiceNameTakenError: another service has the id or the name.

    """
    try:
        async with transaction():
            return await _create(key, new)
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name == "service_name_in_use":
            raise ServiceNameTakenError(new.name) from None
        raise ServiceIdTakenError(new.id or 0) from None


@idempotent
async def _create(new: NewService) -> Answer:
    now = datetime.now(UTC)
    values: dict[Any, Any] = {Service.name: new.name, Service.created_at: now, Service.updated_at: now}
    if new.id is not None:
        values[Service.id] = new.id
    await lock_catalogue()
    (row,) = await Service.insert(Service(values)).returning(*Service.all_columns())
    return Answer(StoredService(**row).json())


async def rename_service(service_id: int, name: str) -> StoredService:
    """Rename a service. Orders keep the name that it had when they were written.

    Raises:
        ServiceNotFoundError: no service has this id.
        ServiceNameTakenError: another service has the name.

    """
    return await _update(service_id, {"name": name})


async def archive_service(service_id: int) -> None:
    """Archive a service: it stays readable and can no longer be ordered.

    Raises:
        ServiceNotFoundError: no service has this id, or it is archived already.

    """
    await _update(service_id, {"archived_at": datetime.now(UTC)}, only_in_use=True)


async def restore_service(service_id: int) -> StoredService:
    """Undo the archiving of a service. One that is not archived stays as it is.

    Raises:
        ServiceNotFoundError: no service has this id.
        ServiceNameTakenError: another service has been given its name.

    """
    return await _update(service_id, {"archived_at": None})


@retry_on_lock_timeout
async def _update(service_id: int, values: dict[Any, Any], *, only_in_use: bool = False) -> StoredService:
    """Change a service; if it has these values already, nothing is stored."""
    async with transaction():
        await lock_catalogue()
        service = await find_service(service_id)
        if only_in_use and service.archived_at is not None:
            raise ServiceNotFoundError(service_id)
        changed = msgspec.structs.replace(service, **values)
        if changed == service:
            return service
        try:
            (row,) = (
                await Service.update({**values, "updated_at": datetime.now(UTC)})
                .where(Service.id == service_id)
                .returning(*Service.all_columns())
            )
        except asyncpg.UniqueViolationError:
            raise ServiceNameTakenError(changed.name) from None
        return StoredService(**row)
