"""``oms webhook``: webhooks of a deployment, over its API."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oms.api_calls import calling_api
from oms.errors import CommandError
from oms.options import AsJson
from oms.output import print_json, print_parts, print_table
from shared.command_output import print_line

if TYPE_CHECKING:
    from oms.http_client import Api

app = typer.Typer(
    help="Webhooks of a deployment, over its API. Needs the scope webhooks:manage.", no_args_is_help=True
)

WebhookId = Annotated[str, typer.Argument(help="The webhook's id.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="The most rows to show.")]

TEST_SECONDS = 30.0
"""How long the outcome of a test is waited for; an attempt takes 15 s at most."""


@app.command("list")
@calling_api
def list_webhooks(api: Api, as_json: AsJson = False) -> None:
    """List webhooks by id, with their state."""
    webhooks = list(api.items("/webhooks"))
    if as_json:
        print_json({"webhooks": webhooks})
    elif not webhooks:
        print_line("there are no webhooks")
    else:
        print_table([webhook["id"], _state_of(webhook), webhook["url"]] for webhook in webhooks)


@app.command("show")
@calling_api
def show_webhook(api: Api, webhook: WebhookId, as_json: AsJson = False) -> None:
    """Show a webhook, without its secret."""
    _show(api.call("GET", _path(webhook)), as_json=as_json)


@app.command("create")
@calling_api
def create_webhook(
    api: Api,
    url: Annotated[str, typer.Argument(help="Where to send changes to.")],
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Only this type, such as order.created; repeatable.")
    ] = None,
    calendars: Annotated[
        list[str] | None, typer.Option("--calendar", help="Only this calendar; repeatable.")
    ] = None,
    description: Annotated[str, typer.Option("--description", help="What it is for.")] = "",
    as_json: AsJson = False,
) -> None:
    """Create a webhook, and print it with its secret, once."""
    body = {
        "url": url,
        "types": list(types or ()),
        "calendars": list(calendars or ()),
        "description": description,
    }
    _show(api.call("POST", "/webhooks", body=body), as_json=as_json)


@app.command("enable")
@calling_api
def enable_webhook(api: Api, webhook: WebhookId, as_json: AsJson = False) -> None:
    """Send to a webhook again, from now on.

    `oms replay` sends what it missed.
    """
    _show(api.call("PATCH", _path(webhook), body={"enabled": True}), as_json=as_json)


@app.command("disable")
@calling_api
def disable_webhook(api: Api, webhook: WebhookId, as_json: AsJson = False) -> None:
    """Send nothing more to a webhook; what it misses is recorded."""
    _show(api.call("PATCH", _path(webhook), body={"enabled": False}), as_json=as_json)


@app.command("delete")
@calling_api
def delete_webhook(api: Api, webhook: WebhookId, as_json: AsJson = False) -> None:
    """Delete a webhook."""
    api.call_raw("DELETE", _path(webhook))
    if as_json:
        print_json({"deleted": webhook})
    else:
        print_line(f"deleted webhook {webhook}")


@app.command("rotate-secret")
@calling_api
def rotate_secret(
    api: Api,
    webhook: WebhookId,
    old_valid_for: Annotated[
        int,
        typer.Option("--old-valid-for", min=0, help="Seconds for which the old secret signs too."),
    ] = 86_400,
    as_json: AsJson = False,
) -> None:
    """Make a new secret, and print it; it can't be shown again."""
    path = _path(webhook) + "/secret/rotation"
    rotated = api.call("POST", path, body={"old_valid_for": old_valid_for})
    if as_json:
        print_json(rotated)
    else:
        print_line(rotated["secret"])


@app.command("test")
@calling_api
def send_test(api: Api, webhook: WebhookId, as_json: AsJson = False) -> int:
    """Send a test notification, and show the answer.

    Exit status: 0 it was acknowledged; 1 it was not.
    """
    delivery = api.call("POST", _path(webhook) + "/test")
    delivery = _wait_for_attempt(api, _path(webhook) + f"/deliveries/{delivery['id']}")
    if as_json:
        print_json(delivery)
    else:
        _print_deliveries([delivery])
    return 0 if delivery["status"] == "delivered" else 1


@app.command("attempts")
@calling_api
def list_attempts(
    api: Api,
    webhook: WebhookId,
    status: Annotated[
        str | None, typer.Option("--status", help="pending, retrying, delivered, exhausted or disabled.")
    ] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List the latest deliveries with their attempts.

    The newest come first.
    """
    query = [("status", status)] if status is not None else []
    deliveries = list(api.items(_path(webhook) + "/deliveries", query, limit))
    if as_json:
        print_json({"deliveries": deliveries})
    elif not deliveries:
        print_line("there are no deliveries")
    else:
        _print_deliveries(deliveries)


@app.command("missed")
@calling_api
def list_missed(api: Api, webhook: WebhookId, limit: Limit = 100, as_json: AsJson = False) -> None:
    """List the changes that a webhook missed, and why.

    It did not acknowledge them. `oms replay` sends them again.
    """
    missed = list(api.items(_path(webhook) + "/missed", most=limit))
    if as_json:
        print_json({"missed": missed})
    elif not missed:
        print_line("it has missed nothing")
    else:
        print_table([item["position"], item["type"], item["order"], item["reason"]] for item in missed)


def _path(webhook: str) -> str:
    from oms.http_client import path_of

    return path_of("webhooks", webhook)


def _state_of(webhook: dict[str, Any]) -> str:
    if webhook["disabled"]:
        return "disabled"
    return "failing" if webhook["failing_since"] else "working"


def _show(webhook: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(webhook)
    else:
        print_table([f"{name}:", _text_of(value)] for name, value in webhook.items())


def _text_of(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "all"
    if isinstance(value, dict):
        return ", ".join(f"{name} {member}" for name, member in value.items())
    return "-" if value in {None, ""} else str(value)


def _wait_for_attempt(api: Api, path: str) -> dict[str, Any]:
    deadline = time.monotonic() + TEST_SECONDS
    while True:
        delivery: dict[str, Any] = api.call("GET", path)
        if delivery["status"] != "pending":
            return delivery
        if time.monotonic() > deadline:
            raise CommandError(
                f"nothing was sent within {TEST_SECONDS:.0f} s: does the worker run, and reach Redis?"
            )
        time.sleep(0.2)


def _print_deliveries(deliveries: list[dict[str, Any]]) -> None:
    for delivery in deliveries:
        is_good = delivery["status"] == "delivered"
        what = f"change {delivery['position']}" if delivery["position"] else "test"
        print_parts(
            f"delivery {delivery['id']}: {delivery['type']}, {what}, ",
            (delivery["status"], "green" if is_good else "yellow"),
        )
        for attempt in delivery["attempts"]:
            print_line(f"  {_attempt_text(attempt)}")


def _attempt_text(attempt: dict[str, Any]) -> str:
    at = datetime.fromisoformat(attempt["at"]).strftime("%Y-%m-%d %H:%M:%S UTC")
    outcome = attempt["error"] or f"answered {attempt['status']}"
    answer = f": {attempt['answer'][:200]}" if attempt.get("answer") else ""
    return f"{at}  {outcome} after {attempt['latency_ms']} ms{answer}"
