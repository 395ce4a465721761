"""An API, a relay and a worker that are up for one order: do all three reach what carries the queue?"""

from __future__ import annotations

from stack.embedded_valkey import free_port
from tests.drivers import Api
from tests.processes import ServiceProcess


def assert_an_order_is_summed(database: str, redis: str, **settings: str) -> None:
    """Run the three processes, store an order, and see it in the summaries and the queue in health.

    Args:
        database: the URL; it has services.
        redis: the URL.
        settings: further environment of all three.

    """
    port = free_port()
    with (
        ServiceProcess("api.server", database=database, redis=redis, port=port, **settings),
        ServiceProcess("api.relay.main", database=database, redis=redis, port=0, **settings),
        ServiceProcess("worker.main", database=database, redis=redis, port=0, **settings),
        Api(port) as api,
    ):
        api.wait_until_ready()
        order = api.placed_order()
        summaries = api.fee_summaries(after_version=f"{order['id']}:1", wait="10")
        assert summaries["totals"]["orders"] == 1
        assert api.client.get("/health/ready").json()["checks"]["queue"] == "ok"
