"""Answers that are pictures (SVG) where JSON is the default: when, their headers, and what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.fields import one_of
from api.http.media_types import JSON, SVG, choose, media_type_of
from api.http.parameters import PAGING, Readers, query_of
from api.http.problems import Fault, malformed
from api.http.responses import BytesResponse
from shared.setting_values import check_zone_name
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from api.http.request import AnyRequest

OFFERED = (JSON, SVG)
"""``opt["produces"]`` of a route that answers with either."""

_FORMATS = {"json": JSON, "svg": SVG}

read_format = one_of(*_FORMATS)
"""Reads the parameter ``format``."""

TIMELINE: Readers = {"format": read_format, "time_zone": check_zone_name}
"""The parameters of a route that answers with a timeline, beside those of its JSON."""

VARY = {"Vary": "Accept"}
"""A header of every answer of such a route, in whichever form."""

PICTURE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    **VARY,
}
"""A picture that is opened as a document of its own runs no script and loads nothing."""


def wants_picture(
    request: AnyRequest, meaningless: Iterable[str] = PAGING, only_there: Iterable[str] = ()
) -> bool:
    """Return whether to answer with a picture: ``format`` says so, or ``Accept`` rates it highest.

    Args:
        request: its route has ``OFFERED`` and ``read_format``.
        meaningless: parameters that a picture refuses; by default those of pages.
        only_there: parameters that JSON refuses.

    Raises:
        ProblemError: 400, a parameter has no meaning with the form; 406, ``Accept`` excludes ``format``.

    """
    query = query_of(request)
    media_type = media_type_of(request)
    if "format" in query:
        media_type = choose(request, (_FORMATS[query["format"]],))
    refused = meaningless if media_type == SVG else only_there
    faults = [Fault(f"has no meaning with {media_type}", parameter=name) for name in refused if name in query]
    if faults:
        raise malformed(*faults)
    return media_type == SVG


def wants_timeline(request: AnyRequest) -> bool:
    """Return whether to answer with a timeline, of a route that has the parameters of ``TIMELINE``.

    Raises:
        ProblemError: as ``wants_picture``.

    """
    return wants_picture(request, (*PAGING, "count", "sort", "next"), ("time_zone",))


def zone_of(request: AnyRequest) -> str:
    """Return the name of the zone that a timeline's days and times are in."""
    zone: str = query_of(request).get("time_zone", settings().time_zone)
    return zone


def answer_picture(picture: bytes) -> BytesResponse:
    """Answer with a picture."""
    return BytesResponse(picture, media_type=SVG, headers=PICTURE_HEADERS)
