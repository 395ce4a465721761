"""A system of a test's own whose processes all serve metrics: API, relay and worker, and a Redis to break."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack.embedded_valkey import EmbeddedValkey, free_port
from tests.drivers import Api, Database, Pipeline
from tests.processes import ServiceProcess


@dataclass
class ObservedSystem(Pipeline):
    """All processes, each with its metrics."""

    valkey: EmbeddedValkey
    relay_port: int
    worker_port: int
    database_url: str


@contextmanager
def observed_system(database_url: str, folder: Path, **settings: Any) -> Iterator[ObservedSystem]:
    """Start all of it, with the sample's services, and stop it after the block."""
    with ExitStack() as stack:
        valkey = stack.enter_context(EmbeddedValkey(folder / "valkey"))
        api_port, relay_port, worker_port = free_port(), free_port(), free_port()
        urls: dict[str, Any] = {"database": database_url, "redis": valkey.url}
        database = stack.enter_context(Database(database_url))
        database.clean()
        database.add_services()
        stack.enter_context(
            ServiceProcess("api.server", **urls, port=api_port, OMS_API_PROCESSES="2", **settings)
        )
        relay = ServiceProcess("api.relay.main", **urls, OMS_METRICS_PORT=str(relay_port), **settings)
        worker = ServiceProcess("worker.main", **urls, OMS_METRICS_PORT=str(worker_port), **settings)
        stack.enter_context(relay)
        worker.start()
        stack.callback(worker.kill)  # its children sleep for a second before they end
        api = stack.enter_context(Api(api_port))
        api.wait_until_ready()
        ports = (relay_port, worker_port)
        yield ObservedSystem(api, database, relay, worker, valkey.url, valkey, *ports, database_url)
