"""The HTTP routes of services."""

from __future__ import annotations

import msgspec
from litestar import Response, delete, post, put, route

from api.http.bodies import check_own_id, read_body
from api.http.fields import read_id
from api.http.idempotency import answer_write, read_idempotency_key
from api.http.media_types import JSON
from api.http.pages import answer_page, limit_of, read_cursor
from api.http.parameters import PAGING, Query, path_id, query_of, read_boolean
from api.http.request import READ, AnyRequest
from api.http.responses import BytesResponse
from api.http.scopes import ORDERS_READ, SERVICES_MANAGE
from api.services import commands, queries
from api.services.bodies import NewService, ServiceRenaming


def _answer(service: queries.StoredService) -> Response[bytes]:
    return BytesResponse(service.json().encode(), status_code=200, media_type=JSON)


@post("/services", opt={"scope": SERVICES_MANAGE})
async def create_service(request: AnyRequest) -> Response[bytes]:
    """Add a service to the catalogue."""
    new = await read_body(request, NewService)
    answer = await commands.create_service(new, read_idempotency_key(request, "createService", new))
    return answer_write(answer, {"Location": f"/services/{msgspec.json.decode(answer.text)['id']}"})


@route("/services/{service_id:str}", http_method=READ, opt={"scope": ORDERS_READ})
async def read_service(request: AnyRequest) -> Response[bytes]:
    """Show a service, archived or not."""
    return _answer(await queries.find_service(path_id(request, "service_id")))


@put("/services/{service_id:str}", opt={"scope": SERVICES_MANAGE})
async def rename_service(request: AnyRequest) -> Response[bytes]:
    """Rename a service. Orders keep the name that it had when they were written."""
    service_id = path_id(request, "service_id")
    renaming = await read_body(request, ServiceRenaming)
    check_own_id(renaming.id, service_id)
    return _answer(await commands.rename_service(service_id, renaming.name))


@delete("/services/{service_id:str}", status_code=204, opt={"scope": SERVICES_MANAGE})
async def archive_service(request: AnyRequest) -> None:
    """Archive a service: it stays readable and can no longer be ordered. A second time is 404."""
    await commands.archive_service(path_id(request, "service_id"))


@post("/services/{service_id:str}/restore", status_code=200, opt={"scope": SERVICES_MANAGE})
async def restore_service(request: AnyRequest) -> Response[bytes]:
    """Undo the archiving of a service: it can be ordered again."""
    return _answer(await commands.restore_service(path_id(request, "service_id")))


@route(
    "/services",
    http_method=READ,
    opt={"scope": ORDERS_READ, "query": Query({"include_archived": read_boolean, **PAGING})},
)
async def list_services(request: AnyRequest) -> Response[bytes]:
    """List services by id; archived ones only with ``include_archived``."""
    after = read_cursor(request, read_id) or 0
    include_archived = query_of(request).get("include_archived", False)
    page = await queries.list_services(after, limit_of(request), include_archived=include_archived)
    return answer_page(request, page)


ROUTES = [create_service, list_services, read_service, rename_service, archive_service, restore_service]
