"""Which media type to answer with (RFC 9110, section 12.5.1). A route's ``opt`` names what it produces."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from api.http.problem_types import NOT_ACCEPTABLE
from api.http.problems import ProblemError
from api.http.request import header_values, method_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from litestar.handlers import BaseRouteHandler

    from api.http.request import AnyConnection

JSON = "application/json"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
SVG = "image/svg+xml"

_QUALITY = re.compile(r";\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*(?:;|$)", re.IGNORECASE)


def _quality(offered: str, accept: str) -> float:
    """Return the quality value of a media type, 0 to 1: the most specific range that matches it decides."""
    main_type = offered.partition("/")[0]
    specificity = {offered: 3, f"{main_type}/*": 2, "*/*": 1}
    best = (0, 0.0)
    for accepted_range in accept.split(","):
        media_range = accepted_range.partition(";")[0].strip().lower()
        if media_range in specificity:
            weight = _QUALITY.search(accepted_range)
            best = max(best, (specificity[media_range], float(weight[1]) if weight else 1.0))
    return best[1]


@lru_cache(64)
def _best(accept: str, offered: Sequence[str]) -> str | None:
    """Return the media type rated highest, or the first without ``Accept``; None if none is accepted."""
    if not accept.strip():
        return offered[0]
    best = max(offered, key=lambda media_type: _quality(media_type, accept))
    return best if _quality(best, accept) > 0 else None


def choose(connection: AnyConnection, offered: Sequence[str], elsewhere: str = "") -> str:
    """Return the media type that ``Accept`` rates highest, or the first without ``Accept``.

    Args:
        connection: the request.
        offered: the media types that the operation can answer with.
        elsewhere: a sentence that says where others are to be had.

    Raises:
        ProblemError: 406, none of them is accepted.

    """
    best = _best(",".join(header_values(connection.scope, b"accept")), tuple(offered))
    if best is None:
        answers = f"This operation answers with {' or '.join(offered)}."
        raise ProblemError(NOT_ACCEPTABLE, f"{answers} {elsewhere}".rstrip())
    return best


def check_acceptable(connection: AnyConnection, handler: BaseRouteHandler) -> None:
    """Choose the media type of the answer, for ``media_type_of``, before anything is done.

    It is one of the route's ``opt["produces"]``, JSON by default; ``opt["elsewhere"]`` says where others are.
    DELETE and OPTIONS have no content, so any ``Accept`` is fine.

    Raises:
        ProblemError: 406, none of them is accepted.

    """
    offered = produced_by(handler)
    if method_of(connection) in ("DELETE", "OPTIONS"):
        chosen = offered[0]
    else:
        chosen = choose(connection, offered, handler.opt.get("elsewhere", ""))
    connection.scope["media_type"] = chosen  # type: ignore[typeddict-unknown-key]  # a key of our own


def produced_by(handler: BaseRouteHandler) -> Sequence[str]:
    """Return the media types that a route answers with."""
    offered: Sequence[str] = handler.opt.get("produces", (JSON,))
    return offered


def media_type_of(connection: AnyConnection) -> str:
    """Return the media type to answer with."""
    media_type: str = connection.scope["media_type"]  # type: ignore[typeddict-item]  # as above
    return media_type
