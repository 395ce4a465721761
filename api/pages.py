"""Lists: their one shape ``{"items", "next"}``, and the opaque cursors that lead from page to page."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2s
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from litestar import Response

from api.problem_types import INVALID_CURSOR
from api.problems import ProblemError

if TYPE_CHECKING:
    from litestar.datastructures import MultiDict

    from api.requests import AnyRequest

DEFAULT_LIMIT = 50


@dataclass(frozen=True)
class Page:
    """A page of items, each as JSON text, and where the next page begins (None: this is the last)."""

    items: Sequence[str]
    next_after: Sequence[object] | None


Filters = Sequence[tuple[str, str]]
"""Parameters that decide what is in a list; a name may stand more than once."""


def _digest(filters: Filters) -> str:
    return blake2s(json.dumps(sorted(filters)).encode(), digest_size=6).hexdigest()


def encode_cursor(after: Sequence[object], filters: Filters) -> str:
    """Make a cursor that stands behind an item, and only for the filters it was made with."""
    text = json.dumps([_digest(filters), *after], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str, filters: Filters) -> list[Any]:
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


def _why(digest: object, filters: Filters) -> str:
    if digest != _digest(filters):
        return "The cursor was made for other filters; start again without it."
    return "The cursor was not made by this service."


def filters_of(query: MultiDict[str]) -> Filters:
    """Give the parameters that decide what is in a list, as opposed to how much of it a page shows."""
    return [(name, value) for name, value in query.multi_items() if name not in ("cursor", "limit")]


def answer_page(request: AnyRequest, page: Page, head: str = "") -> Response[bytes]:
    """Answer a page: the next page's address in the body and in a Link header (RFC 8288).

    ``head`` is JSON text of further members, ending in a comma.
    """
    following = None
    if page.next_after is not None:
        cursor = encode_cursor(page.next_after, filters_of(request.query_params))
        query = [pair for pair in request.query_params.multi_items() if pair[0] != "cursor"]
        following = f"{request.url.path}?{urlencode([*query, ('cursor', cursor)])}"
    body = f'{{{head}"items":[{",".join(page.items)}],"next":{json.dumps(following)}}}'
    headers = {"Link": f'<{following}>; rel="next"'} if following else {}
    return Response(body.encode(), media_type="application/json", headers=headers)
