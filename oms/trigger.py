"""``oms trigger``: example changes on a development system, for those who build a subscriber."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oms.api_calls import calling_api, is_this_machine
from oms.options import AsJson, Yes
from oms.output import print_json, print_parts
from shared.command_output import print_line

if TYPE_CHECKING:
    from oms.http_client import Api

REASON = {"Change-Reason": "oms trigger"}
MERGE_PATCH = {"Content-Type": "application/merge-patch+json", **REASON}


class Event(StrEnum):
    """What an example order goes through, in this order."""

    CREATED = "order.created"
    UPDATED = "order.updated"
    CANCELLED = "order.cancelled"
    REINSTATED = "order.reinstated"
    DELETED = "order.deleted"


_NEEDED = {Event.REINSTATED: (Event.CANCELLED,)}
"""What must come before an event, besides the creation."""


@calling_api
def trigger(
    api: Api,
    events: Annotated[
        list[Event] | None,
        typer.Argument(help="The changes to make; all by default. The order is created first."),
    ] = None,
    calendar: Annotated[
        str, typer.Option("--calendar", help="The calendar of the example order.")
    ] = "examples",
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the example order; otherwise it is deleted.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Make an example change of each type.

    An example order is created, moved, cancelled, reinstated and deleted. On a server that is not this
    machine it only says what it would do, unless --yes is given: changes stay in the feed, and subscribers
    get them. Needs the scopes orders:read and orders:write.
    """
    planned = _plan(events or list(Event), keep=keep)
    if not is_this_machine(api.target.host) and not yes:
        _show([{"type": event, "made": False} for event in planned], as_json=as_json)
        if not as_json:
            print_line(
                f"nothing was changed: {api.target.url} is not this machine, and all of its "
                "subscribers would see the example; --yes makes these changes",
                file=sys.stderr,
            )
        return
    changes = _make(api, planned, calendar, is_shown=not as_json)
    if as_json:
        _show(changes, as_json=True)


def _plan(events: list[Event], *, keep: bool) -> list[Event]:
    wanted = {Event.CREATED, *events}
    for event in events:
        wanted.update(_NEEDED.get(event, ()))
    if not keep:
        wanted.add(Event.DELETED)
    return [event for event in Event if event in wanted]


def _make(api: Api, planned: list[Event], calendar: str, *, is_shown: bool) -> list[dict[str, Any]]:
    from oms.http_client import path_of

    first, second = _free_times(api, calendar)
    body = {
        "datetime": first,
        "totalfee": 100,
        "services": [{"id": _service(api)}],
        "calendar": calendar,
        "metadata": {"example": "oms trigger"},
    }
    made: list[dict[str, Any]] = []
    order = api.call("POST", "/orders", body=body, headers=REASON)
    path = path_of("orders", order["id"])
    for event in planned:
        if event is Event.UPDATED:
            order = api.call("PATCH", path, body={"datetime": second}, headers=MERGE_PATCH)
        elif event is Event.CANCELLED:
            order = api.call("POST", f"{path}/cancel", headers=REASON)
        elif event is Event.REINSTATED:
            order = api.call("POST", f"{path}/reinstate", headers=REASON)
        elif event is Event.DELETED:
            api.call_raw("DELETE", path, headers=REASON)
            order = {**order, "version": order["version"] + 1}
        change = {"type": event, "made": True, "order": order["id"], "orderversion": order["version"]}
        made.append(change)
        if is_shown:
            _show([change], as_json=False)
    return made


def _free_times(api: Api, calendar: str) -> list[str]:
    from oms.http_client import path_of

    start = (datetime.now(UTC) + timedelta(days=1)).replace(minute=0, second=0, microsecond=0)
    query = [("from", start.isoformat().replace("+00:00", "Z")), ("next", "2")]
    free: list[str] = api.call("GET", path_of("calendars", calendar, "availability"), query=query)[
        "next_free"
    ]
    return free


def _service(api: Api) -> str:
    """Return the id of a service, and create one where there is none."""
    for service in api.items("/services", most=1):
        return str(service["id"])
    return str(api.call("POST", "/services", body={"name": "Example service"})["id"])


def _show(changes: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json({"changes": changes})
        return
    for change in changes:
        if change["made"]:
            print_parts(f"{change['type']}  order {change['order']}  version {change['orderversion']}")
        else:
            print_parts(f"{change['type']}  (not made)")
