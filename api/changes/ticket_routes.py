"""The HTTP route that makes tickets for the live stream."""

from __future__ import annotations

from litestar import Response, post

from api.http.access import caller_of
from api.http.json_text import encode
from api.http.media_types import JSON
from api.http.request import AnyRequest
from api.http.responses import BytesResponse
from api.http.scopes import CHANGES_READ
from api.http.stream_tickets import make_ticket
from api.http.times import utc_text


@post("/stream-tickets", opt={"scope": CHANGES_READ})
async def create_stream_ticket(request: AnyRequest) -> Response[bytes]:
    """Make a ticket with which a browser opens the stream; it is shown here, and never again."""
    ticket, expires_at = await make_ticket(caller_of(request))
    content = encode({"ticket": ticket, "expires_at": utc_text(expires_at)})
    return BytesResponse(content, media_type=JSON, status_code=201, headers={"Cache-Control": "no-store"})


ROUTES = [create_stream_ticket]
