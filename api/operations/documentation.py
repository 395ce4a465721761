"""The contract and its explanations: ``/openapi.yaml``, ``/docs``, ``/problems/…``.

``contract/openapi.yaml`` is written by hand and is authoritative. It is served byte for byte; as JSON it is
the same document. The viewer comes from a package, so a browser loads nothing from other hosts.
"""

from __future__ import annotations

import html
from datetime import date, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from litestar import Response, route

from api.http.json_text import encode
from api.http.parameters import path_value
from api.http.problem_types import NOT_FOUND
from api.http.problems import ProblemError
from api.http.request import READ, AnyRequest
from api.problem_types import TYPES

CONTRACT = Path(__file__).parent.parent.parent / "contract" / "openapi.yaml"
EVENTS = CONTRACT.with_name("asyncapi.yaml")

YAML = "application/yaml"
HTML = "text/html"
_VIEWER_FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}

# Everything is loaded from this service. Nothing is inline except the styles that the viewer needs.
_VIEWER_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title>
<link rel="stylesheet" href="/docs/swagger-ui.css"><link rel="icon" href="/docs/favicon-32x32.png"></head>
<body>{body}</body>
</html>
"""

_VIEWER = """<div id="viewer"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>"""

_START = """SwaggerUIBundle({url: "/openapi.yaml", dom_id: "#viewer", deepLinking: true, validatorUrl: null});
"""


@cache
def contract_bytes() -> bytes:
    """Return the contract, byte for byte."""
    return CONTRACT.read_bytes()


def _as_json(value: Any) -> Any:
    # The YAML loader turns text that looks like a date into a date; JSON has no dates.
    match value:
        case dict():
            return {str(key): _as_json(item) for key, item in value.items()}
        case list():
            return [_as_json(item) for item in value]
        case datetime() | date():
            return value.isoformat()
        case _:
            return value


@cache
def contract_json() -> bytes:
    """Return the contract as JSON."""
    # The C loader if there is one: the Python loader blocks all requests for about a second.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return encode(_as_json(yaml.load(contract_bytes(), Loader=loader)))  # noqa: S506 (both are safe)


@route("/openapi.yaml", http_method=READ, opt={"produces": (YAML,)})
async def show_contract_as_yaml() -> Response[bytes]:
    """Show the contract, byte for byte."""
    return Response(contract_bytes(), media_type=YAML)


@route("/openapi.json", http_method=READ)
async def show_contract_as_json() -> Response[bytes]:
    """Show the contract as JSON."""
    return Response(contract_json(), media_type="application/json")


@cache
def _events_bytes() -> bytes:
    return EVENTS.read_bytes()


@route("/asyncapi.yaml", http_method=READ, opt={"produces": (YAML,)})
async def show_events_as_yaml() -> Response[bytes]:
    """Show the contract of the notifications, byte for byte."""
    return Response(_events_bytes(), media_type=YAML)


def _page(title: str, body: str) -> Response[bytes]:
    page = _PAGE.format(title=html.escape(title), body=body)
    return Response(
        page.encode(),
        media_type=HTML,
        headers={"Content-Security-Policy": _VIEWER_POLICY},
    )


@route("/docs", http_method=READ, opt={"produces": (HTML,)})
async def show_docs() -> Response[bytes]:
    """Show the contract in the viewer."""
    return _page("Order management: the contract", _VIEWER)


@cache
def _viewer_folder() -> Path:
    # Not imported: the package also contains adapters for other frameworks.
    package = find_spec("swagger_ui")
    if package is None or package.origin is None:
        raise RuntimeError("swagger-ui-py is not installed")
    return Path(package.origin).parent / "static"


@route("/docs/{name:str}", http_method=READ, opt={"produces": (*_VIEWER_FILES.values(),)})
async def show_viewer_file(request: AnyRequest) -> Response[bytes]:
    """Return a file of the viewer."""
    name = path_value(request, "name", str)
    headers = {"Cache-Control": "max-age=86400"}
    if name == "start.js":
        return Response(_START.encode(), media_type="text/javascript", headers=headers)
    if name not in _VIEWER_FILES:
        raise ProblemError(NOT_FOUND, "The viewer has no such file.")
    return Response((_viewer_folder() / name).read_bytes(), media_type=_VIEWER_FILES[name], headers=headers)


@route("/problems/{slug:str}", http_method=READ, opt={"produces": (HTML,)})
async def show_problem(request: AnyRequest) -> Response[bytes]:
    """Explain a problem type and how to recover from it."""
    slug = path_value(request, "slug", str)
    problem = TYPES.get(slug)
    if problem is None:
        raise ProblemError(NOT_FOUND, "There is no problem type of this name.")
    body = (
        f"<main><h1>{html.escape(problem.title)}</h1>"
        f"<p>Status {problem.status}, type <code>{problem.uri}</code></p>"
        f"<h2>What to do</h2><p>{html.escape(problem.recovery)}</p></main>"
    )
    return _page(problem.title, body)


ROUTES = [
    show_contract_as_yaml,
    show_contract_as_json,
    show_events_as_yaml,
    show_docs,
    show_viewer_file,
    show_problem,
]
