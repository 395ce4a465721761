"""Reading messages from RabbitMQ as strictly as from Redis: anyone who may publish can have written them."""

from __future__ import annotations

from struct import unpack_from
from typing import Any
from uuid import uuid4

import msgspec
import structlog
from amqp.serialization import PROPERTY_CLASSES
from amqp.spec import Basic
from kombu.transport import pyamqp

from shared import rabbitmq_transport
from worker.messages import UnreadableMessageError, read_arguments
from worker.metrics import DROPPED_MESSAGES

log = structlog.get_logger("worker")

_decoders: dict[int, Any] = PROPERTY_CLASSES
_decode_properties = _decoders[Basic.CLASS_ID]


def _properties_or_none(buffer: Any, offset: int) -> tuple[dict[str, Any], int]:
    """Decode a message's properties; such as py-amqp can't decode, among them texts not in UTF-8, are none.

    An error would end the connection, and RabbitMQ would give the message to the next one, without end.
    """
    try:
        decoded: tuple[dict[str, Any], int] = _decode_properties(buffer, offset)
    except Exception:  # noqa: BLE001 - whatever is wrong with them
        return {}, len(buffer)
    return decoded


_decoders[Basic.CLASS_ID] = _properties_or_none


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

    def dispatch_method(self, method_sig: tuple[int, int], payload: Any, content: Any) -> Any:
        try:
            return super().dispatch_method(method_sig, payload, content)
        except UnicodeDecodeError as error:
            if method_sig != Basic.Deliver:
                raise
            # The routing key: the sender's, also of a message that a header has sent to the queue.
            (tag,) = unpack_from(">Q", payload, 5 + payload[4])  # after the consumer's name and its length
            self._drop(tag, f"not a task's message: {error.reason} in its routing key", content)

    def _drop(self, tag: int, reason: str, message: Any) -> None:
        DROPPED_MESSAGES.add()
        log.warning("message_dropped", reason=reason, bytes=len(message.body))
        self.basic_ack(tag)

    def _on_basic_deliver(self, consumer: str, tag: int, *details: Any) -> None:
        message = details[-1]
        try:
            clean_message(message)
        except UnreadableMessageError as error:
            self._drop(tag, str(error), message)
        else:
            super()._on_basic_deliver(consumer, tag, *details)  # type: ignore[misc]  # the stubs lack it


class _Connection(pyamqp.Connection):
    Channel = _Channel


class Transport(rabbitmq_transport.Transport):
    """The queue's transport, with channels that read as above."""

    Connection = _Connection
    # As with Redis: whatever happens while the queue is read is a reason to connect again, not to end.
    channel_errors = (Exception,)
