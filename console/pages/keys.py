"""Keys: who may use the API, and for what."""

from __future__ import annotations

from datetime import UTC, datetime

from litestar import route
from litestar.enums import HttpMethod
from litestar.response import Template

from console.rendering import read_instant, render
from console.requests import PageRequest, ask
from console.sessions import key_of
from console.visitors import visitor_of

_READ = [HttpMethod.GET, HttpMethod.HEAD]

PER_PAGE = "50"

SCOPES = {
    "orders:read": "read orders, services and calendars",
    "orders:write": "create, change, move and cancel orders",
    "changes:read": "follow the changes of orders",
    "summaries:read": "read fee summaries",
    "webhooks:manage": "read and change webhooks",
    "services:manage": "change services and calendars",
    "keys:manage": "read, make, rotate and revoke keys",
}
"""What each scope allows."""


@route("/console/keys", http_method=_READ)
async def show_keys(request: PageRequest) -> Template:
    """Show the keys in use; where none are asked for, how to begin with them."""
    query = [("limit", PER_PAGE), ("cursor", request.query_params.get("cursor", ""))]
    await visitor_of(request)
    keys = (await ask(request, "/keys", query)).data
    return await render(
        request,
        "keys.html",
        keys=keys,
        expired={key["id"] for key in keys["items"] if _is_past(key["expires_at"])},
        scopes=SCOPES,
        session_key=_session_key_id(request),
    )


def _is_past(time: str | None) -> bool:
    return time is not None and read_instant(time) <= datetime.now(UTC)


def _session_key_id(request: PageRequest) -> str | None:
    """Return the id of the session's key; None if it is none of the database, which are ``oms_ID_SECRET``."""
    match (key_of(request.scope) or "").split("_"):
        case ["oms", key_id, _]:
            return key_id
    return None


ROUTES = [show_keys]
