"""The task queue between the relay and the worker: Celery over Redis, and why each setting is as it is.

Nothing depends on the queue but speed. A message may be lost, repeated or late; the consumers' cursors and
the relay, which publishes again from a cursor that stands still, make the effect exactly-once.
"""

from __future__ import annotations

import os
import socket

# A worker told to stop finishes the task at hand within its soft shutdown; without this it would wait for
# it without limit. Celery reads it when it is imported.
os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")

from celery import Celery
from kombu.exceptions import OperationalError
from kombu.transport import redis as over_redis
from kombu.transport import virtual
from redis import RedisError

from shared.settings import settings

APPLY_TO_FEE_SUMMARIES = "fee_summaries.apply_changes"
"""Task: the fields of a ``shared.changes.Batch``, in order."""

APPLY_TO_WEBHOOK_DELIVERIES = "webhook_deliveries.apply_changes"
"""Task: as above."""

ATTEMPT_DUE_DELIVERIES = "webhook_deliveries.attempt_due"
"""Task, without arguments: attempt the deliveries that are due. What and when stands in PostgreSQL."""

CONSUMER_QUEUE = "order-change-batches"
"""The key of the queue in Redis. Not ``order-changes``: that is the stream that subscribers read."""

PROVE_FEE_SUMMARIES = "fee_summaries.prove"
"""Task, without arguments: compare every fee summary with the orders, and keep the result."""

ATTEMPTS_QUEUE = "webhook-attempts"
"""Of its own, so that one request to look waits at most, however many batches do."""


TASK_LIMIT_SECONDS = 50


class _Acknowledgements(over_redis.QoS):
    """Kombu's, without its leak: an acknowledgement that fails gives its place in the prefetch window back.

    Otherwise a worker whose Redis goes away while all of its children are at work is deaf for ever: it asks
    for no further message, so it does not even notice that its connection is gone.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)
        except BaseException:
            virtual.QoS.ack(self, delivery_tag)
            raise


class _Channel(over_redis.Channel):
    QoS = _Acknowledgements


class Transport(over_redis.Transport):
    """Celery over Redis, as kombu has it but for ``_Acknowledgements``."""

    Channel = _Channel


app = Celery("oms", broker=settings().redis_url, include=["worker.tasks"])
app.conf.update(
    broker_transport=f"{__name__}:{Transport.__name__}",
    task_default_queue=CONSUMER_QUEUE,
    task_routes={ATTEMPT_DUE_DELIVERIES: {"queue": ATTEMPTS_QUEUE}},
    task_serializer="json",
    accept_content=["json"],
    # Nobody reads results: the cursor says what was done.
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    # Acknowledged when done, and redelivered when a worker is lost; never relied upon.
    task_acks_late=True,
    task_reject_on_worker_lost=False,
    # A task that fails is not kept: the relay publishes its changes again while the cursor stands still.
    task_acks_on_failure_or_timeout=True,
    worker_prefetch_multiplier=1,
    task_soft_time_limit=TASK_LIMIT_SECONDS,
    task_time_limit=TASK_LIMIT_SECONDS + 10,
    worker_max_tasks_per_child=1_000,
    worker_soft_shutdown_timeout=2.5,
    worker_hijack_root_logger=False,
    # What a child says goes to its standard output, see shared/logs.py. Redirected, that would be a logger
    # whose handler writes to that logger: every line of a child's would be lost.
    worker_redirect_stdouts=False,
    # Redis may be away at the start and for any time later: keep trying, for ever, every few seconds.
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_connection_retry=True,
    worker_cancel_long_running_tasks_on_connection_loss=True,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
    broker_transport_options={
        # Longer than any task may run: a task that outlives it would run twice at once.
        "visibility_timeout": 120,
        "unacked_restore_interval": 5,
        # Without these a Redis that hangs blocks a publisher for ever, and a refused one for 3.6 s.
        "socket_timeout": 5,
        "socket_connect_timeout": 1,
        "socket_keepalive": True,
        "socket_keepalive_options": {socket.TCP_KEEPIDLE: 30} if hasattr(socket, "TCP_KEEPIDLE") else {},
        "health_check_interval": 10,
        "max_retries": 1,
        # A publisher's pause before that one retry; 2 s unless told, in which the relay assigns nothing.
        "interval_start": 0.1,
    },
)


def send_unless_full(
    task: str, arguments: tuple[object, ...], most_waiting: int, queue: str = CONSUMER_QUEUE
) -> bool:
    """Send a task to the worker unless that many messages wait already; tell whether it was sent.

    It blocks, up to the socket's time limit when Redis hangs.

    Raises:
        OperationalError: Redis can't be reached, or doesn't store.

    """
    with app.producer_or_acquire() as producer:
        try:
            waiting = producer.channel.client.llen(queue)
        except RedisError as error:
            raise OperationalError(str(error)) from error
        if waiting >= most_waiting:
            return False
        app.send_task(task, arguments, retry=False, producer=producer)
    return True
