"""Metrics for Prometheus: of the database and Redis, the same in every server, and of this server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from litestar import Response, route
from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily

from api.http.request import READ
from api.http.responses import BytesResponse
from api.http.scopes import ANY_KEY
from api.operations.figures import Figures, LogAndProof, Webhooks, read_figures
from api.operations.queue import queue_lengths
from api.operations.time_limit import within
from shared.change_log import FEE_SUMMARIES
from shared.database.engine import DatabaseUnavailableError
from shared.metrics.registry import build_info, render_process_metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

TEXT = "text/plain"

DATABASE_TIMEOUT_SECONDS = 3.0


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, value=value)


def _gauges(
    name: str, documentation: str, label: str, values: Iterable[tuple[str, float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, documentation, labels=[label])
    for labelled, value in values:
        family.add_metric([labelled], value)
    return family


class _Metrics:
    """A collector of one answer's values."""

    def __init__(self, figures: Figures | None, queues: Mapping[str, int] | None) -> None:
        self._figures = figures
        self._queues = queues

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics whose values are known: 0 for an unknown one would mean that all is well."""
        yield build_info()
        yield _gauge(
            "database_up",
            "1 if the database's figures could be read, otherwise 0.",
            self._figures is not None,
        )
        yield _gauge("redis_up", "1 if Redis answered, otherwise 0.", self._queues is not None)
        if self._queues is not None:
            yield _gauges("queue_messages", "Messages that wait in a queue.", "queue", self._queues.items())
        if self._figures is None:
            return
        if self._figures.log is not None:
            yield from _log_and_proof(self._figures.log)
        yield from _consumers(self._figures)
        if self._figures.webhooks is not None:
            yield from _webhooks(self._figures.webhooks)


def _log_and_proof(log: LogAndProof) -> Iterator[GaugeMetricFamily]:
    yield _gauge("change_log_position", "The newest position in the change log.", log.last_position)
    yield _gauge(
        "order_changes_unassigned", "Changes without a position yet; counted up to 10,000.", log.unassigned
    )
    yield _gauge(
        "order_changes_unassigned_age_seconds",
        "Age of the oldest change without a position; 0 if there is none.",
        log.unassigned_age,
    )
    optional = (
        ("relay_last_led_timestamp_seconds", "When a relay last worked, to 2 s (Unix time).", log.led_at),
        (
            "fee_summary_proof_differing_rows",
            "Fee summaries that differed from the orders in the last proof: alert on anything but 0.",
            log.differing,
        ),
        ("fee_summary_proof_orders", "Orders that the last proof recounted.", log.proved),
        ("fee_summary_proof_seconds", "How long the last proof took.", log.proof_seconds),
        (
            "fee_summary_proof_age_seconds",
            "Seconds since the last proof, which is daily: alert above two days.",
            log.proof_age,
        ),
    )
    for name, documentation, value in optional:
        if value is not None:
            yield _gauge(name, documentation, value)


def _consumers(figures: Figures) -> Iterator[GaugeMetricFamily]:
    for consumer in figures.consumers:
        if consumer.consumer == FEE_SUMMARIES:
            yield _gauge(
                "fee_summaries_position", "Position that the fee summaries are exact for.", consumer.position
            )
            yield _gauge(
                "fee_summaries_behind_changes",
                "Changes that have a position and are not in the fee summaries yet.",
                consumer.behind_changes,
            )
    yield _gauges(
        "consumer_position",
        "Position up to which a consumer has applied all changes.",
        "consumer",
        ((each.consumer, each.position) for each in figures.consumers),
    )
    yield _gauges(
        "consumer_behind_changes",
        "Changes that have a position and that a consumer has not applied yet.",
        "consumer",
        ((each.consumer, each.behind_changes) for each in figures.consumers),
    )
    yield _gauges(
        "consumer_behind_seconds",
        "Age of the oldest change that has a position and that a consumer has not applied yet; 0 if none.",
        "consumer",
        ((each.consumer, each.behind_seconds) for each in figures.consumers),
    )


def _webhooks(webhooks: Webhooks) -> Iterator[GaugeMetricFamily]:
    yield _gauges(
        "webhooks",
        "Webhooks by state; failing: not disabled, and the last attempt failed.",
        "state",
        (("working", webhooks.working), ("failing", webhooks.failing), ("disabled", webhooks.disabled)),
    )
    yield _gauge(
        "webhook_deliveries_waiting",
        "Deliveries that an attempt or another attempt follows; counted up to 10,000.",
        webhooks.waiting,
    )
    yield _gauge(
        "webhook_deliveries_due_age_seconds",
        "How long the delivery that is due longest has been due; 0 if none is.",
        webhooks.due_age,
    )
    yield _gauges(
        "webhook_attempts_recent",
        "Attempts of the last five minutes that have ended, by outcome, among the newest 1,000.",
        "outcome",
        (("delivered", webhooks.delivered), ("failed", webhooks.failed)),
    )


async def _read_figures() -> Figures | None:
    try:
        return await within(DATABASE_TIMEOUT_SECONDS, read_figures())
    except (TimeoutError, DatabaseUnavailableError):
        return None


@route("/metrics", http_method=READ, opt={"scope": ANY_KEY, "produces": (TEXT,)})
async def show_metrics() -> Response[bytes]:
    """Show all metrics that are known within three seconds, also while the database or Redis is away."""
    figures, queues = await asyncio.gather(_read_figures(), queue_lengths())
    text = render_process_metrics() + generate_latest(_Metrics(figures, queues))
    return BytesResponse(text, media_type=f"{TEXT}; version=0.0.4; charset=utf-8")


ROUTES = [show_metrics]
