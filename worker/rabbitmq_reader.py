"""Reading messages from RabbitMQ as strictly as from Redis: anyone who may publish can have written them."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import msgspec
import structlog
from kombu.transport import pyamqp

from shared import rabbitmq_transport
from worker.messages import UnreadableMessageError, read_arguments
from worker.metrics import DROPPED_MESSAGES

log = structlog.get_logger("worker")


def clean_message(message: Any) -> None:
    """Reduce a message, which is py-amqp's, to its task and arguments, as ``read_message`` does.

    Raises:
        UnreadableMessageError: it is not one that the relay sends.

    """
    headers = message.properties.get("application_headers")
    task = headers.get("task") if isinstance(headers, dict) else None
    if not isinstance(task, str):
        raise UnreadableMessageError("not a task's message: its headers have no task")
    body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
    arguments = read_arguments(task, body)
    identity = str(uuid4())
    message.body = msgspec.json.encode([arguments, {}, {}])
    message.properties = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "correlation_id": identity,
        "application_headers": {"lang": "py", "task": task, "id": identity},
    }


class _Channel(pyamqp.Channel):
    """A channel that acknowledges messages that are none of ours, and passes the others on."""

    def _on_basic_deliver(self, consumer: str, tag: int, *details: Any) -> None:
        *_, queue, message = details
        try:
            clean_message(message)
        except UnreadableMessageError as error:
            DROPPED_MESSAGES.add()
            log.warning("message_dropped", queue=queue, reason=str(error), bytes=len(message.body))
            self.basic_ack(tag)
        else:
            super()._on_basic_deliver(consumer, tag, *details)  # type: ignore[misc]  # the stubs lack it


class _Connection(pyamqp.Connection):
    Channel = _Channel


class Transport(rabbitmq_transport.Transport):
    """The queue's transport, with channels that read as above."""

    Connection = _Connection
    # As with Redis: whatever happens while the queue is read is a reason to connect again, not to end.
    channel_errors = (Exception,)
