"""Metrics of the relay and of the worker, which cost nothing unless ``OMS_METRICS_PORT`` is set.

They are declared when their module is imported, and made by ``make_metrics``: prometheus_client is imported
only then, when the folder that processes may share is known.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

log = structlog.get_logger("metrics")

DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Seconds."""

_declared: list[_Declared] = []


@dataclass
class _Declared(ABC):
    name: str
    documentation: str
    labels: tuple[str, ...] = ()
    from_start: Collection[tuple[str, ...]] = ()
    """Values of the labels that are shown, as 0, before anything is counted: a rate needs a first value."""
    is_optional: bool = False
    """Made by the module that needs it, not by ``make_metrics``."""
    _made: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not self.is_optional:
            _declared.append(self)

    def make(self) -> None:
        """Make the metric in prometheus_client, once."""
        if self._made is not None:
            return
        self._made = self._make()
        for values in self.from_start:
            self._made.labels(*values)

    @abstractmethod
    def _make(self) -> Any:
        """Make it, of its kind."""

    @contextmanager
    def _unless_disk_fails(self) -> Iterator[None]:
        """Stop counting if the files of the counts can't be written: what is counted must go on."""
        try:
            yield
        except OSError as error:
            self._made = None
            log.warning("not_counted", metric=self.name, reason=error.strerror or str(error))

    def _series(self, values: tuple[str, ...]) -> Any:
        return self._made.labels(*values) if values else self._made


class Count(_Declared):
    """A counter. Its name ends with ``_total``."""

    def add(self, *values: str, amount: float = 1) -> None:
        """Count once, or ``amount`` times, under these values of the labels."""
        if self._made is not None:
            with self._unless_disk_fails():
                self._series(values).inc(amount)

    def _make(self) -> Any:
        from prometheus_client import Counter

        return Counter(self.name, self.documentation, self.labels, registry=_registry())


class Durations(_Declared):
    """A histogram of seconds."""

    def observe(self, seconds: float, *values: str) -> None:
        """Count a duration under these values of the labels."""
        if self._made is not None:
            with self._unless_disk_fails():
                self._series(values).observe(seconds)

    def _make(self) -> Any:
        from prometheus_client import Histogram

        return Histogram(
            self.name, self.documentation, self.labels, buckets=DURATION_BUCKETS, registry=_registry()
        )


class State(_Declared):
    """A gauge, of a process that counts alone."""

    def set(self, value: float) -> None:
        """Set the value."""
        if self._made is not None:
            self._made.set(value)

    def _make(self) -> Any:
        from prometheus_client import Gauge

        return Gauge(self.name, self.documentation, registry=_registry())


class Greatest(State):
    """A gauge of one of several processes; ``/metrics`` shows the greatest value of those that run."""

    def _make(self) -> Any:
        from prometheus_client import Gauge

        return Gauge(self.name, self.documentation, registry=_registry(), multiprocess_mode="livemax")


def _registry() -> Any:
    from shared.metrics.registry import PROCESS_METRICS

    return PROCESS_METRICS


def make_metrics() -> None:
    """Make all metrics that are declared so far, except optional ones."""
    for metric in _declared:
        metric.make()
