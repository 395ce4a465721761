"""Responses whose content is bytes already: all but streams and files."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from litestar import Response
from litestar.response.base import ASGIResponse

from api.http.media_types import JSON

if TYPE_CHECKING:
    from collections.abc import Mapping

    from litestar.types import Receive, Scope, Send

_WITHOUT_CONTENT = frozenset({204, 304})


class BytesResponse(Response[bytes]):
    """A response with these bytes. Litestar's own looks for an encoder, and copies the headers four times.

    Args:
        content: empty for 204 and 304.
        media_type: of the content.
        status_code: the route's, if absent.
        headers: apart from those of the content.

    """

    def __init__(
        self,
        content: bytes,
        *,
        media_type: str = JSON,
        status_code: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.content = content
        self.media_type = media_type
        self.status_code = status_code
        self.headers = {**headers} if headers else {}

    def to_asgi_response(
        self,
        app: Any,  # noqa: ARG002 - this and what else Litestar passes
        request: Any,  # noqa: ARG002 - as above
        *,
        status_code: int | None = None,
        **_options: Any,
    ) -> ASGIResponse:
        """Return the ASGI application that sends it.

        Args:
            app: unused, as are all others: no route of this service sets headers, cookies or tasks itself.
            request: unused.
            status_code: the route's.

        """
        status = self.status_code or status_code or 200
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()
        ]
        if status not in _WITHOUT_CONTENT:
            headers += (
                _content_type(self.media_type),
                (b"content-length", b"%d" % len(self.content)),
            )
        return _SentBytes(status, headers, self.content)


@lru_cache(64)
def _content_type(media_type: str) -> tuple[bytes, bytes]:
    is_bare_text = media_type.startswith("text/")
    return b"content-type", f"{media_type}{'; charset=utf-8' if is_bare_text else ''}".encode("latin-1")


class _SentBytes(ASGIResponse):
    """Sends a status, headers and bytes as they are."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], content: bytes) -> None:
        self._start = {"type": "http.response.start", "status": status, "headers": headers}
        self._content = {"type": "http.response.body", "body": content, "more_body": False}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send it."""
        await send(self._start)  # type: ignore[arg-type]  # a dict, not Litestar's TypedDict
        await send(self._content)  # type: ignore[arg-type]  # as above
