"""Steps of the tests of webhooks: create one, do the work of relay and worker, read the outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.change_log import WEBHOOK_DELIVERIES, cursor_of
from shared.settings import settings
from tests.steps import assign_all
from worker.webhooks.attempts import attempt_due
from worker.webhooks.client import WebhookClient
from worker.webhooks.fan_out import apply_changes

if TYPE_CHECKING:
    from tests.drivers import Api, Database
    from worker.webhooks.connections import Resolve


def subscribe(api: Api, url: str, **fields: Any) -> dict[str, Any]:
    """Create a webhook; return it with its secret."""
    answer = api.client.post("/webhooks", json={"url": url, **fields})
    assert answer.status_code == 201, answer.text
    webhook: dict[str, Any] = answer.json()
    return webhook


def client(seconds: float = 5, ca_file: str = "", resolve: Resolve | None = None) -> WebhookClient:
    """Create a client that may connect to this machine."""
    return WebhookClient(
        settings().webhook_addresses, seconds=seconds, at_once=16, ca_file=ca_file, resolve=resolve
    )


async def fan_out(at_once: int = 500) -> int:
    """Assign positions and create deliveries for every change; return the position reached."""
    last = await assign_all()
    while (position := (await cursor_of(WEBHOOK_DELIVERIES)).position) < last:
        await apply_changes(min(last, position + at_once))
    return position


async def deliver(seconds: float = 5) -> int:
    """Do all work of relay and worker that is due now; return the number of attempts."""
    await fan_out()
    async with client(seconds) as sender:
        return await attempt_due(sender, leasing_seconds=min(seconds, 2))


def make_due(database: Database) -> None:
    """Make every next attempt due and every lease expired."""
    database.rows("UPDATE webhook_delivery SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL")
    database.rows("UPDATE webhook SET leased_until = now() - interval '1 s' WHERE leased_until IS NOT NULL")


def deliveries(api: Api, webhook: dict[str, Any], **query: str) -> list[dict[str, Any]]:
    """List a webhook's deliveries, oldest first."""
    parameters = "&".join(f"{name}={value}" for name, value in query.items())
    return api.every_item(f"/webhooks/{webhook['id']}/deliveries?limit=100&{parameters}")[::-1]


def missed(api: Api, webhook: dict[str, Any]) -> dict[int, str]:
    """Return the positions that a webhook missed, with the reasons."""
    items = api.every_item(f"/webhooks/{webhook['id']}/missed?limit=100")
    reasons = {item["position"]: item["reason"] for item in items}
    assert len(reasons) == len(items)
    assert list(reasons) == sorted(reasons)
    return reasons
