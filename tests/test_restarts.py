"""Clients that keep their connections see no reset and no 5xx while two APIs are restarted in turn."""

from __future__ import annotations

import http.client
import json
import random
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from stack.embedded_valkey import free_port
from tests.builders import later, order_body
from tests.consistency import seeded_random
from tests.drivers import Api
from tests.processes import NO_REDIS, ServiceProcess
from tests.proxies import behind_haproxy, behind_nginx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.drivers import Database

DRAIN_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 0.5
"""Between two requests on a connection: shorter than the drain."""

CLIENTS = 6


@contextmanager
def load_balancer(ports: list[int], _folder: Path) -> Iterator[Callable[[], int]]:
    """Yield a function that returns the port of an API that is ready, as a load balancer would choose."""

    def choose() -> int:
        while True:
            for port in random.sample(ports, len(ports)):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                with closing(connection), suppress(OSError, http.client.HTTPException):
                    connection.request("GET", "/health/ready")
                    if connection.getresponse().status == http.client.OK:
                        return port

    yield choose


class Client:
    """Reads and creates orders without end, and tries nothing again."""

    def __init__(self, number: int, choose: Callable[[], int], generator: random.Random) -> None:
        self._calendar = f"client-{number}"
        self._choose = choose
        self._random = random.Random(generator.random())
        self.answers: Counter[tuple[str, int]] = Counter()
        self.failures: list[str] = []
        self.connections = 0

    def run(self, is_over: threading.Event) -> None:
        """Send requests until it is over."""
        connection: http.client.HTTPConnection | None = None
        while not is_over.is_set():
            if connection is None or connection.sock is None:
                connection = http.client.HTTPConnection("127.0.0.1", self._choose(), timeout=30)
                connection.connect()
                self.connections += 1
            try:
                self._send(connection)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
            if self._random.random() < 0.1:
                time.sleep(self._random.uniform(0, LONGEST_PAUSE_SECONDS))
        if connection:
            connection.close()

    def _send(self, connection: http.client.HTTPConnection) -> None:
        if self._random.random() < 0.5:
            method, body = "GET", None
            connection.request("GET", "/orders?limit=5")
        else:
            method, body = "POST", order_body(at=later(hours=3 * self.sent("POST")), calendar=self._calendar)
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/orders", json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        self.answers[method, answer.status] += 1
        if answer.status not in {http.client.OK, http.client.CREATED}:
            self.failures.append(f"{method} {answer.status} {text[:200]!r}")

    def sent(self, method: str) -> int:
        """Return how many requests with a method were answered."""
        return sum(count for (sent, _), count in self.answers.items() if sent == method)


CHECKED_SECONDS = 2.5


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("in_front", "restarts"),
    [(behind_nginx, 20), (behind_haproxy, 6), (load_balancer, 4)],
    ids=["nginx", "haproxy", "a load balancer"],
)
def test_clients_see_no_reset_and_no_error_while_apis_restart(
    in_front: Callable[[list[int], Path], AbstractContextManager[Callable[[], int]]],
    restarts: int,
    postgres_url: str,
    database: Database,
    tmp_path: Path,
) -> None:
    """Creates among them, which no proxy may send twice."""
    generator = seeded_random()
    database.add_services()
    with ExitStack() as stack:
        apis = []
        for port in (free_port(), free_port()):
            settings = {"OMS_DRAIN": str(DRAIN_SECONDS), "OMS_LOG_LEVEL": "WARNING"}
            process = ServiceProcess(
                "api.server", database=postgres_url, redis=NO_REDIS, port=port, **settings
            )
            apis.append((port, stack.enter_context(process)))
        for port, _ in apis:
            stack.enter_context(Api(port)).wait_until_ready()
        choose = stack.enter_context(in_front([port for port, _ in apis], tmp_path))
        clients = [Client(number, choose, generator) for number in range(CLIENTS)]
        is_over = threading.Event()
        threads = [threading.Thread(target=client.run, args=(is_over,)) for client in clients]
        for thread in threads:
            thread.start()
        stops = []
        try:
            for number in range(restarts):
                port, process = apis[number % 2]
                time.sleep(generator.uniform(0, 0.3))
                began = time.monotonic()
                assert process.stop(signal.SIGTERM) == 0
                stops.append(time.monotonic() - began)
                process.start()
                with Api(port) as api:
                    api.wait_until_ready()
                if in_front is behind_haproxy:  # it uses an API again after its next check
                    time.sleep(CHECKED_SECONDS)
        finally:
            is_over.set()
            for thread in threads:
                thread.join(40)
    answers = sum((client.answers for client in clients), Counter())
    connections = sum(client.connections for client in clients)
    print(
        f"{restarts} restarts, stopped in {min(stops):.2f} to {max(stops):.2f} s; {connections} connections"
    )
    print(dict(answers))
    assert [failure for client in clients for failure in client.failures] == []
    assert database.value("SELECT count(*) FROM orders") == answers["POST", http.client.CREATED]
