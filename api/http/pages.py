"""Lists: their one shape ``{"items", "next", "next_cursor"}``, and the opaque cursors of their pages."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote_plus

from litestar import Response

from api.http.json_text import encode_text
from api.http.media_types import JSON
from api.http.parameters import parameters_of, query_of
from api.http.problem_types import INVALID_CURSOR, URI_TOO_LONG
from api.http.problems import ProblemError
from api.http.request_sizes import LONGEST_QUERY_BYTES
from api.http.responses import BytesResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from api.http.request import AnyRequest

T = TypeVar("T")

_UNRESERVED = re.compile(r"[A-Za-z0-9_.~-]*")

DEFAULT_LIMIT = 50

START = "start"
"""The cursor of the first page of every list. No other cursor is equal: no base64 has this length."""


@dataclass(frozen=True)
class Page:
    """A page of items, each as JSON text, and where the next page begins (None: this is the last)."""

    items: Sequence[str]
    next_after: Sequence[object] | None

    @classmethod
    def of(
        cls,
        rows: Sequence[T],
        limit: int,
        show: Callable[[T], str],
        place_of: Callable[[T], Sequence[object]],
    ) -> Page:
        """Make a page of up to ``limit`` rows, from a query whose limit was one row more.

        Args:
            rows: in the list's order; one more than ``limit`` means that there is a next page.
            limit: the most items that the page may have.
            show: writes a row as JSON text.
            place_of: returns a row's place in the list, as a cursor keeps it.

        """
        shown = rows[:limit]
        return cls(list(map(show, shown)), place_of(shown[-1]) if len(rows) > limit else None)


Filters = Sequence[tuple[str, str]]
"""Parameters that decide what is in a list; a name may appear more than once."""


def limit_of(request: AnyRequest) -> int:
    """Return how many items a page may have."""
    limit: int = query_of(request).get("limit", DEFAULT_LIMIT)
    return limit


def _digest(filters: Filters) -> str:
    return blake2s(json.dumps(sorted(filters)).encode(), digest_size=6).hexdigest()


def encode_cursor(after: Sequence[object], filters: Filters) -> str:
    """Make a cursor for the place after an item, valid only with the filters it was made with."""
    text = json.dumps([_digest(filters), *after], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(request: AnyRequest, read: Callable[..., T]) -> T | None:
    """Read the place after which the requested page begins; None if it is the first.

    Args:
        request: with its cursor and filters.
        read: makes a place from a cursor's values. Anyone can forge a cursor, so it checks every value, and
            raises ValueError (TypeError for a wrong number of values).

    Raises:
        ProblemError: 400, this service did not make it, or made it for other filters.

    """
    query = query_of(request)
    if query.get("cursor", START) == START:
        return None
    cursor, filters = query["cursor"], filters_of(request)
    try:
        digest, *after = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
        if encode_cursor(after, filters) == cursor:
            return read(*after)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        digest = _digest(filters)
    why = "was not made by this service" if digest == _digest(filters) else "was made for other filters"
    raise ProblemError(INVALID_CURSOR, f"The cursor {why}; start again without it.")


def filters_of(request: AnyRequest) -> Filters:
    """Return the parameters that decide what is in a list, as opposed to what is shown of it."""
    others = {"cursor", "limit", "count"}
    if request.route_handler.opt.get("standby") == "parameters":
        others |= {"min_position", "after_version", "wait"}
    return [pair for pair in parameters_of(request) if pair[0] not in others]


def _encode(text: str) -> str:
    # Most need no encoding, and to find that out takes `quote_plus` longer than all else here.
    return text if _UNRESERVED.fullmatch(text) else quote_plus(text)


def answer_page(
    request: AnyRequest, page: Page, head: str = "", headers: Mapping[str, str] | None = None
) -> Response[bytes]:
    """Answer with a page, the next page's URL (also in a Link header, RFC 8288) and the cursor in it.

    Args:
        request: its URL, with another cursor, is the next page's.
        page: the page.
        head: JSON text of members before ``items``, each with a comma after it.
        headers: further headers.

    Raises:
        ProblemError: 414, the next page's query would be too long.

    """
    next_url = cursor = None
    if page.next_after is not None:
        cursor = encode_cursor(page.next_after, filters_of(request))
        # Not count: whoever follows a list has counted it, and its exact count may take long.
        kept = [pair for pair in parameters_of(request) if pair[0] not in ("cursor", "count")]
        query = "&".join(f"{_encode(name)}={_encode(value)}" for name, value in (*kept, ("cursor", cursor)))
        if len(query) > LONGEST_QUERY_BYTES:
            longest = f"{LONGEST_QUERY_BYTES:,} bytes"
            raise ProblemError(
                URI_TOO_LONG, f"The query of the next page is longer than {longest}: filter by less."
            )
        next_url = f"{request.scope['path']}?{query}"
    following = f'"next":{encode_text(next_url)},"next_cursor":{encode_text(cursor)}'
    body = f'{{{head}"items":[{",".join(page.items)}],{following}}}'
    link = {"Link": f'<{next_url}>; rel="next"'} if next_url else {}
    return BytesResponse(body.encode(), media_type=JSON, headers={**(headers or {}), **link})
