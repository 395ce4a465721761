"""``OMS_REDIS_URL`` with sentinels and sockets: every part reaches the server, and follows a failover.

Over TCP and TLS: ``tests/test_redis_tls.py``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from stack.embedded_valkey import free_port
from tests.builders import later
from tests.drivers import Api, Database, wait_until
from tests.processes import ServiceProcess
from tests.redis_servers import MASTER, PASSWORD, RedisServer, SentinelGroup


@contextmanager
def _system(postgres_url: str, url: str, **more: str) -> Iterator[tuple[Api, list[ServiceProcess]]]:
    port = free_port()
    processes = [
        ServiceProcess("api.server", database=postgres_url, redis=url, port=port, **more),
        ServiceProcess("api.relay.main", database=postgres_url, redis=url, port=0, **more),
        ServiceProcess("worker.main", database=postgres_url, redis=url, port=0, **more),
    ]
    with processes[0], processes[1], processes[2], Api(port) as api:
        api.wait_until_ready()
        yield api, processes


def _is_summed(api: Api, order: dict[str, object]) -> bool:
    answer = api.client.get(f"/fee-summaries?after_version={order['id']}:1&wait=10")
    return answer.status_code == 200


def _queue(api: Api) -> str:
    return str(api.client.get("/health/ready").json()["checks"]["queue"])


def _has_changes(server: redis.Redis, count: int) -> bool:
    return bool(server.xlen("order-changes") == count)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="oms-"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("in_url", [True, False])
def test_all_parts_work_through_a_unix_socket(
    short_folder: Path, database: Database, postgres_url: str, *, in_url: bool
) -> None:
    """In the database that the URL names; the password is in the URL, or in OMS_REDIS_PASSWORD."""
    database.add_services()
    path = short_folder / "redis server.sock"
    server = RedisServer(short_folder / "data", "port 0", f'unixsocket "{path}"', f'requirepass "{PASSWORD}"')
    server.start()
    try:
        wait_until(path.exists, "the socket is there")
        user = f":{quote(PASSWORD, safe='')}@" if in_url else ""
        more = {} if in_url else {"OMS_REDIS_PASSWORD": PASSWORD}
        with _system(postgres_url, f"unix://{user}{quote(str(path))}?db=3", **more) as (api, processes):
            assert _is_summed(api, api.placed_order())
            assert _queue(api) == "ok"
            assert not any(PASSWORD in process.log for process in processes)
            client = redis.Redis(unix_socket_path=str(path), password=PASSWORD, db=3)
            wait_until(partial(_has_changes, client, 1), "the stream is in database 3")
    finally:
        server.kill()


def test_all_parts_follow_the_master_after_failovers(
    tmp_path: Path, database: Database, postgres_url: str
) -> None:
    """One by request, where the old master lives on as a replica, and one because the master was killed."""
    database.add_services()
    with SentinelGroup(tmp_path / "redis") as group:
        # The first sentinel is down: the next one is asked.
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{group.sentinel_port}"
        url = (
            f"sentinel://:{quote(PASSWORD, safe='')}@{hosts}/2"
            f"?master={MASTER}&sentinel_password=of%20the%20sentinel"
        )
        with _system(postgres_url, url) as (api, processes):
            for number, kill in enumerate((None, False, True)):
                if kill is not None:
                    group.fail_over(kill=kill)
                order = api.placed_order(at=later(days=number))
                wait_until(partial(_is_summed, api, order), f"it is summed, {kill=}", 30)
                wait_until(lambda: _queue(api) == "ok", f"health sees the master, {kill=}", 10)
                master = group.connect(group.master_port)
                master.select(2)
                # Sentinels look at the old master every 10 s. Until they have made it a replica, it takes the
                # writes of those who are connected to it.
                wait_until(
                    partial(_has_changes, master, number + 1),
                    f"the stream of the new master has the change, {kill=}",
                    30,
                )
            assert not any(process.has_ended for process in processes)
            assert not any(PASSWORD in process.log for process in processes)
