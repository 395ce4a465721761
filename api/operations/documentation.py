"""Pages for people: ``/``, ``/docs``, ``/docs/subscribing``, ``/problems/…``.

A browser loads nothing from other hosts: the viewer comes from a package, and the guides are the files in
``docs/``, rendered.
"""

from __future__ import annotations

import html
from functools import cache
from importlib.util import find_spec
from itertools import chain, pairwise
from pathlib import Path

from litestar import Response, route
from markdown_it import MarkdownIt

from api.http.parameters import path_value
from api.http.problem_types import NOT_FOUND
from api.http.problems import ProblemError
from api.http.request import READ, AnyRequest
from api.http.responses import BytesResponse
from api.http.stored_keys import STORED_KEYS
from api.problem_types import TYPES
from shared.settings import settings

HTML = "text/html"

GUIDES = {
    "tour": "A tour",
    "api": "The HTTP API",
    "subscribing": "Following order changes",
    "contract-tests": "Contract tests",
    "metrics": "Metrics",
}
"""The guides for users of the API, by name: ``docs/<name>.md`` is shown at ``/docs/<name>``."""

_GUIDE_FOLDER = Path(__file__).parent.parent.parent / "docs"
_OWN_FOLDER = Path(__file__).parent / "pages"
_OWN_FILES = {"start.js": "text/javascript", "pages.css": "text/css"}
_VIEWER_FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
_FILE_HEADERS = {"Cache-Control": "max-age=86400"}

# Everything is loaded from this service. Nothing is inline except the styles that the viewer needs.
_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

_LINKS = "\n".join(
    f'<a href="{href}">{title}</a>'
    for href, title in (
        ("/docs", "Try the API"),
        *((f"/docs/{name}", title) for name, title in GUIDES.items()),
        ("/openapi.yaml", "OpenAPI"),
        ("/asyncapi.yaml", "AsyncAPI"),
    )
)

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>{styles}<link rel="stylesheet" href="/docs/pages.css">
<link rel="icon" href="/docs/favicon-32x32.png"></head>
<body{attributes}>
<nav>{links}</nav>
{body}
</body>
</html>
"""

_VIEWER_STYLES = '<link rel="stylesheet" href="/docs/swagger-ui.css">'
_VIEWER = """<div id="viewer"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js" data-api-keys="{keys}"></script>"""

# Markup in a text is shown as text.
_markdown = MarkdownIt("commonmark", {"html": False}).enable("table")


def _page(title: str, body: str, *, styles: str = "", attributes: str = "") -> Response[bytes]:
    page = _PAGE.format(
        title=html.escape(title), body=body, links=_LINKS, styles=styles, attributes=attributes
    )
    return BytesResponse(page.encode(), media_type=HTML, headers={"Content-Security-Policy": _POLICY})


@route("/", http_method=READ, opt={"produces": (HTML,)})
async def show_start() -> Response[bytes]:
    """Lead a browser to the documentation."""
    return BytesResponse(
        b'<a href="/docs">Documentation</a>', status_code=307, media_type=HTML, headers={"Location": "/docs"}
    )


@route("/docs", http_method=READ, opt={"produces": (HTML,)})
async def show_docs() -> Response[bytes]:
    """Show the contract in the viewer."""
    keys = "yes" if settings().asks_for_keys or STORED_KEYS.are_known_to_exist else "no"
    return _page(
        "Order management: the API",
        _VIEWER.format(keys=keys),
        styles=_VIEWER_STYLES,
        attributes=' class="viewer"',
    )


@cache
def _guide(name: str) -> str:
    """Return a guide as HTML. Its links to other guides lead to their pages; others lead nowhere here."""
    tokens = _markdown.parse((_GUIDE_FOLDER / f"{name}.md").read_text("utf-8"))
    for heading, title in pairwise(tokens):
        if heading.type == "heading_open":
            heading.attrSet("id", _anchor(title.content))
    for token in chain.from_iterable(block.children or () for block in tokens):
        if token.type == "link_open":
            token.attrSet("href", _served(str(token.attrGet("href"))))
    rendered: str = _markdown.renderer.render(tokens, _markdown.options, {})
    return rendered.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")


def _anchor(title: str) -> str:
    # As GitHub makes them, so that a link within a guide works in both places.
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def _served(href: str) -> str:
    """Return where this service shows what a guide's link names within the repository."""
    name = Path(href).name
    if href.startswith(("#", "https:")):
        return href
    if name.endswith(".yaml"):
        return f"/{name}"
    return f"/docs/{name.replace('.md', '', 1)}"


@cache
def _viewer_folder() -> Path:
    # Not imported: the package also contains adapters for other frameworks.
    package = find_spec("swagger_ui")
    if package is None or package.origin is None:
        raise RuntimeError("swagger-ui-py is not installed")
    return Path(package.origin).parent / "static"


@route("/docs/{name:str}", http_method=READ, opt={"produces": (HTML, *_OWN_FILES.values(), "image/png")})
async def show_guide_or_file(request: AnyRequest) -> Response[bytes]:
    """Show a guide, or return a file that the pages load."""
    name = path_value(request, "name", str)
    if name in GUIDES:
        return _page(GUIDES[name], f"<main>{_guide(name)}</main>")
    if name in _OWN_FILES:
        content = (_OWN_FOLDER / name).read_bytes()
        return BytesResponse(content, media_type=_OWN_FILES[name], headers=_FILE_HEADERS)
    if name in _VIEWER_FILES:
        content = (_viewer_folder() / name).read_bytes()
        return BytesResponse(content, media_type=_VIEWER_FILES[name], headers=_FILE_HEADERS)
    raise ProblemError(NOT_FOUND, "There is no such page of the documentation.")


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
        f"<h2>What to do</h2>{_markdown.render(problem.recovery)}</main>"
    )
    return _page(problem.title, body)


ROUTES = [show_start, show_docs, show_guide_or_file, show_problem]
