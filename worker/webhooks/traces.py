"""The span of an attempt, in the trace of the request that made the change. The endpoint may continue it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shared.tracing.spans import active_tracer

if TYPE_CHECKING:
    from worker.webhooks.client import Outcome, WebhookClient
    from worker.webhooks.outcomes import Attempt


async def attempt_in_trace(client: WebhookClient, attempt: Attempt) -> Outcome:
    """Attempt a delivery once, as ``WebhookClient.attempt`` does, within its span."""
    tracer = active_tracer()
    if tracer is None:
        return await client.attempt(attempt.message)
    attributes: dict[str, str | float] = {
        "http.request.method": "POST",
        "oms.webhook_id": attempt.webhook_id,
        "oms.delivery_id": attempt.delivery_id,
        **_server(attempt.message.url),
    }
    span = tracer.begin_attempt(attributes, attempt.message.traceparent)
    try:
        with span.current():
            outcome = await client.attempt(attempt.message)
        if outcome.status is not None:
            span.set({"http.response.status_code": outcome.status})
        if outcome.error:
            span.fail(str(outcome.status or "no_response"))
        return outcome
    finally:
        span.end()


def _server(url: str) -> dict[str, str | float]:
    """Return the attributes of an endpoint. Not its whole URL: path and query are often a credential."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return {}  # the attempt will say what is wrong with it
    return {"url.scheme": parts.scheme, "server.address": parts.hostname or "", "server.port": port}
