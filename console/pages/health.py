"""Health: what an operator looks at first, with the limits of the alerts that watch it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from litestar import route
from litestar.enums import HttpMethod
from litestar.response import Template
from prometheus_client.parser import text_string_to_metric_families

from console.alerts import Alert, alerts
from console.rendering import render
from console.requests import PageRequest, ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Show = Callable[[float], str]

_READ = [HttpMethod.GET, HttpMethod.HEAD]
_WORDS = {"good": "ok", "warn": "warning", "bad": "bad", "": "unknown"}
_SECONDS = {"minutes": 60, "hours": 3600, "days": 86_400}


@dataclass(frozen=True)
class Row:
    """One thing that is watched."""

    name: str
    value: str
    state: str
    alert: Alert | None = None
    limit: str = ""
    """When the alert fires, in the figure's unit."""

    @property
    def word(self) -> str:
        """The state, for those who see no colours."""
        return _WORDS[self.state]


class _Metrics:
    def __init__(self, text: str) -> None:
        self._samples = [s for family in text_string_to_metric_families(text) for s in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        return next((s.value for s in self._samples if s.name == name and s.labels == labels), None)

    def by(self, name: str, label: str) -> dict[str, float]:
        return {s.labels[label]: s.value for s in self._samples if s.name == name}


@route("/console/health", http_method=_READ)
async def show_health(request: PageRequest) -> Template:
    """Show whether orders can be stored, and how far each part has come."""
    unavailable = frozenset({403, 503})
    ready, metrics = await asyncio.gather(
        ask(request, "/health/ready", refusals=frozenset({503})),
        ask(request, "/metrics", accept="text/plain", refusals=unavailable),
    )
    problem = metrics.data if metrics.status in unavailable else None
    rows = [] if problem else list(_rows(_Metrics(metrics.text)))
    return await render(request, "health.html", ready=ready.data, rows=rows, problem=problem)


def _rows(metrics: _Metrics) -> Iterator[Row]:
    yield _row("Database", metrics.value("database_up"), "DatabaseAway", _reachable, _reachable)
    yield _row("Redis", metrics.value("redis_up"), "RedisAway", _reachable, _reachable)
    led = metrics.value("relay_last_led_timestamp_seconds")
    yield _row(
        "Relay worked", None if led is None else max(0.0, time.time() - led), "RelayStopped", _ago, _duration
    )
    unassigned = metrics.value("order_changes_unassigned")
    age = metrics.value("order_changes_unassigned_age_seconds")
    yield _row(
        "Changes without a position",
        age,
        "RelayStopped",
        lambda s: f"{unassigned:,.0f}, for {_duration(s)}",
        _duration,
    )
    yield _row("Newest position", metrics.value("change_log_position"), None, _count)
    positions = metrics.by("consumer_position", "consumer")
    behind = metrics.by("consumer_behind_changes", "consumer")
    for consumer, seconds in metrics.by("consumer_behind_seconds", "consumer").items():
        show = partial(_progress, positions[consumer], behind[consumer])
        name = consumer.replace("_", " ").capitalize()
        yield _row(name, seconds, "BacklogGrows", show, _duration)
    for queue, count in metrics.by("queue_messages", "queue").items():
        yield _row(f"Queue {queue}", count, None, lambda n: f"{n:,.0f} messages wait")
    orders = metrics.value("fee_summary_proof_orders") or 0
    differing = metrics.value("fee_summary_proof_differing_rows")
    yield _row(
        "Fee summaries differ",
        differing,
        "SummariesDiffer",
        lambda n: f"{n:,.0f}, of {orders:,.0f} orders recounted",
    )
    yield _row("Last proof", metrics.value("fee_summary_proof_age_seconds"), "ProofOverdue", _ago, _duration)
    for state, alert in (("working", None), ("failing", "WebhookFailing"), ("disabled", None)):
        yield _row(f"Webhooks {state}", metrics.value("webhooks", state=state), alert, _count)
    late = metrics.value("webhook_deliveries_due_age_seconds")
    yield _row("Deliveries late", late, "DeliveriesLate", lambda s: f"for {_duration(s)}", _duration)
    versions = metrics.by("build_info", "version")
    yield _row("Versions", float(len(versions)), "SeveralVersions", lambda _: ", ".join(sorted(versions)))


def _row(
    name: str, value: float | None, alert: str | None, show: Show, show_limit: Show | None = None
) -> Row:
    rule = alerts()[alert] if alert else None
    limit = ""
    if rule:
        limit = f"{'above ' if rule.sign == '>' else ''}{(show_limit or _count)(rule.limit)}"
    if value is None:
        return Row(name, "not known", "", rule, limit)
    state = "good"
    if rule and rule.fires_for(value):
        state = "bad" if rule.severity == "page" else "warn"
    return Row(name, show(value), state, rule, limit)


def _progress(position: float, changes: float, seconds: float) -> str:
    return f"position {position:,.0f}, {changes:,.0f} changes and {seconds:,.1f} s behind"


def _reachable(value: float) -> str:
    return "answers" if value else "does not answer"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _duration(seconds: float) -> str:
    unit, size = max(
        ((unit, size) for unit, size in _SECONDS.items() if seconds >= 2 * size),
        key=lambda pair: pair[1],
        default=("s", 1),
    )
    return f"{seconds / size:,.0f} {unit}"


def _ago(seconds: float) -> str:
    return f"{_duration(seconds)} ago"


ROUTES = [show_health]
