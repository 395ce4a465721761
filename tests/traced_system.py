"""Real processes whose traces go to a collector, or nowhere."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from stack.embedded_valkey import free_port
from tests.drivers import Api
from tests.processes import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.drivers import Database

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
"""What a caller sends: its trace, and its span in it."""

PIPELINE = "api.relay.main", "worker.main"


@contextmanager
def running(
    *modules: str, database: Database, redis_url: str, **settings: str
) -> Iterator[tuple[Api, dict[str, ServiceProcess]]]:
    """Run the API and other processes, without orders, with the sample's services."""
    database.add_services()
    port = free_port()
    processes = {
        module: ServiceProcess(module, database=database.url, redis=redis_url, port=port, **settings)
        for module in ("api.server", *modules)
    }
    with ExitStack() as stack:
        for process in processes.values():
            stack.enter_context(process)
        api = stack.enter_context(Api(port))
        api.wait_until_ready()
        yield api, processes
