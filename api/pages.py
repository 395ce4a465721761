"""Lists: their one shape ``{"items", "next"}``, and the opaque cursors that lead from page to page."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from hashlib import blake2s
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from litestar import Response

from api.problem_types import INVALID_CURSOR
from api.problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from api.requests import AnyRequest

DEFAULT_LIMIT = 50


@dataclass(frozen=True)
class Page:
    """A page of items, each as JSON text, and where the next page begins (None: this is the last)."""

    items: Sequence[str]
    next_after: Sequence[object] | None


def _digest(filters: Mapping[str, str]) -> str:
    return blake2s(json.dumps(sorted(filters.items())).encode(), digest_size=6).hexdigest()


def encode_cursor(after: Sequence[object], filters: Mapping[str, str]) -> str:
    """Make a cursor that stands behind an item, and only for the filters it was made with."""
    text = json.dumps([_digest(filters), *after], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str, filters: Mapping[str, str]) -> list[Any]:
    """Read a cursor.

    Raises:
        ProblemError: 400, it is none of ours, or was made for other filters.

    """
    try:
        after: list[Any]
        digest, *after = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
        if encode_cursor(after, filters) != cursor:
            raise ProblemError(INVALID_CURSOR, _why(digest, filters))
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise ProblemError(INVALID_CURSOR, "The cursor was not made by this service.") from None
    return after


def _why(digest: object, filters: Mapping[str, str]) -> str:
    if digest != _digest(filters):
        return "The cursor was made for other filters; start again without it."
    return "The cursor was not made by this service."


def filters_of(query: Mapping[str, str]) -> dict[str, str]:
    """Give the parameters that decide what is in a list, as opposed to how much of it a page shows."""
    return {name: value for name, value in query.items() if name not in ("cursor", "limit")}


def answer_page(request: AnyRequest, page: Page, head: str = "") -> Response[bytes]:
    """Answer a page: the next page's address in the body and in a Link header (RFC 8288).

    ``head`` is JSON text of further members, ending in a comma.
    """
    query = {name: request.query_params[name] for name in request.query_params}
    following = None
    if page.next_after is not None:
        cursor = encode_cursor(page.next_after, filters_of(query))
        following = f"{request.url.path}?{urlencode({**query, 'cursor': cursor})}"
    body = f'{{{head}"items":[{",".join(page.items)}],"next":{json.dumps(following)}}}'
    headers = {"Link": f'<{following}>; rel="next"'} if following else {}
    return Response(body.encode(), media_type="application/json", headers=headers)
