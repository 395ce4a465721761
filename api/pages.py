"""Lists: their one shape ``{"items", "next"}``, and the opaque cursors that lead from page to page."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2s
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

from litestar import Response

from api.problem_types import INVALID_CURSOR
from api.problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from litestar.datastructures import MultiDict

    from api.requests import AnyRequest

T = TypeVar("T")

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


def read_cursor(request: AnyRequest, query: Mapping[str, Any], read: Callable[..., T]) -> T | None:
    """Read the place behind which the asked-for page begins; None if it is the first.

    Args:
        request: what its cursor was made for.
        query: its parameters as read; the cursor may be among them.
        read: makes a place of what the list's cursors hold. Anybody can make a cursor, so it looks at
            everything it is given, and raises ValueError (TypeError for another number of values).

    Raises:
        ProblemError: 400, it is none of ours, or was made for other filters.

    """
    if "cursor" not in query:
        return None
    cursor, filters = query["cursor"], filters_of(request.query_params)
    try:
        digest, *after = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
        if encode_cursor(after, filters) == cursor:
            return read(*after)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        digest = _digest(filters)
    why = "was not made by this service" if digest == _digest(filters) else "was made for other filters"
    raise ProblemError(INVALID_CURSOR, f"The cursor {why}; start again without it.")


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
