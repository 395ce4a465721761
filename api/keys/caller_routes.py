"""The HTTP route by which a caller learns who it is here, and what it may do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from litestar import Response, route

from api.http.access import caller_of
from api.http.json_text import encode_text
from api.http.media_types import JSON
from api.http.request import READ, AnyRequest
from api.http.responses import BytesResponse
from api.http.scopes import ANY_KEY, in_order
from api.http.stored_keys import STORED_KEYS
from api.http.times import utc_text
from api.keys.queries import find_expiry
from shared.settings import settings

if TYPE_CHECKING:
    from api.http.callers import Caller


@route("/caller", http_method=READ, opt={"scope": ANY_KEY})
async def read_caller(request: AnyRequest) -> Response[bytes]:
    """Show whose key or token the request has, and what that allows."""
    caller = caller_of(request)
    # Where it can't be known whether there are keys in the database, the answer is 503 and not a guess.
    keys_required = settings().asks_for_keys or (await STORED_KEYS.read()).exist
    expires_at = await _expiry_of(caller)
    members = {
        "name": caller.name,
        "scopes": in_order(caller.scopes),
        "reads_all": caller.reads_all,
        "expires_at": None if expires_at is None else utc_text(expires_at),
        "keys_required": keys_required,
    }
    return BytesResponse(encode_text(members).encode(), media_type=JSON)


async def _expiry_of(caller: Caller) -> datetime | None:
    if caller.token_ends_at is not None:
        return datetime.fromtimestamp(caller.token_ends_at, UTC)
    return await find_expiry(caller.key) if caller.key else None


ROUTES = [read_caller]
