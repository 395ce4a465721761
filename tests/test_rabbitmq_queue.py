"""The queue in RabbitMQ: the log decides what is done, whatever happens to the queue."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import amqp
import pytest
from kombu import Connection
from kombu.exceptions import OperationalError

from shared.broker_address import read_broker_url
from shared.queues import ATTEMPTS_QUEUE, CONSUMER_QUEUE
from shared.rabbitmq_transport import configuration
from shared.task_queue import APPLY_TO_FEE_SUMMARIES
from tests.callers import EXPECTED
from tests.command_steps import oms
from tests.drivers import Database, wait_until
from tests.faults import Deployment, with_load
from tests.rabbitmq_server import START_SECONDS, RabbitMQ, require_rabbitmq
from tests.small_system import assert_an_order_is_summed
from tests.summary_progress import applied, last_position
from tests.webhook_receiver import CERTIFICATE

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
    with rabbitmq.stopped():
        time.sleep(15)


def block_publishers(rabbitmq: RabbitMQ) -> None:
    rabbitmq.control("rabbitmqctl set_vm_memory_high_watermark 0")
    time.sleep(10)
    rabbitmq.control("rabbitmqctl set_vm_memory_high_watermark 0.4")


@pytest.mark.parametrize(
    "fault",
    [restart, replace, delete_queues, hang, block_publishers],
    ids=lambda fault: fault.__name__,
)
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


def test_health_answers_while_rabbitmq_hangs(deployment: Deployment, rabbitmq: RabbitMQ) -> None:
    """Orders can be stored, so it is ready; the queue is shown as unavailable, within a second."""
    with rabbitmq.stopped():
        for _ in range(10):
            began = time.monotonic()
            answer = deployment.api.client.get("/health/ready")
            assert (answer.status_code, answer.json()["checks"]["queue"]) == (200, "unavailable")
            assert time.monotonic() - began < 1.5
        assert "redis_up 0.0" in deployment.api.client.get("/metrics").text
    wait_until(lambda: 'queue_messages{queue="' in deployment.api.client.get("/metrics").text, "counts", 10)


def test_doctor_looks_at_rabbitmq(deployment: Deployment, rabbitmq: RabbitMQ) -> None:
    """It names the version, or what RabbitMQ refuses, and never the password."""
    environment = {"OMS_DATABASE_URL": deployment.database_url, "OMS_REDIS_URL": deployment.valkey.url}
    assert "rabbitmq: RabbitMQ 3." in oms("doctor", OMS_BROKER_URL=rabbitmq.url, **environment).stdout
    refused = oms("doctor", OMS_BROKER_URL=rabbitmq.url.replace("oms:", "oms:not-"), **environment)
    assert refused.returncode == 1
    assert "rabbitmq: it can't be used" in refused.stdout
    assert "ACCESS_REFUSED" in refused.stdout
    assert "not-" not in refused.stdout
    untrusted = oms("doctor", OMS_BROKER_URL=rabbitmq.tls_url, **environment)
    assert "CERTIFICATE_VERIFY_FAILED" in untrusted.stdout


def test_changes_reach_the_summaries_over_amqps(
    rabbitmq: RabbitMQ, database: Database, postgres_url: str, redis_url: str
) -> None:
    """Also if the first node of the URL, for whose name the certificate is not, does not answer."""
    database.add_services()
    url = f"{rabbitmq.tls_url}?ssl_ca_certs={CERTIFICATE}"
    assert_an_order_is_summed(postgres_url, redis_url, OMS_BROKER_URL=url)


def test_each_node_must_have_a_certificate_for_its_own_name(rabbitmq: RabbitMQ) -> None:
    """Also if it is not the first of the URL; 127.1 is this node too, but its certificate is not for it."""
    for host, name_is_right in (("localhost", True), ("127.1", False)):
        url = f"{rabbitmq.tls_url}?ssl_ca_certs={CERTIFICATE}".replace("localhost", host)
        address = read_broker_url(url)
        options = configuration(address)
        with (
            Connection(address.url, ssl=options["broker_use_ssl"]) as connection,
            nullcontext() if name_is_right else pytest.raises(OperationalError, match="mismatch"),
        ):
            connection.ensure_connection(max_retries=1, interval_start=0)


def test_processes_start_while_rabbitmq_is_away(deployment: Deployment, rabbitmq: RabbitMQ) -> None:
    """Orders are accepted, and counted when it is there."""
    for process in deployment.services:
        process.kill()
    rabbitmq.kill()
    for process in deployment.services:
        process.start()
    deployment.api.wait_until_ready()
    crowd = with_load(deployment, 11, lambda: time.sleep(3))
    for process in (deployment.relay, deployment.standby, deployment.worker):
        assert not process.has_ended
    rabbitmq.start()
    deployment.wait_until_exact(START_SECONDS)
    assert deployment.faults() == []
    assert all(caller.losses(deployment.api) == [] for caller in crowd)


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


def test_messages_that_the_library_cannot_decode_are_dropped(
    deployment: Deployment, rabbitmq: RabbitMQ
) -> None:
    """RabbitMQ gives them to the worker again after every new connection, before any that is behind them."""
    in_properties: list[dict[str, Any]] = [
        {"correlation_id": b"\xff"},
        {"content_type": b"\xff"},
        {"application_headers": {"task": b"\xff"}},
    ]
    to_queue = {"CC": [CONSUMER_QUEUE]}
    before = deployment.worker.log.count("message_dropped")
    with rabbitmq.connect() as connection:
        channel = connection.channel()
        for properties in in_properties:
            channel.basic_publish_confirm(amqp.Message("[]", **properties), routing_key=CONSUMER_QUEUE)
        channel.basic_publish_confirm(amqp.Message("[]", application_headers=to_queue), routing_key=b"\xff")
    expected = before + len(in_properties) + 1
    wait_until(lambda: deployment.worker.log.count("message_dropped") >= expected, "dropped", 30)
    with_load(deployment, 9, lambda: None)
    deployment.wait_until_exact(30)
    assert deployment.faults() == []
