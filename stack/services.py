"""The system's own processes, as ``make run`` starts them: their names, and what each gets of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stack.plan import Plan

PROCESSES = {"api": "api.server", "relay": "api.relay.main", "worker": "worker.main"}
"""The modules of the kinds of processes."""


@dataclass(frozen=True)
class Service:
    """One process of the system. An API replaces the further processes that share its port."""

    kind: str
    name: str
    """Its kind; numbered if there are several."""
    place: int
    """What to add to OMS_METRICS_PORT, if it serves its metrics there."""

    @property
    def command(self) -> list[str]:
        """How it is started."""
        return [sys.executable, "-m", PROCESSES[self.kind]]

    def heartbeat(self, state: Path) -> Path:
        """Return the file that it touches."""
        return state / f"heartbeat-{self.name}"

    def environment(self, of_all: Mapping[str, str], state: Path) -> dict[str, str]:
        """Return its environment: a heartbeat file of its own, and a port for its metrics."""
        environment = {**of_all, "OMS_HEARTBEAT_FILE": str(self.heartbeat(state))}
        port = environment.get("OMS_METRICS_PORT", "")
        if port.isdecimal() and int(port):
            environment["OMS_METRICS_PORT"] = str(int(port) + self.place)
        return environment


def services_of(plan: Plan) -> dict[str, Service]:
    """Return the processes of a plan by their names, in the order in which they are started."""
    workers = ["worker"] if plan.workers == 1 else [f"worker-{n}" for n in range(1, plan.workers + 1)]
    services = [
        Service("api", "api", 0),
        Service("relay", "relay", 0),
        *(Service("worker", name, place) for place, name in enumerate(workers, start=1)),
    ]
    return {service.name: service for service in services}


def stopped_together(services: Mapping[str, Service]) -> list[tuple[list[str], float]]:
    """Return which processes stop together, in order, and their grace in seconds.

    What publishes tasks stops before what runs them. With the servers' own grace, 1 s and 2 s, everything
    ends within 10 s, and OMS_DRAIN.
    """
    workers = [name for name, service in services.items() if service.kind == "worker"]
    return [(["api", "relay"], 2.5), (workers, 3.0)]
