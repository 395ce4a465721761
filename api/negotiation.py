"""Which media type to answer with (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from api.problem_types import NOT_ACCEPTABLE
from api.problems import ProblemError
from api.requests import method_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from litestar.handlers import BaseRouteHandler

    from api.requests import AnyConnection

JSON = "application/json"

_QUALITY = re.compile(r";\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*(?:;|$)", re.IGNORECASE)


def _quality(offered: str, accept: str) -> float:
    """Say how welcome a media type is, 0 to 1: what names it most closely decides."""
    main_type = offered.partition("/")[0]
    closeness = {offered: 3, f"{main_type}/*": 2, "*/*": 1}
    found = (0, 0.0)
    for accepted_range in accept.split(","):
        media_range = accepted_range.partition(";")[0].strip().lower()
        if media_range in closeness:
            said = _QUALITY.search(accepted_range)
            found = max(found, (closeness[media_range], float(said[1]) if said else 1.0))
    return found[1]


def accepted(connection: AnyConnection, offered: Sequence[str]) -> str:
    """Choose what the caller likes best of what is offered; the first of it if they say nothing.

    Raises:
        ProblemError: 406, nothing of it is accepted.

    """
    given = ",".join(connection.headers.getall("accept", []))
    if not given.strip():
        return offered[0]
    best = max(offered, key=lambda media_type: _quality(media_type, given))
    if _quality(best, given) == 0:
        raise ProblemError(NOT_ACCEPTABLE, f"This operation answers with {' or '.join(offered)}.")
    return best


def check_acceptable(connection: AnyConnection, handler: BaseRouteHandler) -> None:
    """Refuse, before anything is done, a request whose answer its caller would not take.

    A route says what it produces in its ``opt``; JSON, if it doesn't. A deletion
    answers without content.
    """
    if method_of(connection) not in ("DELETE", "OPTIONS"):
        accepted(connection, handler.opt.get("produces", (JSON,)))
