"""The queue in RabbitMQ: the log decides what is done, whatever happens to the queue."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import amqp
import pytest

from shared.queues import ATTEMPTS_QUEUE, CONSUMER_QUEUE
from shared.task_queue import APPLY_TO_FEE_SUMMARIES
from tests.callers import EXPECTED
from tests.drivers import wait_until
from tests.faults import Deployment, with_load
from tests.rabbitmq_server import START_SECONDS, RabbitMQ, require_rabbitmq
from tests.summary_progress import applied, last_position

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A node of its own."""
    require_rabbitmq()
    with RabbitMQ(tmp_path_factory.mktemp("rabbitmq")) as rabbitmq:
        yield rabbitmq


@pytest.fixture(scope="module")
def deployment(
    own_database_url: str, tmp_path_factory: pytest.TempPathFactory, rabbitmq: RabbitMQ
) -> Iterator[Deployment]:
    """The service's processes, with their queue in RabbitMQ."""
    with Deployment(
        tmp_path_factory.mktemp("deployment"), own_database_url, OMS_BROKER_URL=rabbitmq.url
    ) as deployment:
        yield deployment


def test_batches_go_through_durable_quorum_queues_and_none_through_redis(
    deployment: Deployment, rabbitmq: RabbitMQ
) -> None:
    """And health says how many wait."""
    crowd = with_load(deployment, 3, lambda: time.sleep(1))
    deployment.wait_until_exact(60)
    assert deployment.faults() == []
    assert all(caller.losses(deployment.api) == [] for caller in crowd)
    with deployment.redis() as client:
        assert [key for key in client.scan_iter() if key != b"order-changes"] == []
    with rabbitmq.connect() as connection:
        same: Any = connection.channel().queue_declare(
            CONSUMER_QUEUE, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"}
        )
        assert same.consumer_count == 1
    assert deployment.api.client.get("/health/ready").json()["checks"]["queue"] == "ok"


def restart(rabbitmq: RabbitMQ) -> None:
    rabbitmq.kill()
    rabbitmq.start()


def replace(rabbitmq: RabbitMQ) -> None:
    rabbitmq.kill()
    rabbitmq.wipe()
    rabbitmq.start()


def delete_queues(rabbitmq: RabbitMQ) -> None:
    with rabbitmq.connect() as connection:
        for queue in (CONSUMER_QUEUE, ATTEMPTS_QUEUE):
            connection.channel().queue_delete(queue)


def hang(rabbitmq: RabbitMQ) -> None:
    os.killpg(rabbitmq.pid, signal.SIGSTOP)
    try:
        time.sleep(15)
    finally:
        os.killpg(rabbitmq.pid, signal.SIGCONT)


@pytest.mark.parametrize("fault", [restart, replace, delete_queues, hang], ids=lambda fault: fault.__name__)
def test_summaries_become_exact_after_a_fault_of_rabbitmq(
    deployment: Deployment, rabbitmq: RabbitMQ, fault: Callable[[RabbitMQ], object]
) -> None:
    """Callers see no error meanwhile."""

    def break_and_wait() -> None:
        fault(rabbitmq)
        began, position = time.monotonic(), last_position(deployment)
        wait_until(lambda: applied(deployment) > position, "summaries follow", START_SECONDS)
        print(f"{fault.__name__}: summaries follow after {time.monotonic() - began:.1f} s")

    crowd = with_load(deployment, 5, break_and_wait, pause=0.2)
    deployment.wait_until_exact(START_SECONDS)
    assert deployment.faults() == []
    for caller in crowd:
        assert caller.losses(deployment.api) == []
        assert caller.refusals(EXPECTED) == []
    for process in (deployment.relay, deployment.standby, deployment.worker):
        assert process.log.count("queue_unavailable") == process.log.count("queue_available_again")


def test_messages_in_rabbitmq_that_are_none_of_ours_are_dropped(
    deployment: Deployment, rabbitmq: RabbitMQ
) -> None:
    """They hold up nothing behind them."""
    unreadable: list[tuple[dict[str, Any], str]] = [
        ({}, "[]"),
        ({"task": 1}, "[[1],{},{}]"),
        ({"task": "os.system"}, "[[1],{},{}]"),
        ({"task": APPLY_TO_FEE_SUMMARIES}, "\x00"),
        ({"task": APPLY_TO_FEE_SUMMARIES}, json.dumps([["1"], {}, {}])),
        ({"task": APPLY_TO_FEE_SUMMARIES}, json.dumps([[1], {"named": 1}, {}])),
        ({"task": APPLY_TO_FEE_SUMMARIES}, "[" * 100_000),
    ]
    before = deployment.worker.log.count("message_dropped")
    with rabbitmq.connect() as connection:
        channel = connection.channel()
        for headers, body in unreadable:
            for more in ({}, {"content_type": "application/x-python-serialize"}):
                message = amqp.Message(body, application_headers=headers, **more)
                channel.basic_publish_confirm(message, routing_key=CONSUMER_QUEUE)
    expected = before + 2 * len(unreadable)
    wait_until(lambda: deployment.worker.log.count("message_dropped") >= expected, "dropped", 30)
    assert deployment.worker.log.count("message_dropped") == expected
    with_load(deployment, 9, lambda: None)
    deployment.wait_until_exact(30)
    assert deployment.faults() == []
