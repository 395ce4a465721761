"""Figures for Prometheus, read from the database when they are asked for: every process gives the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar import HttpMethod, Response, route
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from api.fee_summaries.positions import waiting_requests
from api.order_change_tail import TAIL
from api.requests import AnyRequest, read_query
from shared.database.rows import row

if TYPE_CHECKING:
    from shared.database.rows import Row

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
    "behind": ("fee_summaries_behind_changes", "Changes that have a position and are not summed up yet."),
    "differing": (
        "fee_summary_proof_differing_rows",
        "Fee summaries that the last proof found not to be what the orders say: alert on anything but 0.",
    ),
    "proved": ("fee_summary_proof_orders", "Orders that the last proof counted again."),
    "seconds": ("fee_summary_proof_seconds", "How long the last proof took."),
    "proof_age": (
        "fee_summary_proof_age_seconds",
        "Seconds since the last proof: alert above two days, they are daily.",
    ),
}


_OF_THIS_PROCESS = (
    (
        "order_changes_followers",
        "Streams and waiting requests for order changes, of the process that answers.",
        lambda: TAIL.followers,
    ),
    (
        "fee_summaries_waiting_requests",
        "Requests that wait for the fee summaries, of the process that answers.",
        waiting_requests,
    ),
)


def _written(found: Row) -> bytes:
    registry = CollectorRegistry()
    for name, meaning, count in _OF_THIS_PROCESS:
        Gauge(name, meaning, registry=registry).set(count())
    for column, (name, meaning) in _GAUGES.items():
        # Before the first proof its figures are absent rather than 0, which would say that all is well.
        if found[column] is not None:
            Gauge(name, meaning, registry=registry).set(found[column])
    return generate_latest(registry)


@route("/metrics", http_method=[HttpMethod.GET, HttpMethod.HEAD], opt={"produces": (TEXT,)})
async def show_metrics(request: AnyRequest) -> Response[bytes]:
    """Show what to watch: the fee summaries, and who waits on this process."""
    read_query(request, {})
    found = await row(_FIGURES)
    return Response(
        _written(found or dict.fromkeys(_GAUGES)), media_type=f"{TEXT}; version=0.0.4; charset=utf-8"
    )


ROUTES = [show_metrics]
