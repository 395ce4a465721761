"""Answers that are pictures (SVG) where JSON is the default: when, their headers, and what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.fields import one_of
from api.http.media_types import JSON, SVG, choose, media_type_of
from api.http.parameters import PAGING, query_of
from api.http.problems import Fault, malformed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from api.http.request import AnyRequest

OFFERED = (JSON, SVG)
"""``opt["produces"]`` of a route that answers with either."""

_FORMATS = {"json": JSON, "svg": SVG}

read_format = one_of(*_FORMATS)
"""Reads the parameter ``format``."""

VARY = {"Vary": "Accept"}
"""A header of every answer of such a route, in whichever form."""

PICTURE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    **VARY,
}
"""A picture that is opened as a document of its own runs no script and loads nothing."""


def wants_picture(request: AnyRequest, meaningless: Iterable[str] = PAGING) -> bool:
    """Return whether to answer with a picture: ``format`` says so, or ``Accept`` rates it highest.

    Args:
        request: its route has ``OFFERED`` and ``read_format``.
        meaningless: parameters that a picture refuses; by default those of pages.

    Raises:
        ProblemError: 400, a parameter has no meaning with a picture; 406, ``Accept`` excludes ``format``.

    """
    query = query_of(request)
    media_type = media_type_of(request)
    if "format" in query:
        media_type = choose(request, (_FORMATS[query["format"]],))
    if media_type != SVG:
        return False
    faults = [Fault(f"has no meaning with {SVG}", parameter=name) for name in meaningless if name in query]
    if faults:
        raise malformed(*faults)
    return True
