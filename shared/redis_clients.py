"""Clients of Redis, as ``OMS_REDIS_URL`` says: every part that speaks to Redis gets its connections here.

With sentinels, each new connection asks them for the master, and one to a server that is no longer the master
is given up: so all clients follow a failover.
"""

from __future__ import annotations

from typing import Any

from shared.redis_library import redis
from shared.settings import settings


def async_client(**options: Any) -> redis.asyncio.Redis:
    """Return a client; it connects at first use. Close it with ``close_client``.

    Args:
        options: redis-py's, such as time limits; for the connections to sentinels too.

    """
    address = settings().redis_address
    own = {"db": address.database, **address.credentials, **options}
    tls = {} if address.tls is None else {"ssl": True, **address.tls}
    if address.master:
        sentinels = redis.asyncio.sentinel.Sentinel(
            address.hosts, sentinel_kwargs={**address.sentinel_credentials, **tls, **options}
        )
        client: redis.asyncio.Redis = sentinels.master_for(address.master, **own, **tls)
        return client
    if address.socket:
        return redis.asyncio.Redis(unix_socket_path=address.socket, **own)
    host, port = address.hosts[0]
    return redis.asyncio.Redis(host=host, port=port, **own, **tls)


async def close_client(client: redis.asyncio.Redis) -> None:
    """Close a client's connections, those to sentinels too."""
    await client.aclose()
    sentinels = getattr(client.connection_pool, "sentinel_manager", None)
    if sentinels is not None:
        await sentinels.aclose()


def connection_class() -> type[redis.connection.AbstractConnection]:
    """Return redis-py's class for connections of the pool below."""
    address = settings().redis_address
    if address.socket:
        return redis.UnixDomainSocketConnection
    if address.master:
        with_tls = address.tls is not None
        sentinel = redis.sentinel
        return sentinel.SentinelManagedSSLConnection if with_tls else sentinel.SentinelManagedConnection
    return redis.Connection if address.tls is None else redis.SSLConnection


def connection_pool(**options: Any) -> redis.ConnectionPool:
    """Return a pool of blocking connections.

    Args:
        options: redis-py's, such as time limits, and ``connection_class`` if it is derived from ours.

    """
    address = settings().redis_address
    tls = dict(address.tls or {})
    own = {
        "connection_class": connection_class(),
        **options,
        "db": address.database,
        **address.credentials,
        **tls,
    }
    if address.master:
        timeouts = {name: value for name, value in options.items() if name.startswith("socket_")}
        sentinels = redis.sentinel.Sentinel(
            address.hosts,
            sentinel_kwargs={
                **address.sentinel_credentials,
                **timeouts,
                **({} if address.tls is None else {"ssl": True, **tls}),
            },
        )
        return redis.sentinel.SentinelConnectionPool(address.master, sentinels, **own)
    if address.socket:
        tcp_only = ("socket_connect_timeout", "socket_keepalive", "socket_keepalive_options")
        return redis.ConnectionPool(
            path=address.socket, **{name: value for name, value in own.items() if name not in tcp_only}
        )
    host, port = address.hosts[0]
    return redis.ConnectionPool(host=host, port=port, **own)
