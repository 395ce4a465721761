"""Watching which of the metrics that queries of Prometheus name exist, and which have moved."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import promql_parser as promql

from tests.drivers import wait_until
from tests.scrapes import Metrics, read_metrics, scrape

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.observed_system import ObservedSystem

OF_PROMETHEUS = {"up"}
CONSTANT = {"build_info"}
"""Metrics whose one value never changes: only their labels say something."""

_MATCHES = {
    "MatchOp.Equal": lambda value, wanted: value == wanted,
    "MatchOp.NotEqual": lambda value, wanted: value != wanted,
    "MatchOp.Re": lambda value, wanted: re.fullmatch(wanted, value) is not None,
    "MatchOp.NotRe": lambda value, wanted: re.fullmatch(wanted, value) is None,
}

Selector = tuple[str, tuple[tuple[str, str, str], ...]]


def _selectors(query: str) -> set[Selector]:
    """Return the metrics that a query names, each with the conditions on its labels."""
    selectors: set[Selector] = set()

    def visit(node: Any) -> bool:
        if isinstance(node, promql.VectorSelector):
            conditions = ((str(each.op), each.name, each.value) for each in node.matchers.matchers)
            selectors.add((str(node.name), tuple(conditions)))
        return True

    promql.walk(promql.parse(query), visit)
    return selectors


def _values(metrics: Metrics, selector: Selector) -> dict[frozenset[tuple[str, str]], float]:
    name, conditions = selector
    return {
        labels: value
        for (sample, labels), value in metrics.items()
        if sample == name
        and all(_MATCHES[op](dict(labels).get(label, ""), wanted) for op, label, wanted in conditions)
    }


class MetricWatch:
    """Reads all metrics again and again, and remembers which were seen to have several values."""

    def __init__(self, system: ObservedSystem, queries: Iterable[str]) -> None:
        self._system = system
        self._selectors = {selector for query in queries for selector in _selectors(query)}
        self._seen: dict[Selector, list[dict[frozenset[tuple[str, str]], float]]] = {}
        self.api, self.relay, self.worker = Metrics(), Metrics(), Metrics()
        """What was read last; nothing of a process that did not answer."""

    def look(self) -> None:
        """Read the metrics of the processes that answer."""
        every = Metrics()
        self.api = read_metrics(self._system.api.client.get("/metrics").text)
        every.update(self.api)
        for port, kept in ((self._system.relay_port, self.relay), (self._system.worker_port, self.worker)):
            with suppress(httpx.HTTPError):
                kept.clear()
                kept.update(scrape(port))
                every.update(kept)
        for selector in self._selectors:
            values = _values(every, selector)
            # A series that appears has moved too, unless its process did not answer before.
            if values or (self.relay and self.worker):
                self._seen.setdefault(selector, []).append(values)

    def until(self, condition: Any, what: str, seconds: float = 15) -> None:
        """Read until a condition holds."""

        def holds() -> bool:
            self.look()
            return bool(condition())

        wait_until(holds, what, seconds, 0.1)

    def of_relay(self, name: str, **labels: str) -> float:
        """Return what the relay said last."""
        return self.relay.total(name, **labels)

    def of_worker(self, name: str, **labels: str) -> float:
        """Return what the worker said last."""
        return self.worker.total(name, **labels)

    def missing(self) -> list[str]:
        """Name the metrics that were never there."""
        seen = {selector for selector, values in self._seen.items() if any(values)}
        return sorted(name for name, _ in self._selectors - seen if name not in OF_PROMETHEUS)

    def unmoved(self) -> list[str]:
        """Name the metrics that had one value only."""
        return sorted(
            f"{name}{[f'{label}={value}' for _, label, value in conditions]}"
            for (name, conditions), seen in self._seen.items()
            if all(values == seen[0] for values in seen) and name not in CONSTANT | OF_PROMETHEUS
        )
