"""Changing services, with Piccolo's query builder. Each command is one transaction, committed here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
from piccolo.columns.combination import And

from api.http.idempotency_keys import Answer, IdempotencyKey, idempotent
from api.services.errors import ServiceIdTakenError, ServiceNameTakenError, ServiceNotFoundError
from api.services.queries import StoredService
from shared.database.locks import CATALOGUE_LOCK
from shared.database.statements import execute
from shared.database.tables import Service
from shared.database.transaction import retry_on_lock_timeout, transaction

if TYPE_CHECKING:
    from piccolo.custom_types import Combinable

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
async def _create(new: NewService) -> str:
    now = datetime.now(UTC)
    values: dict[Any, Any] = {Service.name: new.name, Service.created_at: now, Service.updated_at: now}
    if new.id is not None:
        values[Service.id] = new.id
    await lock_catalogue()
    (row,) = await Service.insert(Service(values)).returning(*Service.all_columns())
    return StoredService(**row).json()


async def rename_service(service_id: int, name: str) -> StoredService:
    """Rename a service. Orders keep the name that it had when they were written.

    Raises:
        ServiceNotFoundError: no service has this id.
        ServiceNameTakenError: another service has the name.

    """
    return await _update(service_id, Service.id == service_id, {Service.name: name})


async def archive_service(service_id: int) -> None:
    """Archive a service: it stays readable and can no longer be ordered.

    Raises:
        ServiceNotFoundError: no service has this id, or it is archived already.

    """
    in_use = And(Service.id == service_id, Service.archived_at.is_null())
    await _update(service_id, in_use, {Service.archived_at: datetime.now(UTC)})


@retry_on_lock_timeout
async def _update(service_id: int, condition: Combinable, values: dict[Any, Any]) -> StoredService:
    try:
        async with transaction():
            await lock_catalogue()
            rows = (
                await Service.update({**values, Service.updated_at: datetime.now(UTC)})
                .where(condition)
                .returning(*Service.all_columns())
            )
    except asyncpg.UniqueViolationError:
        raise ServiceNameTakenError(str(values[Service.name])) from None
    if not rows:
        raise ServiceNotFoundError(service_id)
    return StoredService(**rows[0])
