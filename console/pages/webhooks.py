"""Webhooks: the list, and one webhook with its deliveries and with what it missed."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

from litestar import route
from litestar.enums import HttpMethod
from litestar.response import Template

from console.rendering import render
from console.requests import PageRequest, ask
from console.visitors import visitor_of

_READ = [HttpMethod.GET, HttpMethod.HEAD]

PER_PAGE = "25"

TYPES = (
    *("order.created", "order.updated", "order.cancelled", "order.reinstated", "order.deleted"),
    "webhook.disabled",
)
"""What a webhook may subscribe to."""

STATUSES = ("pending", "retrying", "delivered", "exhausted", "disabled")
REASONS = ("pending", "retrying", "exhausted", "disabled", "filtered")


@route("/console/webhooks", http_method=_READ)
async def show_webhooks(request: PageRequest) -> Template:
    """Show all webhooks, and whether each works."""
    query = [("limit", PER_PAGE), ("cursor", request.query_params.get("cursor", ""))]
    await visitor_of(request)
    webhooks = await ask(request, "/webhooks", query)
    return await render(request, "webhooks.html", webhooks=webhooks.data, types=TYPES)


@route("/console/webhooks/{webhook_id:str}", http_method=_READ)
async def show_deliveries(request: PageRequest) -> Template:
    """Show a webhook and its deliveries, the newest first."""
    return await _show(request, "deliveries", "status", STATUSES)


@route("/console/webhooks/{webhook_id:str}/missed", http_method=_READ)
async def show_missed(request: PageRequest) -> Template:
    """Show a webhook and the changes that it did not acknowledge, with the reasons."""
    return await _show(request, "missed", "reason", REASONS)


async def _show(request: PageRequest, tab: str, name: str, values: tuple[str, ...]) -> Template:
    path = f"/webhooks/{quote(request.path_params['webhook_id'], safe='')}"
    chosen = request.query_params.get(name, "")
    query = [("limit", PER_PAGE), (name, chosen), ("cursor", request.query_params.get("cursor", ""))]
    await visitor_of(request)
    webhook, items = await asyncio.gather(ask(request, path), ask(request, f"{path}/{tab}", query))
    shown: dict[str, Any] = {"webhook": webhook.data, tab: items.data, "chosen": chosen}
    return await render(request, f"{tab}.html", tab=tab, types=TYPES, values=values, **shown)


ROUTES = [show_webhooks, show_deliveries, show_missed]
