"""redis-py, imported without OpenTelemetry: import it from here."""

from __future__ import annotations

from shared.tracing.hidden import without_opentelemetry

with without_opentelemetry():
    import redis
    import redis.asyncio
    import redis.asyncio.sentinel
    import redis.connection
    import redis.observability.metrics  # it would be imported at the first command
    import redis.sentinel
    from redis.exceptions import RedisError, ResponseError, WatchError

__all__ = ["RedisError", "ResponseError", "WatchError", "redis"]
