"""Redis: reachable, a primary, no cluster, and set so that it drops no message by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from oms.checks.findings import Finding, ok, warning, wrong
from shared.queues import QUEUES
from shared.redis_clients import async_client, close_client
from shared.redis_cluster import ADVICE, CLUSTER
from shared.redis_library import RedisError

TIMEOUT_SECONDS = 3.0
LEAST_VERSION = (6, 2)
FULL_SHARE = 0.9
MANY_MESSAGES = 1_000


async def check_redis() -> tuple[list[Finding], float | None]:
    """Look at Redis; also return by how many seconds its clock is ahead, if it can be reached."""
    client = async_client(socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS, retry=None)
    try:
        began = time.time()
        seconds, microseconds = await client.time()
        ahead = seconds + microseconds / 1e6 - (began + time.time()) / 2
        information: Mapping[str, Any] = await client.info()
        lengths: dict[str, int] = {}
        if not int(information.get("cluster_enabled") or 0):  # a cluster answers MOVED
            for queue in QUEUES:
                lengths[queue] = int(await client.llen(queue))
        return [*judge_information(information), *judge_queues("redis", lengths)], ahead
    except (RedisError, OSError) as error:
        text = str(error).rstrip(".") or type(error).__name__
        advice = (
            "Start it, or correct OMS_REDIS_URL or OMS_REDIS_PASSWORD. Orders are accepted meanwhile, but "
            "summaries and webhooks wait."
        )
        return [wrong("redis", f"it can't be used: {text}", advice)], None
    finally:
        await close_client(client)


def judge_information(information: Mapping[str, Any]) -> Iterator[Finding]:
    """Judge what INFO says."""
    name = "Valkey" if "valkey_version" in information else "Redis"
    version = str(information.get("valkey_version") or information.get("redis_version") or "?")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < LEAST_VERSION:
        yield wrong("redis", f"this is {name} {version}", "Use 6.2 or newer.")
    else:
        yield ok("redis", f"{name} {version}")
    if information.get("role", "master") != "master":
        yield wrong("redis", "it is a replica, which refuses writes", "Name the primary in OMS_REDIS_URL.")
    if int(information.get("cluster_enabled") or 0):
        yield wrong("redis", CLUSTER, ADVICE)
    policy = information.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield wrong(
            "redis",
            f"maxmemory-policy is {policy}: when it is full, it drops messages",
            "CONFIG SET maxmemory-policy noeviction, and in its configuration file.",
        )
    limit, used = int(information.get("maxmemory") or 0), int(information.get("used_memory") or 0)
    if limit and used > FULL_SHARE * limit:
        yield wrong(
            "redis",
            f"it uses {used / 1e6:,.0f} MB of the {limit / 1e6:,.0f} MB that it may",
            "Raise maxmemory; a full one refuses messages.",
        )
    if not int(information.get("aof_enabled") or 0):
        yield warning(
            "redis",
            "appendonly is no: its messages are lost in a restart, and published again a moment later",
            "CONFIG SET appendonly yes, and in its configuration file.",
        )
    for field, what in (
        ("aof_last_write_status", "append-only file"),
        ("rdb_last_bgsave_status", "snapshot"),
    ):
        if information.get(field, "ok") != "ok":
            yield wrong(
                "redis", f"its last write of the {what} failed", "Look at its log: its disk may be full."
            )
    if int(information.get("loading") or 0):
        yield wrong("redis", "it is still loading its data", "Wait until it has.")


def judge_queues(area: str, lengths: Mapping[str, int]) -> Iterator[Finding]:
    """Judge how many messages wait in each queue."""
    for queue, length in lengths.items():
        if length > MANY_MESSAGES:
            yield wrong(
                area,
                f"{length:,} messages wait in {queue}",
                "Start the worker (python -m worker.main), or look at its log.",
            )
