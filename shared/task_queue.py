"""The task queue between the relay and the worker: Celery, with the reason for each setting.

In Redis, or in RabbitMQ if OMS_BROKER_URL names one; see ``shared/rabbitmq_transport.py``.

Only speed depends on the queue. A message may be lost, repeated or late: the relay publishes again from a
cursor that does not move, and the cursors of the consumers make the effect exactly-once.
"""

from __future__ import annotations

import os
import socket
from typing import Any

# A supervisor may send SIGTERM to all of the worker's processes. With this, the children ignore it, and the
# parent gives running tasks until the end of the soft shutdown. Celery reads it when it is imported.
os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")

# Before Kombu, which imports redis-py.
from shared.redis_library import RedisError, redis  # isort: skip

from celery import Celery
from kombu import Producer
from kombu.exceptions import OperationalError
from kombu.transport import redis as redis_transport

from shared import queues, rabbitmq_transport
from shared.redis_clients import connection_class, connection_pool
from shared.settings import settings

APPLY_TO_FEE_SUMMARIES = "fee_summaries.apply_changes"
"""Task. Its argument is a position up to which there are changes to apply; PostgreSQL has them stored."""

APPLY_TO_WEBHOOK_DELIVERIES = "webhook_deliveries.apply_changes"
"""Task. Its argument is a position up to which there are changes to apply; PostgreSQL has them stored."""

ATTEMPT_DUE_DELIVERIES = "webhook_deliveries.attempt_due"
"""Task, without arguments: attempt the deliveries that are due, as PostgreSQL has them stored."""

CONSUMER_QUEUE = queues.CONSUMER_QUEUE

PROVE_FEE_SUMMARIES = "fee_summaries.prove"
"""Task, without arguments: compare every fee summary with the orders, and store the result."""

TASKS = (APPLY_TO_FEE_SUMMARIES, APPLY_TO_WEBHOOK_DELIVERIES, ATTEMPT_DUE_DELIVERIES, PROVE_FEE_SUMMARIES)

ATTEMPTS_QUEUE = queues.ATTEMPTS_QUEUE

TASK_LIMIT_SECONDS = 50


class _Channel(redis_transport.Channel):
    """Kombu's channel, without its bookkeeping of unacknowledged messages in Redis.

    It is not needed: the relay publishes what is lost again, long before a visibility timeout would pass.
    Without it the worker only reads, and closing a connection writes nothing back.

    Its connections are our own; Kombu's limits apply to them. Kombu reads TLS, sentinels and sockets from
    URLs in ways of its own, and only for its own transports.
    """

    ack_emulation = False
    do_restore = False
    connection_class = connection_class()

    def _queue_bind(self, *_: object) -> None:
        """Store no binding in Redis: every message is sent to a queue by its name."""

    def _get_pool(self, asynchronous: bool = False) -> redis.ConnectionPool:  # noqa: FBT001, FBT002 (as Kombu calls it)
        options = self._connparams(asynchronous=asynchronous)  # type: ignore[attr-defined]  # not in its stubs
        for decided_elsewhere in ("host", "port", "username", "password", "db"):
            del options[decided_elsewhere]
        pool = connection_pool(**options)
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=pool.connection_kwargs["db"])
        # Kombu closes the connections to sentinels that it knows of.
        sentinels = getattr(pool, "sentinel_manager", None)
        if asynchronous:
            self._async_sentinel_manager = sentinels
        else:
            self._sentinel_manager = sentinels
        return pool


class Transport(redis_transport.Transport):
    """Kombu's transport over Redis, with channels as above."""

    Channel = _Channel


BROKER = settings().broker_address
"""RabbitMQ, if it has the queue; None if Redis has it."""

# Of Redis, the URL is for logs only: the channel connects by itself.
app = Celery("oms", broker=BROKER.url if BROKER else settings().redis_address.label, include=["worker.tasks"])
app.conf.update(
    task_default_queue=CONSUMER_QUEUE,
    task_routes={ATTEMPT_DUE_DELIVERIES: {"queue": ATTEMPTS_QUEUE}},
    task_serializer="json",
    accept_content=["json"],
    # Nobody reads results: the cursor records what was done.
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    # Acknowledged when done, so that a worker holds no more messages than it has children. Redis is told
    # nothing: what is lost is published again.
    task_acks_late=True,
    task_reject_on_worker_lost=False,
    task_acks_on_failure_or_timeout=True,
    worker_prefetch_multiplier=1,
    task_soft_time_limit=TASK_LIMIT_SECONDS,
    task_time_limit=TASK_LIMIT_SECONDS + 10,
    worker_max_tasks_per_child=1_000,
    worker_soft_shutdown_timeout=2.5,
    worker_hijack_root_logger=False,
    # A child logs to its standard output, see shared/logs.py. Redirected, standard output would be a logger
    # whose handler writes to that same logger, and every line of the child would be lost.
    worker_redirect_stdouts=False,
    # Redis may be unreachable at the start, and later for any length of time; and it may refuse any command.
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_connection_retry=True,
    broker_channel_error_retry=True,
    # A task that runs while the connection is lost may end: repeating it would have no effect.
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_enable_prefetch_count_reduction=False,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
)

_OF_REDIS: dict[str, Any] = {
    "broker_transport": f"{__name__}:{Transport.__name__}",
    "broker_transport_options": {
        # Without these limits a Redis that hangs blocks a publisher without limit.
        "socket_timeout": 5,
        "socket_connect_timeout": 1,
        "socket_keepalive": True,
        "socket_keepalive_options": {socket.TCP_KEEPIDLE: 30} if hasattr(socket, "TCP_KEEPIDLE") else {},
        # A worker whose read is not answered for a second and this long connects again: its server may hang
        # while sentinels have made another the master. Kombu looks that often, so after 7 s at most.
        "health_check_interval": 3,
        "max_retries": 1,
        # No message has a priority, so each queue is one key.
        "priority_steps": [0],
        # A publisher's pause before that one retry. The default is 2 s, in which the relay would assign
        # nothing.
        "interval_start": 0.1,
    },
}
app.conf.update(rabbitmq_transport.configuration(BROKER) if BROKER else _OF_REDIS)


def send_unless_full(
    task: str, arguments: tuple[object, ...], most_waiting: int, queue: str = CONSUMER_QUEUE
) -> bool:
    """Send a task to the worker unless that many messages wait already; return whether it was sent.

    The call blocks, up to the socket's timeout when the broker hangs.

    Raises:
        OperationalError: the broker can't be reached, or refuses to store the message.

    """

    def send() -> bool:
        if _waiting(producer, queue) >= most_waiting:
            return False
        app.send_task(task, arguments, retry=False, producer=producer)
        return True

    with app.producer_or_acquire() as producer:
        return rabbitmq_transport.call(producer, send) if BROKER else send()


def is_empty(queue: str = CONSUMER_QUEUE) -> bool:
    """Return whether no message waits in the queue. Blocks as ``send_unless_full`` does.

    Raises:
        OperationalError: the broker can't be reached, or refuses to count them.

    """
    with app.producer_or_acquire() as producer:
        if BROKER:
            return rabbitmq_transport.call(producer, lambda: _waiting(producer, queue)) == 0
        return _waiting(producer, queue) == 0


def _waiting(producer: Producer, queue: str) -> int:
    if BROKER:
        return rabbitmq_transport.count_waiting(producer, queue)
    try:
        channel: Any = producer.channel  # Kombu's for Redis
        return int(channel.client.llen(queue))
    except (RedisError, ValueError, TypeError) as error:  # the last two: whatever answers is no Redis
        raise OperationalError(str(error)) from error
