"""The HTTP routes of webhooks."""

from __future__ import annotations

import msgspec
from litestar import Response, delete, patch, post, route

from api.http.bodies import MERGE_PATCH, check_own_id, read_body
from api.http.fields import GREATEST_ID, one_of, read_id, read_position
from api.http.idempotency import answer_write, read_idempotency_key
from api.http.json_text import encode
from api.http.media_types import JSON
from api.http.pages import answer_page, limit_of, read_cursor
from api.http.parameters import PAGING, Query, path_id, query_of
from api.http.request import READ, AnyRequest
from api.http.responses import BytesResponse
from api.http.scopes import WEBHOOKS_MANAGE
from api.webhooks import commands, missed, queries, replays
from api.webhooks.bodies import NewWebhook, Replay, SecretRotation, WebhookPatch
from api.webhooks.queries import StoredDelivery, StoredWebhook


def _answer(
    resource: StoredWebhook | StoredDelivery, status: int = 200, headers: dict[str, str] | None = None
) -> Response[bytes]:
    return BytesResponse(resource.json().encode(), status_code=status, media_type=JSON, headers=headers)


@post("/webhooks", opt={"scope": WEBHOOKS_MANAGE})
async def create_webhook(request: AnyRequest) -> Response[bytes]:
    """Create a webhook; its secret is shown here, and never again."""
    new = await read_body(request, NewWebhook)
    answer = await commands.create_webhook(new, read_idempotency_key(request, commands.CREATION, new))
    location = f"/webhooks/{msgspec.json.decode(answer.text)['id']}"
    return answer_write(answer, {"Location": location, "Cache-Control": "no-store"})


@route("/webhooks", http_method=READ, opt={"scope": WEBHOOKS_MANAGE, "query": Query(PAGING)})
async def list_webhooks(request: AnyRequest) -> Response[bytes]:
    """List webhooks by id."""
    after = read_cursor(request, read_position) or 0
    return answer_page(request, await queries.list_webhooks(after, limit_of(request)))


@route("/webhooks/{webhook_id:str}", http_method=READ, opt={"scope": WEBHOOKS_MANAGE})
async def read_webhook(request: AnyRequest) -> Response[bytes]:
    """Show a webhook."""
    webhook_id = path_id(request, "webhook_id")
    return _answer(await queries.find_webhook(webhook_id))


@patch("/webhooks/{webhook_id:str}", opt={"scope": WEBHOOKS_MANAGE})
async def update_webhook(request: AnyRequest) -> Response[bytes]:
    """Change parts of a webhook; enable or disable it."""
    webhook_id = path_id(request, "webhook_id")
    change = await read_body(request, WebhookPatch, MERGE_PATCH)
    check_own_id(change.id, webhook_id)
    return _answer(await commands.change_webhook(webhook_id, change))


@delete("/webhooks/{webhook_id:str}", status_code=204, opt={"scope": WEBHOOKS_MANAGE})
async def delete_webhook(request: AnyRequest) -> None:
    """Delete a webhook."""
    webhook_id = path_id(request, "webhook_id")
    await commands.delete_webhook(webhook_id)


@post("/webhooks/{webhook_id:str}/secret/rotation", opt={"scope": WEBHOOKS_MANAGE})
async def rotate_secret(request: AnyRequest) -> Response[bytes]:
    """Make a new secret; the old one also signs for a while."""
    webhook_id = path_id(request, "webhook_id")
    rotation = await read_body(request, SecretRotation)
    key = read_idempotency_key(request, commands.rotation_operation(webhook_id), rotation)
    answer = await commands.rotate_secret(webhook_id, rotation, key)
    return answer_write(answer, {"Cache-Control": "no-store"}, status_code=200)


@post("/webhooks/{webhook_id:str}/test", opt={"scope": WEBHOOKS_MANAGE})
async def send_test(request: AnyRequest) -> Response[bytes]:
    """Send a notification of type webhook.test soon; it is attempted once."""
    webhook_id = path_id(request, "webhook_id")
    delivery = await commands.send_test(webhook_id)
    return _answer(delivery, 202, {"Location": f"/webhooks/{webhook_id}/deliveries/{delivery.id}"})


@route(
    "/webhooks/{webhook_id:str}/deliveries",
    http_method=READ,
    opt={"scope": WEBHOOKS_MANAGE, "query": Query({"status": one_of(*queries.STATUSES), **PAGING})},
)
async def list_deliveries(request: AnyRequest) -> Response[bytes]:
    """List deliveries with their attempts, newest first."""
    webhook_id = path_id(request, "webhook_id")
    before = read_cursor(request, read_id) or GREATEST_ID
    await queries.find_webhook(webhook_id)
    status = query_of(request).get("status")
    return answer_page(request, await queries.list_deliveries(webhook_id, status, before, limit_of(request)))


@route(
    "/webhooks/{webhook_id:str}/deliveries/{delivery_id:str}",
    http_method=READ,
    opt={"scope": WEBHOOKS_MANAGE},
)
async def read_delivery(request: AnyRequest) -> Response[bytes]:
    """Show a delivery with its attempts."""
    webhook_id, delivery_id = path_id(request, "webhook_id"), path_id(request, "delivery_id")
    await queries.find_webhook(webhook_id)
    return _answer(await queries.find_delivery(webhook_id, delivery_id))


@route(
    "/webhooks/{webhook_id:str}/missed",
    http_method=READ,
    opt={"scope": WEBHOOKS_MANAGE, "query": Query({"reason": one_of(*missed.REASONS), **PAGING})},
)
async def list_missed(request: AnyRequest) -> Response[bytes]:
    """List every change that the webhook did not acknowledge, and why."""
    webhook_id = path_id(request, "webhook_id")
    reason = query_of(request).get("reason")
    after = read_cursor(request, read_position) or 0
    page = await missed.list_missed(webhook_id, reason, after, limit_of(request))
    as_of = {"after": page.after, "position": page.position, "acknowledged": page.acknowledged}
    return answer_page(request, page.page, head=f'"as_of":{encode(as_of).decode()},')


@post("/webhooks/{webhook_id:str}/replay", opt={"scope": WEBHOOKS_MANAGE})
async def replay(request: AnyRequest) -> Response[bytes]:
    """Send again what was missed, or everything after a position, in order."""
    webhook_id = path_id(request, "webhook_id")
    requested = await read_body(request, Replay)
    deliveries = await replays.replay(webhook_id, requested)
    return BytesResponse(encode({"deliveries": deliveries}), status_code=202, media_type=JSON)


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
