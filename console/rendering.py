"""Renders templates: what each page has, and how times, fees and texts are shown.

Everything is escaped by Jinja2. No style or script is inline, which the policy of each page forbids too.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar.response import Template
from markupsafe import Markup

from console.visitors import Visitor, known_visitor_of, service_zone, visitor_of
from shared.api_access import read_address
from shared.version import version

if TYPE_CHECKING:
    from collections.abc import Mapping
    from zoneinfo import ZoneInfo

    from console.requests import PageRequest

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

NOTHING = Markup("&ndash;")
"""What is shown where there is no value."""

PAGES: tuple[tuple[str, str, str | None], ...] = (
    ("/console/schedule", "Schedule", "orders:read"),
    ("/console/changes", "Changes", "changes:read"),
    ("/console/fees", "Fees", "summaries:read"),
    ("/console/webhooks", "Webhooks", "webhooks:manage"),
    ("/console/imports", "Imports", "orders:read"),
    ("/console/keys", "Keys", "keys:manage"),
    ("/console/health", "Health", None),
)
"""Address, title and the scope without which a page shows nothing, in the order of the navigation."""

ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


async def render(request: PageRequest, template: str, *, status: int = 200, **values: Any) -> Template:
    """Return a page.

    Args:
        request: the page's.
        template: its file.
        status: of the answer.
        values: what the template shows.

    Raises:
        ApiRefusalError: 401, the visitor has to sign in.

    """
    return _template(request, template, await visitor_of(request), status, values)


def show_problem(
    request: PageRequest, status: int, problem: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Template:
    """Return a page with a problem, and more headers."""
    shown = {"title": "", "detail": "", "errors": [], "request_id": "", **problem}
    page = _template(request, "problem.html", known_visitor_of(request), status, {"problem": shown})
    page.headers.update(headers or {})
    return page


def show_without_visitor(
    request: PageRequest, template: str, *, status: int = 200, **values: Any
) -> Template:
    """Return a page that anybody may see."""
    return _template(request, template, Visitor(zone=service_zone()), status, values)


def _template(
    request: PageRequest, template: str, visitor: Visitor, status: int, values: Mapping[str, Any]
) -> Template:
    context = {
        "visitor": visitor,
        "pages": [(path, title) for path, title, scope in PAGES if scope is None or visitor.may_read(scope)],
        "path": request.scope["path"],
        "host": _address_of(request),
        "version": version(),
        "now": datetime.now(UTC),
        **values,
    }
    return Template(template, context=context, headers=HEADERS, status_code=status)


def _address_of(request: PageRequest) -> str:
    """Return where the visitor's browser sees the service: a proxy in front may speak TLS to it."""
    host = request.headers.get("host", "")
    # Browsers send Sec-Fetch-Site over TLS, and to this machine. Some proxies say what they spoke themselves.
    over_tls = "sec-fetch-site" in request.headers and not _is_this_machine(request.url.hostname or "")
    proxied = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip() == "https"
    return f"{'https' if over_tls or proxied else request.url.scheme}://{host}"


def _is_this_machine(name: str) -> bool:
    address = read_address(name)
    return address.is_loopback if address else name == "localhost" or name.endswith(".localhost")


def read_instant(value: str | datetime) -> datetime:
    """Read a datetime of the API."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)


def show_time(value: str | datetime | None, zone: ZoneInfo, style: str = "minute") -> Markup:
    """Return a ``time`` element in a zone; UTC and the service's zone appear on hover.

    A script shows it in the browser's format. Styles: ``minute``, ``second``, ``day``, ``clock``.
    """
    if value is None:
        return NOTHING
    instant = read_instant(value)
    formats = {"minute": "%Y-%m-%d %H:%M", "second": "%Y-%m-%d %H:%M:%S", "day": "%a %d %b", "clock": "%H:%M"}
    utc = instant.astimezone(UTC)
    title = f"{utc:%Y-%m-%d %H:%M:%S}.{utc.microsecond // 1000:03} UTC"
    if (service := service_zone()).key != "UTC":
        title += f" · {instant.astimezone(service):%Y-%m-%d %H:%M:%S} {service.key} (service)"
    return Markup('<time datetime="{}" title="{}" data-style="{}" data-zone="{}">{}</time>').format(
        utc.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        title,
        style,
        zone.key,
        instant.astimezone(zone).strftime(formats[style]),
    )


def show_fee(value: Decimal | float | str | None) -> Markup:
    """Return a ``data`` element with a fee; a script shows it in the browser's format."""
    if value is None:
        return NOTHING
    text = f"{Decimal(str(value)):.2f}"
    return Markup('<data class="fee" value="{}">{}</data>').format(text, text)


def show_number(value: float | str | None) -> Markup:
    """Return a ``data`` element with a number; a script shows it in the browser's format."""
    if value is None:
        return NOTHING
    return Markup('<data class="number" value="{}">{}</data>').format(value, value)


ENVIRONMENT.filters.update({"time": show_time, "fee": show_fee, "number": show_number})
