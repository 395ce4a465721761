"""The files that pages load: ``/console/static/…``."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from litestar import Response, route
from litestar.enums import HttpMethod
from litestar.exceptions import NotFoundException

from console.requests import PageRequest

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """Return content, media type and tag of each file, by name. There are no others."""
    return {
        path.name: (content, _TYPES[path.suffix], f'"{sha256(content).hexdigest()[:20]}"')
        for path in _FOLDER.iterdir()
        if path.suffix in _TYPES
        for content in (path.read_bytes(),)
    }


@route("/console/static/{name:str}", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def show_file(request: PageRequest) -> Response[Any]:
    """Return a file. Browsers ask each time whether it changed: modules import each other by plain names."""
    name = request.path_params["name"]
    if name not in _files():
        raise NotFoundException
    content, media_type, tag = _files()[name]
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(None, status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


ROUTES = [show_file]
