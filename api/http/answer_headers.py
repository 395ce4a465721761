"""Headers of every answer: browsers guess no media type, and nothing private is kept by a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.draining import DRAIN

if TYPE_CHECKING:
    from collections.abc import Mapping

_REVALIDATED = (200, 304)
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_PRIVATE = (b"cache-control", b"private, no-cache")
_NOT_KEPT = (b"cache-control", b"no-store")
_CLOSE = (b"connection", b"close")


def common_headers(method: str, status: int, headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return what to add to an answer: ``X-Content-Type-Options`` and, if it has none, ``Cache-Control``.

    And ``Connection: close``, if this process drains.

    An answer with an entity tag may be kept by the caller's own cache, which must ask whether it is current
    before each use (RFC 9111, section 5.2.2.4); all others may not be kept.

    Args:
        method: the request's.
        status: the answer's.
        headers: the answer's own, their names in lower case.

    """
    added = [_NO_SNIFFING]
    if b"cache-control" not in headers:
        is_kept = b"etag" in headers and status in _REVALIDATED and method in {"GET", "HEAD"}
        added.append(_PRIVATE if is_kept else _NOT_KEPT)
    if DRAIN.has_begun and b"connection" not in headers:
        added.append(_CLOSE)
    return added
