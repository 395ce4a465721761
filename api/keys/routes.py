"""The HTTP routes of API keys."""

from __future__ import annotations

import msgspec
from litestar import Response, delete, post, route

from api.http.access import caller_of
from api.http.bodies import read_body, read_optional_body
from api.http.idempotency import answer_write, read_idempotency_key
from api.http.key_texts import read_key_id
from api.http.media_types import JSON
from api.http.pages import answer_page, limit_of, read_cursor
from api.http.parameters import PAGING, Query, path_value
from api.http.request import READ, AnyRequest
from api.http.responses import BytesResponse
from api.http.scopes import KEYS_MANAGE
from api.keys import commands, queries
from api.keys.bodies import KeyRotation, NewKey, read_name

_NOT_STORED = {"Cache-Control": "no-store"}


@route("/keys", http_method=READ, opt={"scope": KEYS_MANAGE, "query": Query(PAGING)})
async def list_keys(request: AnyRequest) -> Response[bytes]:
    """List the keys in use by name."""
    after = read_cursor(request, read_name) or ""
    return answer_page(request, await queries.list_keys(after, limit_of(request)))


@post("/keys", opt={"scope": KEYS_MANAGE})
async def create_key(request: AnyRequest) -> Response[bytes]:
    """Make a key; it is shown here, and never again."""
    new = await read_body(request, NewKey)
    idempotency_key = read_idempotency_key(request, commands.CREATION, new)
    answer = await commands.create_key(new, caller_of(request), idempotency_key)
    location = f"/keys/{msgspec.json.decode(answer.text)['id']}"
    return answer_write(answer, {"Location": location, **_NOT_STORED})


@route("/keys/{key_id:str}", http_method=READ, opt={"scope": KEYS_MANAGE})
async def read_key(request: AnyRequest) -> Response[bytes]:
    """Show a key, without its secret."""
    key = await queries.find_key(path_value(request, "key_id", read_key_id))
    return BytesResponse(key.json().encode(), media_type=JSON)


@delete("/keys/{key_id:str}", status_code=204, opt={"scope": KEYS_MANAGE})
async def revoke_key(request: AnyRequest) -> None:
    """Revoke a key."""
    await commands.revoke_key(path_value(request, "key_id", read_key_id))


@post("/keys/{key_id:str}/rotation", opt={"scope": KEYS_MANAGE})
async def rotate_key(request: AnyRequest) -> Response[bytes]:
    """Give a key a new secret, shown here; the old one is accepted for a while."""
    key_id = path_value(request, "key_id", read_key_id)
    rotation = await read_optional_body(request, KeyRotation)
    idempotency_key = read_idempotency_key(request, commands.rotation_operation(key_id), rotation)
    answer = await commands.rotate_key(key_id, rotation, caller_of(request), idempotency_key)
    return answer_write(answer, _NOT_STORED, status_code=200)


ROUTES = [list_keys, create_key, read_key, revoke_key, rotate_key]
