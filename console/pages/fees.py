"""Fees: what was earned, as chart and table at one position, and the orders behind each figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from litestar import Response, route
from litestar.enums import HttpMethod

from console.rendering import render
from console.requests import PageRequest, ask

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

Pairs = list[tuple[str, str]]

_READ = [HttpMethod.GET, HttpMethod.HEAD]
_PERIODS = ("day", "week", "month", "quarter", "year")
_FILTERS = ("from", "to", "group_by", "by", "service", "calendar")
_VERSIONS = ("after_version", "min_position", "wait")
_REFUSALS = frozenset({400, 404, 410, 503})
_WAIT_SECONDS = "10"


@route("/console/fees", http_method=_READ)
async def show_fees(request: PageRequest) -> Response[Any]:
    """Show a report; what is wrong with a request is shown above the figures that can be shown."""
    query = _query_of(request, (*_FILTERS, *_VERSIONS, "position", "cursor"))
    filters = [pair for pair in query if pair[0] in _FILTERS]
    if not any(name == "group_by" for name, _ in query):
        filters.append(("group_by", "month"))
        query.append(("group_by", "month"))
    order, version = _form_value(request, "order"), _form_value(request, "version")
    if order or version:
        query += [("after_version", f"{order}:{version}"), ("wait", _WAIT_SECONDS)]
    awaited = next((value for name, value in query if name == "after_version"), "")
    report, problem = await _report(request, query)
    if report is None and awaited:
        report, _ = await _report(request, [pair for pair in query if pair[0] not in _VERSIONS])
    position = [("position", str(report["as_of"]["position"]))] if report else []
    return await render(
        request,
        "fees.html",
        status=200 if report else 400,
        report=report,
        problem=problem,
        awaited=awaited.split(":") if awaited.count(":") == 1 else None,
        filters=filters,
        values=_values(filters),
        periods=_PERIODS,
        services=await _choices(request, "/services", "id", _values(filters)["service"]),
        calendars=await _choices(request, "/calendars", "name", _values(filters)["calendar"]),
        proof=(await ask(request, "/fee-summaries/proof")).data,
        figures_query=urlencode(filters + position),
        orders_query=urlencode([pair for pair in filters if pair[0] not in ("group_by", "by")] + position),
        filters_query=urlencode(filters),
        next_query=_query_text(report["next"]) if report else "",
        is_first_page=not any(name in ("cursor", "position") for name, _ in query),
        period_name=lambda first: _period_name(first, _values(filters)["group_by"][0]),
        orders_link=lambda address: f"/console/fees/orders?{_query_text(address)}",
    )


@route("/console/fees/orders", http_method=_READ)
async def show_counted_orders(request: PageRequest) -> Response[Any]:
    """Show the orders behind a figure, as they were at its position."""
    query = _query_of(request, ("from", "to", "service", "calendar", "position", "cursor"))
    answer = await ask(request, "/fee-summaries/orders", query, refusals=_REFUSALS)
    is_answered = answer.status < 400
    return await render(
        request,
        "fees_orders.html",
        status=answer.status,
        orders=answer.data if is_answered else None,
        problem=None if is_answered else answer.data,
        values=_values(query),
        next_query=_query_text(answer.data["next"]) if is_answered else "",
    )


def _query_of(request: PageRequest, names: Collection[str]) -> Pairs:
    """Return the parameters that the API shall have; forms send empty ones too."""
    pairs = request.query_params.multi_items()
    return [(name, str(value)) for name, value in pairs if name in names and value != ""]


def _form_value(request: PageRequest, name: str) -> str:
    return str(request.query_params.get(name, "")).strip()


def _query_text(address: str | None) -> str:
    return urlsplit(address).query if address else ""


def _values(pairs: Pairs) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {name: [] for name in (*_FILTERS, "position")}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return values


async def _report(
    request: PageRequest, query: Pairs
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """Return a page of the report, or the problem that the API answered with."""
    answer = await ask(request, "/fee-summaries", query, refusals=_REFUSALS)
    return (answer.data, None) if answer.status < 400 else (None, answer.data)


async def _choices(request: PageRequest, path: str, key: str, chosen: Sequence[str]) -> list[tuple[str, str]]:
    """Return values and names to filter by: the first 100, if the visitor may read them, and those chosen."""
    answer = await ask(request, path, [("limit", "100")], refusals=frozenset({403}))
    names = {}
    if answer.status < 400:
        names = {item[key]: item.get("title") or item["name"] for item in answer.data["items"]}
    return [*names.items(), *((value, value) for value in chosen if value not in names)]


def _period_name(first: str, group_by: str) -> str:
    match group_by:
        case "month":
            return first[:7]
        case "quarter":
            return f"{first[:4]} Q{(int(first[5:7]) + 2) // 3}"
        case "year":
            return first[:4]
        case _:
            return first


ROUTES = [show_fees, show_counted_orders]
