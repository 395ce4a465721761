"""Services: what can be ordered. Plain rows, read and written with Piccolo's query builder."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import asyncpg
import msgspec
from litestar import HttpMethod, Response, delete, post, put, route
from piccolo.columns.combination import And
from piccolo.custom_types import Combinable
from pydantic import PlainValidator

from api import fields
from api.idempotency import IdempotencyKey, read_idempotency_key
from api.orders.bodies import Body
from api.orders.errors import ServiceIdTakenError, ServiceNameTakenError, ServiceNotFoundError
from api.pages import DEFAULT_LIMIT, Page, answer_page, read_cursor
from api.requests import AnyRequest, path_id, read_body, read_limit, read_query, read_yes_no
from api.times import utc_text
from shared.database.locks import CATALOGUE_LOCK
from shared.database.rows import Row, rows
from shared.database.tables import Service
from shared.database.transaction import retry_on_lock_timeout, transaction

_encode = msgspec.json.Encoder().encode


class NewService(Body):
    """The body of a create."""

    id: Annotated[int | None, PlainValidator(fields.read_callers_id)] = None
    name: Annotated[str, PlainValidator(fields.read_service_name)]


class ServiceRenaming(Body):
    """The body of a PUT: a service's name is all that changes."""

    name: Annotated[str, PlainValidator(fields.read_service_name)]


def _shown(service: Row) -> bytes:
    archived_at = service["archived_at"]
    return _encode(
        {
            "id": str(service["id"]),
            "name": service["name"],
            "archived_at": utc_text(archived_at) if archived_at else None,
            "created_at": utc_text(service["created_at"]),
            "updated_at": utc_text(service["updated_at"]),
        }
    )


def _answer(service: Row) -> Response[bytes]:
    return Response(_shown(service), status_code=200, media_type="application/json")


async def _find(service_id: int) -> Row:
    found: Row | None = await Service.select().where(Service.id == service_id).first()
    if found is None:
        raise ServiceNotFoundError(service_id)
    return found


@post("/services")
async def create_service(request: AnyRequest) -> Response[bytes]:
    """Add a service to the catalogue."""
    read_query(request, {})
    new = await read_body(request, NewService)
    shown, replayed = await _create(new, read_idempotency_key(request, "createService", new))
    headers = {"Location": f"/services/{msgspec.json.decode(shown)['id']}"}
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    return Response(shown, status_code=201, media_type="application/json", headers=headers)


@retry_on_lock_timeout
async def _create(new: NewService, key: IdempotencyKey | None) -> tuple[bytes, bool]:
    """Store a service; give it as it is shown, and whether an earlier try with the same key stored it."""
    now = datetime.now(UTC)
    values: dict[Any, Any] = {Service.name: new.name, Service.created_at: now, Service.updated_at: now}
    if new.id is not None:
        values[Service.id] = new.id
    try:
        async with transaction():
            answered = await key.claim() if key else None
            if answered is not None:
                return answered.encode(), True
            await lock_catalogue()
            stored = await Service.insert(Service(values)).returning(*Service.all_columns())
            shown = _shown(stored[0])
            if key:
                await key.keep(shown.decode())
            return shown, False
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name == "service_name_in_use":
            raise ServiceNameTakenError(new.name) from None
        raise ServiceIdTakenError(new.id or 0) from None


@route("/services/{service_id:str}", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def read_service(request: AnyRequest) -> Response[bytes]:
    """Show a service, archived or not."""
    service_id = path_id(request, "service_id")
    read_query(request, {})
    return _answer(await _find(service_id))


@put("/services/{service_id:str}")
async def rename_service(request: AnyRequest) -> Response[bytes]:
    """Rename a service. Orders keep the name it had when they were written."""
    service_id = path_id(request, "service_id")
    read_query(request, {})
    renaming = await read_body(request, ServiceRenaming)
    return _answer(await _update({Service.name: renaming.name}, service_id, Service.id == service_id))


@delete("/services/{service_id:str}", status_code=204)
async def archive_service(request: AnyRequest) -> None:
    """Archive a service: it stays readable and can't be ordered any more. Once only: again is 404."""
    service_id = path_id(request, "service_id")
    read_query(request, {})
    in_use = And(Service.id == service_id, Service.archived_at.is_null())
    await _update({Service.archived_at: datetime.now(UTC)}, service_id, in_use)


async def lock_catalogue() -> None:
    """Hold the catalogue until the transaction ends, against everybody else who writes it.

    Ids and names are two unique indexes: writers who meet in them crosswise would wait for each other.
    """
    await rows(f"SELECT pg_advisory_xact_lock({CATALOGUE_LOCK})")


@retry_on_lock_timeout
async def _update(values: dict[Any, Any], service_id: int, which: Combinable) -> Row:
    try:
        async with transaction():
            await lock_catalogue()
            changed = (
                await Service.update({**values, Service.updated_at: datetime.now(UTC)})
                .where(which)
                .returning(*Service.all_columns())
            )
    except asyncpg.UniqueViolationError:
        raise ServiceNameTakenError(str(values[Service.name])) from None
    if not changed:
        raise ServiceNotFoundError(service_id)
    found: Row = changed[0]
    return found


@route("/services", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def list_services(request: AnyRequest) -> Response[bytes]:
    """List services by id; archived ones only when asked for."""
    query = read_query(request, {"include_archived": read_yes_no, "limit": read_limit, "cursor": str})
    limit = query.get("limit", DEFAULT_LIMIT)
    wanted: Combinable = Service.id > (read_cursor(request, query, fields.read_id) or 0)
    if not query.get("include_archived"):
        wanted = And(wanted, Service.archived_at.is_null())
    found: list[Row] = await Service.select().where(wanted).order_by(Service.id).limit(limit + 1)
    shown = found[:limit]
    return answer_page(
        request,
        Page(
            [_shown(service).decode() for service in shown], [shown[-1]["id"]] if len(found) > limit else None
        ),
    )


ROUTES = [create_service, list_services, read_service, rename_service, archive_service]
