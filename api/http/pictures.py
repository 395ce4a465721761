"""Operations that answer with JSON or with a picture: which of the two, and the headers of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.fields import one_of
from api.http.media_types import JSON, SVG, choose, media_type_of
from api.http.parameters import Readers, query_of
from api.http.problems import Fault, malformed
from api.http.responses import BytesResponse
from shared.setting_values import check_zone_name
from shared.settings import settings

if TYPE_CHECKING:
    from api.http.request import AnyRequest

_FORMATS = {"json": JSON, "svg": SVG}
PRODUCED = tuple(_FORMATS.values())
"""The ``produces`` of such a route. ``*/*`` is JSON; what browsers accept for an ``<img>`` is a picture."""

PICTURE: Readers = {"format": one_of(*_FORMATS), "time_zone": check_zone_name}
"""The parameters of such a route, beside those of its JSON."""

VARY = {"Vary": "Accept"}
"""For both answers."""

# What callers wrote is nothing but text in a picture. Were that ever wrong, nothing in it could run or load.
_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox", **VARY}

_OF_LISTS = ("limit", "cursor", "count", "sort", "next")


def is_picture(request: AnyRequest) -> bool:
    """Return whether to answer with a picture: as ``format`` says, or else ``Accept``.

    Raises:
        ProblemError: 406, ``Accept`` does not allow this format; 400, a parameter has no meaning with it.

    """
    query = query_of(request)
    media_type = media_type_of(request)
    if "format" in query:
        media_type = choose(request, (_FORMATS[query["format"]],))
    meaningless = _OF_LISTS if media_type == SVG else ("time_zone",)
    faults = [
        Fault(f"has no meaning with {media_type}", parameter=name) for name in meaningless if name in query
    ]
    if faults:
        raise malformed(*faults)
    return media_type == SVG


def zone_of(request: AnyRequest) -> str:
    """Return the name of the zone that a picture's days and times are in."""
    zone: str = query_of(request).get("time_zone", settings().time_zone)
    return zone


def answer_picture(picture: bytes) -> BytesResponse:
    """Answer with a picture."""
    return BytesResponse(picture, media_type=SVG, headers=_HEADERS)
