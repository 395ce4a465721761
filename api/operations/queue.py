"""The queue as the API sees it: the only code in the API that connects to a broker. No order waits for it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import structlog

from api.operations.time_limit import within
from shared.queues import QUEUES
from shared.redis_clients import async_client, close_client
from shared.redis_library import RedisError
from shared.settings import settings

if TYPE_CHECKING:
    from shared.broker_address import BrokerAddress

log = structlog.get_logger(__name__)

TIMEOUT_SECONDS = 0.5

# RabbitMQ's client blocks: however many ask while it hangs, the threads of charts and uploads stay free.
_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rabbitmq")


async def queue_lengths() -> dict[str, int] | None:
    """Count the messages that wait in each queue; None if the broker is unavailable. Takes 0.5 s at most."""
    try:
        address = settings().broker_address
        counting = _count_in_rabbitmq(address) if address else _count()
        return await within(TIMEOUT_SECONDS, counting)
    except (RedisError, OSError):
        return None
    except Exception as error:  # noqa: BLE001 - its client raises anything if what answers is no Redis
        log.warning("queue_unreadable", reason=repr(error))
        return None


async def _count_in_rabbitmq(address: BrokerAddress) -> dict[str, int]:
    from shared import rabbitmq_queues  # not imported where Redis has the queue

    loop = asyncio.get_running_loop()
    state = await loop.run_in_executor(_THREAD, rabbitmq_queues.read_state, address, TIMEOUT_SECONDS)
    return state.lengths


async def _count() -> dict[str, int]:
    client = async_client(
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=None,
    )
    try:
        async with client.pipeline(transaction=False) as pipeline:
            for queue in QUEUES:
                pipeline.llen(queue)
            lengths = msgspec.convert(await pipeline.execute(), list[int], strict=True)
            return dict(zip(QUEUES, lengths, strict=True))
    finally:
        await close_client(client)
