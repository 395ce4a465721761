"""Metrics for Prometheus: from the database, the same in every process, and of this process."""

from __future__ import annotations

import msgspec
from litestar import Response, route
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from api.changes.tail import TAIL
from api.fee_summaries.positions import waiting_requests
from api.http.request import READ
from shared.database.statements import fetch_optional

TEXT = "text/plain"

_FIGURES = """
SELECT
    cursor.position::float8 AS position,
    log.last_position::float8 - cursor.position AS behind,
    extract(epoch FROM now() - proof.finished_at)::float8 AS proof_age,
    proof.differing::float8 AS differing, proof.orders::float8 AS proved, proof.seconds::float8 AS seconds
FROM consumer_cursor AS cursor, change_log AS log, fee_summary_proof AS proof
WHERE cursor.consumer = 'fee_summaries'
"""

_GAUGES = {
    "position": ("fee_summaries_position", "Position that the fee summaries are exact for."),
    "behind": (
        "fee_summaries_behind_changes",
        "Changes that have a position and are not in the fee summaries yet.",
    ),
    "differing": (
        "fee_summary_proof_differing_rows",
        "Fee summaries that differed from the orders in the last proof: alert on anything but 0.",
    ),
    "proved": ("fee_summary_proof_orders", "Orders that the last proof recounted."),
    "seconds": ("fee_summary_proof_seconds", "How long the last proof took."),
    "proof_age": (
        "fee_summary_proof_age_seconds",
        "Seconds since the last proof, which is daily: alert above two days.",
    ),
}


_PROCESS_GAUGES = (
    (
        "order_changes_followers",
        "Streams and waiting requests for order changes, in the process that answers.",
        lambda: TAIL.followers,
    ),
    (
        "fee_summaries_waiting_requests",
        "Requests that wait for the fee summaries, in the process that answers.",
        waiting_requests,
    ),
)


class _Figures(msgspec.Struct, frozen=True):
    """The values of ``_GAUGES``; None before the first proof, or without a database schema."""

    position: float | None = None
    behind: float | None = None
    differing: float | None = None
    proved: float | None = None
    seconds: float | None = None
    proof_age: float | None = None


def _render(figures: _Figures) -> bytes:
    registry = CollectorRegistry()
    for name, help_text, count in _PROCESS_GAUGES:
        Gauge(name, help_text, registry=registry).set(count())
    for column, (name, help_text) in _GAUGES.items():
        # Before the first proof its figures are absent: 0 would mean that all is well.
        value = getattr(figures, column)
        if value is not None:
            Gauge(name, help_text, registry=registry).set(value)
    return generate_latest(registry)


@route("/metrics", http_method=READ, opt={"produces": (TEXT,)})
async def show_metrics() -> Response[bytes]:
    """Show metrics of the fee summaries, and of the requests that wait in this process."""
    figures = await fetch_optional(_Figures, _FIGURES)
    return Response(_render(figures or _Figures()), media_type=f"{TEXT}; version=0.0.4; charset=utf-8")


ROUTES = [show_metrics]
