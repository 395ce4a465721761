"""Search: an order by its id or its reference."""

from __future__ import annotations

import re
from typing import Any

from litestar import Response, route
from litestar.enums import HttpMethod
from litestar.response import Redirect

from console.rendering import render
from console.requests import PageRequest, ask
from console.visitors import visitor_of

READ = [HttpMethod.GET, HttpMethod.HEAD]

_ID = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


@route("/console/search", http_method=READ)
async def search_orders(request: PageRequest) -> Response[Any]:
    """Lead to the order with an id or a reference; list them if two match; say so if none does."""
    text = request.query_params.get("q", "").strip()
    orders = await _find(request, text) if text else []
    deleted = not orders and await _is_deleted(request, text)
    if len(orders) == 1 or deleted:
        order = orders[0]["id"] if orders else text
        return Redirect(f"/console/orders/{order}", status_code=303)
    return await render(request, "search.html", text=text, orders=orders)


async def _find(request: PageRequest, text: str) -> list[dict[str, Any]]:
    """Ask for both: a reference may look like an id. 400: the text can't be one, so no order has it."""
    by_id = await ask(request, "/orders", [("id", text)], refusals=frozenset({400}))
    by_reference = await ask(request, "/orders", [("reference", text)], refusals=frozenset({400}))
    orders = [order for answer in (by_id, by_reference) for order in answer.data.get("items", ())]
    return list({order["id"]: order for order in orders}.values())


async def _is_deleted(request: PageRequest, text: str) -> bool:
    """Return whether an order had this id of which the visitor may read the changes."""
    visitor = await visitor_of(request)
    if not _ID.fullmatch(text) or not visitor.may_read("changes:read"):
        return False
    query = [("limit", "1")]
    answer = await ask(request, f"/orders/{text}/changes", query, refusals=frozenset({404}))
    return bool(answer.data.get("items"))


ROUTES = [search_orders]
