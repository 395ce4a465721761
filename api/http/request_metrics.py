"""Counts and durations of requests, for Prometheus, in all processes of this server.

With ``OMS_API_PROCESSES``, any of them may answer ``/metrics``, so they count in files in a folder that they
share (prometheus_client's multiprocess mode). A process that ends leaves what it counted.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from api.http.shared_counts import FOLDER_VARIABLE, exists

if TYPE_CHECKING:
    from litestar.types import Scope

UNKNOWN_ROUTE = "unknown"
"""The label of paths that no route has, whatever they are: labels must not grow with what callers send."""

OTHER_METHOD = "other"
NO_ANSWER = "none"
"""The label of requests whose connection was closed before an answer began."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PARAMETER_TYPE = re.compile(r":\w+\}")

_LABELS = ("method", "route", "status")
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

disable_created_metrics()  # a second series for each, which nobody reads

_PROCESS_METRICS = CollectorRegistry()

_requests = Counter("http_requests_total", "Requests that were answered.", _LABELS, registry=_PROCESS_METRICS)
_durations = Histogram(
    "http_request_duration_seconds",
    "Time from a request's header to the end of its answer; of event streams, to its beginning.",
    _LABELS,
    buckets=_BUCKETS,
    registry=_PROCESS_METRICS,
)


def count_request(scope: Scope, status: int, seconds: float) -> None:
    """Count a request.

    Args:
        scope: the application has handled it, so its route is known.
        status: of the answer; 0: there was none.
        seconds: how long it took.

    """
    method = str(scope["method"])  # type: ignore[typeddict-item]  # only HTTP requests are counted
    if method not in METHODS:
        method = OTHER_METHOD
    requests, durations = _series(method, scope.get("path_template"), status)
    requests.inc()
    durations.observe(seconds)


@cache
def _series(method: str, template: str | None, status: int) -> tuple[Counter, Histogram]:
    labels = (method, _route(template), str(status) if status else NO_ANSWER)
    return _requests.labels(*labels), _durations.labels(*labels)


def route_of(scope: Scope) -> str:
    """Return the template of a request's path, such as ``/orders/{order_id}``, once it is handled."""
    return _route(scope.get("path_template"))


@cache
def _route(template: str | None) -> str:
    return _PARAMETER_TYPE.sub("}", template) if template else UNKNOWN_ROUTE


def process_gauge(name: str, documentation: str) -> Gauge:
    """Create a gauge of this process; ``/metrics`` shows the sum of the server's living processes."""
    gauge = Gauge(name, documentation, registry=_PROCESS_METRICS, multiprocess_mode="livesum")
    gauge.set(0)  # a killed process with the same id may have left its file
    return gauge


def render_process_metrics() -> bytes:
    """Return what all processes of this server have counted, in Prometheus' text format."""
    if FOLDER_VARIABLE not in os.environ:
        return generate_latest(_PROCESS_METRICS)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)


def drop_gauges_of_ended_processes() -> None:
    """Remove the gauges that killed processes left behind. Their counts stay, since a count never falls."""
    if FOLDER_VARIABLE in os.environ:
        for path in Path(os.environ[FOLDER_VARIABLE]).glob("gauge_live*.db"):
            process_id = path.stem.rpartition("_")[2]
            if not exists(int(process_id)):
                mark_process_dead(process_id)
