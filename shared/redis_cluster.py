"""Redis Cluster is refused at the start: it answers a read of two queues CROSSSLOT, and most keys MOVED."""

from __future__ import annotations

from typing import Any

from shared.command_output import StartRefusedError
from shared.redis_clients import async_client, close_client

CLUSTER = (
    "cluster-enabled is yes: each key has a node of its own there, and the queues and the stream need one "
    "server that has all keys"
)
ADVICE = (
    "Use a server without cluster-enabled, with sentinels if another must take over (sentinel:// in "
    "OMS_REDIS_URL); one is enough, since it only carries messages."
)
TIMEOUT_SECONDS = 2.0


class RedisClusterError(StartRefusedError):
    """OMS_REDIS_URL names a node of a Redis Cluster."""


async def check_no_cluster() -> None:
    """Check that Redis is no cluster. A Redis that can't be asked is not waited for.

    Raises:
        RedisClusterError: it is one.

    """
    client = async_client(socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS, retry=None)
    try:
        information: Any = await client.info("cluster")
    except Exception:  # noqa: BLE001 - its client raises anything if what answers is no Redis
        return
    finally:
        await close_client(client)
    if isinstance(information, dict) and information.get("cluster_enabled"):
        raise RedisClusterError(f"OMS_REDIS_URL: {CLUSTER}. {ADVICE}")
