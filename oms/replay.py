"""``oms replay``: have a webhook send again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oms.api_calls import calling_api
from oms.errors import CommandError
from oms.options import AsJson
from oms.output import print_json
from shared.command_output import print_line

if TYPE_CHECKING:
    from oms.http_client import Api

MARGIN = timedelta(minutes=1)
"""A change's time is when it was written, and it gets its position after its commit: positions are in the
order of time only as far as transactions are short."""


@calling_api
def replay(
    api: Api,
    webhook: Annotated[str, typer.Argument(help="The webhook's id.")],
    missed: Annotated[
        bool, typer.Option("--missed", help="Everything that it did not acknowledge, at once.")
    ] = False,
    after: Annotated[
        int | None,
        typer.Option("--after", min=0, help="Everything after this position, acknowledged or not."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Everything since this time, and a minute more: 2026-11-22T10:00:00Z."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send a webhook its changes again, in order.

    Those that it missed, or all after a position or a time. Needs the scope webhooks:manage, and for --since
    changes:read.
    """
    if (missed, after is not None, since is not None).count(True) != 1:
        raise CommandError("choose one of --missed, --after and --since", 2)
    from oms.http_client import path_of

    at = None if since is None else _read_time(since)
    if at is not None:
        after = _position_before(api, at - MARGIN)
    body = {} if after is None else {"after": after}
    replayed = api.call("POST", path_of("webhooks", webhook, "replay"), body=body)
    if as_json:
        print_json({"after": after, **replayed})
    else:
        where = "that were missed" if after is None else f"after position {after}"
        print_line(f"{replayed['deliveries']:,} deliveries {where} are due now")


def _read_time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise CommandError("--since must be a time with a zone, such as 2026-11-22T10:00:00Z", 2)
    return at.astimezone(UTC)


def _position_before(api: Api, at: datetime) -> int:
    """Return, by bisection, the position before the first change since ``at`` that the log has."""
    from oms.http_client import ProblemError, WrongServerError

    last = api.latest_position()
    first = 0
    try:
        _change_after(api, first)
    except ProblemError as error:
        if error.status_code != 410:  # changes were deleted
            raise
        kept_from = error.problem.get("first_position")
        if not isinstance(kept_from, int):
            raise WrongServerError from None
        first = kept_from - 1
    while first < last:
        middle = (first + last) // 2
        change = _change_after(api, middle)
        if change is not None and datetime.fromisoformat(change["time"]) < at:
            first = middle + 1
        else:
            last = middle
    return first


def _change_after(api: Api, position: int) -> dict[str, Any] | None:
    query = [("after", str(position)), ("limit", "1")]
    items = api.call("GET", "/order-changes", query=query)["items"]
    return items[0] if items else None
