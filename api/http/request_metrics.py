"""Counts and durations of requests, for Prometheus. One process serves all requests, so they are complete."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

if TYPE_CHECKING:
    from litestar.types import Scope

UNKNOWN_ROUTE = "unknown"
"""The label of paths that no route has, whatever they are: labels must not grow with what callers send."""

OTHER_METHOD = "other"
NO_ANSWER = "none"
"""The label of requests whose connection was closed before an answer began."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PARAMETER_TYPE = re.compile(r":\w+\}")

_LABELS = ("method", "route", "status")
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

disable_created_metrics()  # a second series for each, which nobody reads

REQUEST_METRICS = CollectorRegistry()

_requests = Counter("http_requests_total", "Requests that were answered.", _LABELS, registry=REQUEST_METRICS)
_durations = Histogram(
    "http_request_duration_seconds",
    "Time from a request's header to the end of its answer; of event streams, to its beginning.",
    _LABELS,
    buckets=_BUCKETS,
    registry=REQUEST_METRICS,
)


def count_request(scope: Scope, status: int, seconds: float) -> None:
    """Count a request.

    Args:
        scope: the application has handled it, so its route is known.
        status: of the answer; 0: there was none.
        seconds: how long it took.

    """
    method = scope["method"] if scope["method"] in _METHODS else OTHER_METHOD  # type: ignore[typeddict-item]
    template = scope.get("path_template")
    route = _PARAMETER_TYPE.sub("}", template) if template else UNKNOWN_ROUTE
    labels = (method, route, str(status) if status else NO_ANSWER)
    _requests.labels(*labels).inc()
    _durations.labels(*labels).observe(seconds)
