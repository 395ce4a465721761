"""The queues in RabbitMQ, counted without Celery: for health checks, metrics and ``oms doctor``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import amqp

from shared.queues import QUEUES

if TYPE_CHECKING:
    from shared.broker_address import BrokerAddress


_silent: set[tuple[str, int]] = set()
"""Nodes that did not answer the last time. They are asked last: one whose host is off takes the timeout."""


@dataclass(frozen=True)
class RabbitMQState:
    """What a node answered."""

    version: str
    lengths: dict[str, int]
    """The messages that wait in each queue; 0 if there is no such queue yet."""


def read_state(address: BrokerAddress, timeout: float) -> RabbitMQState:
    """Ask the first node that answers. Blocks, for ``timeout`` seconds at most in each of a few steps.

    Raises:
        OSError: none answers.
        amqp.AMQPError: it refuses the credentials or the virtual host.

    """
    failure: Exception = OSError("no node")
    for host, port in sorted(address.hosts, key=_silent.__contains__):
        tls = None if address.tls is None else {**address.tls, "server_hostname": host}
        connection: Any = amqp.Connection(
            f"{host}:{port}",
            userid=address.username,
            password=address.password,
            virtual_host=address.virtual_host,
            ssl=tls or False,
            connect_timeout=timeout,
            read_timeout=timeout,
            write_timeout=timeout,
        )
        try:
            connection.connect()
            lengths = {queue: _count(connection, queue) for queue in QUEUES}
        except (OSError, amqp.AMQPError) as error:
            failure = error
            _silent.add((host, port))
        else:
            _silent.discard((host, port))
            return RabbitMQState(str(connection.server_properties.get("version", "?")), lengths)
        finally:
            with suppress(OSError, amqp.AMQPError):
                connection.close()
    raise failure


def _count(connection: amqp.Connection, queue: str) -> int:
    try:
        declared: Any = connection.channel().queue_declare(queue, passive=True)
    except amqp.NotFound:  # the relay has not sent the first message yet
        return 0
    return int(declared.message_count)
