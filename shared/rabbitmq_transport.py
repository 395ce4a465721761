"""Celery over RabbitMQ: durable quorum queues, where OMS_BROKER_URL names a RabbitMQ.

As with Redis, only speed depends on the queue: it may be lost with all that is in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from kombu import Queue
from kombu.exceptions import OperationalError

from shared.queues import ATTEMPTS_QUEUE, CONSUMER_QUEUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu import Producer

    from shared.broker_address import BrokerAddress

T = TypeVar("T")

QUEUES = {
    # Sent to by their names, through the default exchange: there is no exchange or binding to declare.
    name: Queue(name, durable=True, queue_arguments={"x-queue-type": "quorum"})
    for name in (CONSUMER_QUEUE, ATTEMPTS_QUEUE)
}


def configuration(address: BrokerAddress) -> dict[str, Any]:
    """Return Celery's settings that are RabbitMQ's own."""
    return {
        "broker_use_ssl": address.tls or False,
        "task_queues": list(QUEUES.values()),
        "broker_connection_timeout": 2,
        # A node that hangs is noticed after two of these.
        "broker_heartbeat": 5,
        "broker_heartbeat_checkrate": 2,
        "broker_transport_options": {
            # A message that no majority of nodes has stored is an error, as a full Redis is.
            "confirm_publish": True,
            "read_timeout": 5,
            "write_timeout": 5,
            "max_retries": 1,
            "interval_start": 0.1,
        },
    }


def call(producer: Producer, work: Callable[[], T]) -> T:
    """Do something with a producer's channel; if its connection was lost, connect again, once.

    Raises:
        OperationalError: RabbitMQ can't be reached, or refuses it.

    """
    connection: Any = producer.connection
    try:
        result: T = connection.ensure(producer, work, max_retries=1, interval_start=0.1)()
    except connection.connection_errors + connection.channel_errors as error:
        # A channel that an error has closed would be used again.
        connection.collect()
        raise OperationalError(str(error)) from error
    return result


def count_waiting(producer: Producer, queue: str) -> int:
    """Count the messages that wait in a queue; declare it, if it was lost."""
    channel: Any = producer.channel
    declared: Any = QUEUES[queue](channel).queue_declare()
    return int(declared.message_count)
