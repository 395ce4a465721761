"""A Redis Cluster is refused: by relay and worker when they start, and by ``oms doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from shared.queues import ATTEMPTS_QUEUE, CONSUMER_QUEUE
from stack.embedded_valkey import free_port
from tests.command_steps import oms
from tests.drivers import wait_until
from tests.processes import run_command
from tests.redis_servers import RedisServer

SENTENCE = "cluster-enabled is yes"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A node that has all slots: as complete as a cluster can be on one port; yields the port."""
    port = free_port()
    folder: Path = tmp_path_factory.mktemp("cluster") / "node"
    server = RedisServer(
        folder,
        f"port {port}",
        "bind 127.0.0.1",
        "cluster-enabled yes",
        f"cluster-port {free_port()}",
        'save ""',
    )
    server.start()
    try:
        client: Any = redis.Redis(port=port, socket_timeout=2)
        wait_until(partial(answers, client), "the node answers", 20)
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        wait_until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok", "it is ready", 20)
        yield port
    finally:
        server.kill()


def answers(client: redis.Redis) -> bool:
    """Whether the server answers."""
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.mark.parametrize("module", ["api.relay.main", "worker.main"])
def test_relay_and_worker_do_not_start_with_a_cluster(module: str, cluster: int, postgres_url: str) -> None:
    """They end, and say why in one sentence."""
    done = run_command(module, database=postgres_url, OMS_REDIS_URL=f"redis://127.0.0.1:{cluster}/0")
    assert done.returncode == 1
    assert SENTENCE in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_says_that_a_cluster_is_wrong(cluster: int, postgres_url: str) -> None:
    """And what to use instead."""
    environment = {"OMS_DATABASE_URL": postgres_url, "OMS_REDIS_URL": f"redis://127.0.0.1:{cluster}/0"}
    done = oms("doctor", **environment)
    assert done.returncode == 1
    assert SENTENCE in done.stdout
    assert "sentinel://" in done.stdout


def test_the_worker_could_not_read_its_queues_in_a_cluster(cluster: int) -> None:
    """Why it is refused: one read of two keys, which have different slots."""
    client = redis.Redis(port=cluster, socket_timeout=2)
    with pytest.raises(redis.ResponseError, match="same slot"):
        client.brpop([CONSUMER_QUEUE, ATTEMPTS_QUEUE], timeout=1)
