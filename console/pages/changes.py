"""Changes: what just happened to orders, who did it and why; live."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from litestar import Response, route
from litestar.enums import HttpMethod

from console.differences import differences
from console.errors import ApiRefusalError
from console.newest_changes import (
    MOST_SEARCHED,
    ChangesPage,
    changes_since,
    newest_changes,
    position_of,
    read_position,
)
from console.rendering import ENVIRONMENT, render
from console.requests import PageRequest

READ = [HttpMethod.GET, HttpMethod.HEAD]

FILTERS = ("type", "calendar", "actor", "order")

TYPES = ("created", "updated", "cancelled", "reinstated", "deleted")

ROWS_KEPT = 200
"""How many changes a page that is left open shows."""


@route("/console/changes", http_method=READ)
async def show_changes(request: PageRequest) -> Response[Any]:
    """Show the newest changes that match the filters, or a page of older ones."""
    filters = {name: request.query_params.get(name, "").strip() for name in FILTERS}
    before, after = read_position(request, "before"), read_position(request, "after")
    problem, page = None, None
    try:
        page = await _read(request, filters, before, after)
    except ApiRefusalError as refusal:
        if refusal.status != 400:
            raise
        problem = refusal.problem
    return await render(
        request,
        "changes.html",
        status=400 if problem else 200,
        filters=filters,
        types=TYPES,
        page=page,
        problem=problem,
        rows_kept=ROWS_KEPT,
        most_searched=MOST_SEARCHED,
        **_links(filters, page),
    )


async def _read(
    request: PageRequest, filters: dict[str, str], before: int | None, after: int | None
) -> ChangesPage:
    if after is not None:
        return await changes_since(request, filters, after)
    return await newest_changes(request, filters, before)


def _links(filters: dict[str, str], page: ChangesPage | None) -> dict[str, str | None]:
    """Return the addresses of the pages before and after, with the same filters."""
    used = {name: value for name, value in filters.items() if value}

    def address(**place: int) -> str:
        query = urlencode({**used, **place})
        return "/console/changes" + (f"?{query}" if query else "")

    older = page.older_before if page else None
    newer = page and not page.is_newest
    return {
        "newest": address(),
        "older": address(before=older) if older else None,
        "newer": address(after=page.last) if page and newer else None,
    }


def _facts(change: dict[str, Any]) -> dict[str, Any]:
    """Return what tells an order from others, as it is after a change, or was before its deletion."""
    facts: dict[str, Any] = change["data"]["order"] or change["data"]["previous"] or {}
    return facts


def _differences_of(change: dict[str, Any]) -> list[Any]:
    return differences(change["data"]["previous"], change["data"]["order"])


ENVIRONMENT.filters.update({"facts": _facts, "differences": _differences_of, "position": position_of})

ROUTES = [show_changes]
