"""An API of a test's own, with settings of its own."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from stack.embedded_valkey import free_port
from tests.drivers import Api
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
