"""Counts and durations of requests, for Prometheus, in all processes of this server.

With ``OMS_API_PROCESSES``, any of them may answer ``/metrics``, so they count in files in a folder that they
share (prometheus_client's multiprocess mode). A process that ends leaves what it counted.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

from api.http.request import METHODS
from shared.metrics.registry import PROCESS_METRICS

if TYPE_CHECKING:
    from litestar.types import Scope

UNKNOWN_ROUTE = "unknown"
"""The label of paths that no route has, whatever they are: labels must not grow with what callers send."""

OTHER_METHOD = "other"
NO_ANSWER = "none"
"""The label of requests whose connection was closed before an answer began."""

_PARAMETER_TYPE = re.compile(r":\w+\}")

_LABELS = ("method", "route", "status")
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

_requests = Counter("http_requests_total", "Requests that were answered.", _LABELS, registry=PROCESS_METRICS)
_durations = Histogram(
    "http_request_duration_seconds",
    "Time from a request's header to the end of its answer; of event streams, to its beginning.",
    _LABELS,
    buckets=_BUCKETS,
    registry=PROCESS_METRICS,
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
    """Create a gauge of this process; ``/metrics`` shows the sum of the server's processes."""
    gauge = Gauge(name, documentation, registry=PROCESS_METRICS, multiprocess_mode="sum")
    gauge.set(0)  # an ended process, whose place this one has, may have left another value
    return gauge
