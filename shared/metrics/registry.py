"""The metrics of a process, or of all processes that count in one folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric, disable_created_metrics, generate_latest, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from shared.metrics.shared_counts import FOLDER_VARIABLE, counts_folder, process_slot
from shared.version import version

disable_created_metrics()  # a second series for each, which nobody reads

if FOLDER_VARIABLE in os.environ:
    # A process that takes the place of an ended one counts on in its files. With a file for each process id,
    # their number would grow with each child that ends.
    values.ValueClass = values.MultiProcessValue(process_slot)

PROCESS_METRICS = CollectorRegistry()


def render_process_metrics() -> bytes:
    """Return what this process has counted, and those that count in its folder, in Prometheus' format."""
    if FOLDER_VARIABLE not in os.environ:
        return generate_latest(PROCESS_METRICS)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(counts_folder()))
    return generate_latest(registry)


class Build(Collector):
    """The version of the program, and when it was started."""

    def __init__(self) -> None:
        self._started_at = time.time()

    def collect(self) -> Iterable[Metric]:
        """Yield both."""
        yield build_info()
        yield GaugeMetricFamily(
            "process_start_time_seconds", "When the process was started (Unix time).", value=self._started_at
        )


def build_info() -> GaugeMetricFamily:
    """Return the version, as the label of a gauge that is 1."""
    family = GaugeMetricFamily(
        "build_info", "1; the label is the version of the program.", labels=["version"]
    )
    family.add_metric([version()], 1)
    return family
