"""Celery over RabbitMQ: durable quorum queues, where OMS_BROKER_URL names a RabbitMQ.

As with Redis, only speed depends on the queue: it may be lost with all that is in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from kombu import Queue
from kombu.exceptions import OperationalError
from kombu.transport import TRANSPORT_ALIASES, pyamqp

from shared import queues

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu import Producer

    from shared.broker_address import BrokerAddress

T = TypeVar("T")

QUEUES = {
    name: Queue(name, durable=True, queue_arguments={"x-queue-type": "quorum"}) for name in queues.QUEUES
}


class Transport(pyamqp.Transport):
    """Kombu's transport, which compares each node's certificate with the name of that node."""

    def establish_connection(self) -> Any:
        """Connect to the node whose turn it is.

        Kombu would compare every node's certificate with the name of the first.
        """
        client: Any = self.client
        if client.ssl:
            client.ssl = {**client.ssl, "server_hostname": client.hostname}
        return super().establish_connection()


def use_transport(name: str) -> None:
    """Let Kombu use a transport, ``module:class``, for every node.

    With Celery's ``broker_transport`` it would use it for the first node of a URL only.
    """
    TRANSPORT_ALIASES["amqp"] = name


def configuration(address: BrokerAddress) -> dict[str, Any]:
    """Return Celery's settings that are RabbitMQ's own."""
    use_transport(f"{__name__}:{Transport.__name__}")
    return {
        "broker_use_ssl": address.tls or False,
        "task_queues": list(QUEUES.values()),
        # RabbitMQ's own, which sends to queues by their names: nothing has to be declared or bound.
        "task_default_exchange": "",
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
