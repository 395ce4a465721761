"""Reading the queue: whatever Redis answers or holds, the worker waits, logs that once, and reads on.

Three classes of Celery and Kombu are extended here: the channel, which reads messages; the consumer, which
connects; and the pool, whose children may die at any moment.
"""

from __future__ import annotations

import logging
import time
import warnings
from queue import Empty
from typing import Any

import structlog
from amqp import AMQPError
from celery.concurrency import asynpool, prefork
from celery.exceptions import CPendingDeprecationWarning, WorkerLostError
from celery.utils.log import get_multiprocessing_logger
from celery.worker.consumer import consumer as celery_consumer
from celery.worker.state import maybe_shutdown
from kombu.exceptions import OperationalError
from kombu.utils.encoding import bytes_to_str

from shared import rabbitmq_transport
from shared.redis_library import RedisError
from shared.task_queue import BROKER, app
from worker import rabbitmq_reader
from worker.messages import UnreadableMessageError, read_message
from worker.metrics import DROPPED_MESSAGES, QUEUE_FAILURES

log = structlog.get_logger("worker")

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0
"""Pauses between two tries to reach Redis, or to read a queue that it does not let us read."""


class _Availability:
    """Whether the queue can be read; logged when that changes, and not with every try."""

    def __init__(self) -> None:
        self._pause = 0.0

    def next_pause(self, error: BaseException) -> float:
        """Record that the queue can't be read; return the seconds to wait before the next try."""
        QUEUE_FAILURES.add()
        if not self._pause:
            # What is no Redis may answer so that its client raises anything: then the log shows where.
            is_expected = isinstance(error, (RedisError, AMQPError, OSError, OperationalError))
            reason = str(error) or type(error).__name__
            log.warning("queue_unavailable", reason=reason, exc_info=None if is_expected else error)
        self._pause = min(self._pause * 2 or FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        return self._pause

    def record_reply(self) -> None:
        """Record that Redis answered a read of the queue."""
        if self._pause:
            log.info("queue_available_again")
        self._pause = 0.0


_availability = _Availability()


class _Reading:
    """A channel that drops messages that are none of ours; mixed into the queue's channel."""

    def _brpop_read(self: Any, **options: Any) -> bool:
        try:
            reply = self.client.parse_response(self.client.connection, "BRPOP", **options)
        except self.connection_errors:
            self.client.connection.disconnect()
            raise
        finally:
            self._in_poll = None
        _availability.record_reply()
        if not reply:
            raise Empty
        key, text = reply
        queue = bytes_to_str(key).rsplit(self.sep, 1)[0]
        self._queue_cycle.rotate(queue)
        try:
            message = read_message(text, queue)
        except UnreadableMessageError as error:
            DROPPED_MESSAGES.add()
            log.warning("message_dropped", queue=queue, reason=str(error), bytes=len(text))
        else:
            self.connection._deliver(message, queue)  # noqa: SLF001 - as in the method that this replaces
        return True


def _transport() -> type:
    """Return the transport over Redis, with channels that read as above."""
    transport: Any = app.connection_for_read().get_transport_cls()
    channel = type("Channel", (_Reading, transport.Channel), {})
    # Whatever happens while the queue is read is a reason to connect again, not to end: an error that Redis
    # answers, or whatever its client raises after an answer that no Redis would give.
    return type("Transport", (transport,), {"Channel": channel, "channel_errors": (Exception,)})


def use_transport() -> None:
    """Let the worker read the queue with channels that drop messages which are none of ours."""
    if BROKER:
        rabbitmq_transport.use_transport(f"{rabbitmq_reader.__name__}:Transport")
    else:
        app.conf.broker_transport = _transport()


_CeleryBlueprint: Any = celery_consumer.Consumer.Blueprint


class Consumer(celery_consumer.Consumer):
    """Celery's consumer, which connects again after any error of Redis, within a second of its end."""

    class Blueprint(_CeleryBlueprint):  # type: ignore[misc]  # it has no type in celery-types
        """Celery's steps, without the one that declares exchanges in RabbitMQ for delayed tasks."""

        default_steps = tuple(
            step for step in _CeleryBlueprint.default_steps if not step.endswith(":DelayedDelivery")
        )

    def ensure_connected(self, connection: Any) -> Any:
        """Connect, trying without limit. Celery's own pauses grow to 30 s, and it logs each of them."""

        def on_error(error: BaseException, _interval: float) -> None:
            _availability.next_pause(error)

        connection.ensure_connection(
            on_error,
            interval_start=FIRST_PAUSE_SECONDS,
            interval_step=FIRST_PAUSE_SECONDS,
            interval_max=LONGEST_PAUSE_SECONDS,
            callback=maybe_shutdown,
        )
        self.first_connection_attempt = False
        return connection

    def on_ready(self) -> None:
        """Report that the worker is ready from the event loop, which begins a moment after this call.

        Until then Celery does not expect a signal that stops the worker.
        """
        if BROKER:  # it has answered that it will deliver; Redis answers each read
            _availability.record_reply()
        self.call_soon(super().on_ready)

    def on_connection_error_before_connected(self, error: Exception) -> None:
        """Wait: Redis refused what a connection begins with."""
        time.sleep(_availability.next_pause(error))

    def on_connection_error_after_connected(self, error: Exception) -> None:
        """Close the connection and wait: it was lost, or Redis refused a command."""
        pause = _availability.next_pause(error)  # logged first: closing may take a moment
        with warnings.catch_warnings():
            # Each time, it recommends a setting that is set on purpose, see shared/task_queue.py.
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            super().on_connection_error_after_connected(error)
        time.sleep(pause)


class _Processes(asynpool.AsynPool):
    def _track_child_process(self, process: Any, hub: Any) -> None:
        # A child that has died and is not reaped yet has no descriptor to watch any more. If the connection
        # to Redis is made anew in that moment, Celery 5.7 passes None to Kombu 5.7, whose ValueError would
        # end the worker. The pool's own timer replaces the child.
        if getattr(process, "_sentinel_poll", 0) is not None:
            super()._track_child_process(process, hub)  # type: ignore[misc]  # the stubs lack it


class Pool(prefork.TaskPool):
    """Celery's prefork pool, which survives a child that dies while Redis is away."""

    Pool = _Processes


def configure_celery_logs(**_: object) -> None:
    """Leave the handlers as they are, and let the pool's logger use them.

    As a receiver of ``setup_logging``, it replaces Celery's own configuration, which gives that logger a
    handler with a format of its own.
    """
    pool_logger: Any = get_multiprocessing_logger()
    pool_logger.propagate = True
    pool_logger.setLevel(logging.ERROR)


def quieten_celery() -> None:
    """Drop Celery's lines about each try to connect, and about each task.

    ``queue_unavailable`` is logged once. A task follows each few changes; it logs itself at the level debug.
    """
    repeated = {"%s (%r)", "Frequent restarts detected: %r"}
    logging.getLogger("celery.worker.consumer.consumer").addFilter(lambda line: line.msg not in repeated)
    of_consumer = [f"celery.worker.consumer.{name}" for name in ("connection", "tasks")]
    for name in (*of_consumer, "celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("celery.worker.request").addFilter(_shorten_lost_child)


def _shorten_lost_child(line: logging.LogRecord) -> bool:
    """Drop the traceback of a task whose child died: it is the pool's own, and the message says it all."""
    if isinstance(line.args, tuple) and any(isinstance(value, WorkerLostError) for value in line.args):
        line.exc_info = None
    return True
