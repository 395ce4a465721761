"""An API, or a whole system, of a test's own, with settings of its own."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from stack.embedded_valkey import free_port
from tests.drivers import Api, Database, Pipeline
from tests.processes import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def serving(*, database: str, redis: str, **settings: str) -> Iterator[tuple[Api, ServiceProcess]]:
    """Start an API, wait until it is ready, and stop it after the block.

    Args:
        database: the URL of its database.
        redis: the URL of its Redis.
        settings: more of its environment, such as ``OMS_API_KEYS``.

    """
    port = free_port()
    process = ServiceProcess("api.server", database=database, redis=redis, port=port, **settings)
    with process, Api(port) as api:
        api.wait_until_ready()
        yield api, process


@contextmanager
def running_pipeline(*, database: str, redis: str, **of_api: str) -> Iterator[Pipeline]:
    """Run API, relay and worker, and stop them after the block.

    Args:
        database: the URL of their database.
        redis: the URL of their Redis.
        of_api: more of the API's environment.

    """
    with (
        serving(database=database, redis=redis, **of_api) as (api, _),
        ServiceProcess("api.relay.main", database=database, redis=redis) as relay,
        ServiceProcess("worker.main", database=database, redis=redis) as worker,
        Database(database) as connection,
    ):
        yield Pipeline(api, connection, relay, worker, redis)
        worker.kill()  # its children sleep for a second before they end; other tests check that it stops
