"""Webhooks over HTTP."""

from __future__ import annotations

import msgspec
from litestar import HttpMethod, Response, delete, patch, post, route

from api import fields
from api.idempotency import read_idempotency_key
from api.pages import DEFAULT_LIMIT, answer_page, read_cursor
from api.requests import MERGE_PATCH, AnyRequest, path_id, read_body, read_limit, read_query
from api.webhooks import commands, queries
from api.webhooks.bodies import NewWebhook, Replay, SecretRotation, WebhookPatch
from shared.database.rows import Row

_encode = msgspec.json.Encoder().encode
_READ = [HttpMethod.GET, HttpMethod.HEAD]


def _json(body: str | bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response[bytes]:
    content = body.encode() if isinstance(body, str) else body
    return Response(content, status_code=status, media_type="application/json", headers=headers or {})


def _answer(webhook: Row) -> Response[bytes]:
    return _json(_encode(queries.shown_webhook(webhook)))


@post("/webhooks")
async def create_webhook(request: AnyRequest) -> Response[bytes]:
    """Make a webhook; its secret is shown here, and never again."""
    read_query(request, {})
    new = await read_body(request, NewWebhook)
    shown, replayed = await commands.create_webhook(
        new, read_idempotency_key(request, commands.CREATION, new)
    )
    headers = {"Location": f"/webhooks/{msgspec.json.decode(shown)['id']}", "Cache-Control": "no-store"}
    return _json(shown, 201, headers | _replayed(replayed=replayed))


def _replayed(*, replayed: bool) -> dict[str, str]:
    return {"Idempotency-Replayed": "true"} if replayed else {}


@route("/webhooks", http_method=_READ)
async def list_webhooks(request: AnyRequest) -> Response[bytes]:
    """List webhooks by id."""
    query = read_query(request, {"limit": read_limit, "cursor": str})
    page = await queries.list_webhooks(
        read_cursor(request, query, fields.read_position) or 0, query.get("limit", DEFAULT_LIMIT)
    )
    return answer_page(request, page)


@route("/webhooks/{webhook_id:str}", http_method=_READ)
async def read_webhook(request: AnyRequest) -> Response[bytes]:
    """Show a webhook."""
    webhook_id = path_id(request, "webhook_id")
    read_query(request, {})
    return _answer(await queries.find_webhook(webhook_id))


@patch("/webhooks/{webhook_id:str}")
async def update_webhook(request: AnyRequest) -> Response[bytes]:
    """Change parts of a webhook; enable or disable it."""
    webhook_id = path_id(request, "webhook_id")
    read_query(request, {})
    change = await read_body(request, WebhookPatch, MERGE_PATCH)
    return _answer(await commands.change_webhook(webhook_id, change))


@delete("/webhooks/{webhook_id:str}", status_code=204)
async def delete_webhook(request: AnyRequest) -> None:
    """Delete a webhook."""
    webhook_id = path_id(request, "webhook_id")
    read_query(request, {})
    await commands.delete_webhook(webhook_id)


@post("/webhooks/{webhook_id:str}/secret/rotation")
async def rotate_secret(request: AnyRequest) -> Response[bytes]:
    """Make a new secret; the old one signs too for a while."""
    webhook_id = path_id(request, "webhook_id")
    read_query(request, {})
    rotation = await read_body(request, SecretRotation)
    key = read_idempotency_key(request, commands.rotation_of(webhook_id), rotation)
    answer, replayed = await commands.rotate_secret(webhook_id, rotation, key)
    return _json(answer, 200, {"Cache-Control": "no-store"} | _replayed(replayed=replayed))


@post("/webhooks/{webhook_id:str}/test")
async def send_test(request: AnyRequest) -> Response[bytes]:
    """Send a notification of type webhook.test soon, once."""
    webhook_id = path_id(request, "webhook_id")
    read_query(request, {})
    delivery = await commands.send_test(webhook_id)
    location = f"/webhooks/{webhook_id}/deliveries/{msgspec.json.decode(delivery)['id']}"
    return _json(delivery, 202, {"Location": location})


@route("/webhooks/{webhook_id:str}/deliveries", http_method=_READ)
async def list_deliveries(request: AnyRequest) -> Response[bytes]:
    """List deliveries with their attempts, newest first."""
    webhook_id = path_id(request, "webhook_id")
    query = read_query(
        request, {"status": fields.one_of(*queries.STATUSES), "limit": read_limit, "cursor": str}
    )
    before = read_cursor(request, query, fields.read_id) or fields.GREATEST_ID
    await queries.find_webhook(webhook_id)
    page = await queries.list_deliveries(
        webhook_id, query.get("status"), before, query.get("limit", DEFAULT_LIMIT)
    )
    return answer_page(request, page)


@route("/webhooks/{webhook_id:str}/deliveries/{delivery_id:str}", http_method=_READ)
async def read_delivery(request: AnyRequest) -> Response[bytes]:
    """Show a delivery with its attempts."""
    webhook_id, delivery_id = path_id(request, "webhook_id"), path_id(request, "delivery_id")
    read_query(request, {})
    await queries.find_webhook(webhook_id)
    return _json(await queries.delivery_of(webhook_id, delivery_id))


@route("/webhooks/{webhook_id:str}/missed", http_method=_READ)
async def list_missed(request: AnyRequest) -> Response[bytes]:
    """List every change that was not acknowledged, and why."""
    webhook_id = path_id(request, "webhook_id")
    query = read_query(
        request, {"reason": fields.one_of(*queries.REASONS), "limit": read_limit, "cursor": str}
    )
    missed = await queries.list_missed(
        webhook_id,
        query.get("reason"),
        read_cursor(request, query, fields.read_position) or 0,
        query.get("limit", DEFAULT_LIMIT),
    )
    as_of = {"after": missed.after, "position": missed.position, "acknowledged": missed.acknowledged}
    return answer_page(request, missed.page, head=f'"as_of":{_encode(as_of).decode()},')


@post("/webhooks/{webhook_id:str}/replay")
async def replay(request: AnyRequest) -> Response[bytes]:
    """Send again what was missed, or everything after a position, in order."""
    webhook_id = path_id(request, "webhook_id")
    read_query(request, {})
    wanted = await read_body(request, Replay)
    return _json(_encode({"deliveries": await commands.replay(webhook_id, wanted)}), 202)


ROUTES = [
    create_webhook,
    list_webhooks,
    read_webhook,
    update_webhook,
    delete_webhook,
    rotate_secret,
    send_test,
    list_deliveries,
    read_delivery,
    list_missed,
    replay,
]
