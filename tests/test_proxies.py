"""What an API behind nginx or haproxy still does, with the files of ``docs/operations/proxies``."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing, contextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import httpx
import psutil
import pytest

from shared.secret_keys import make_secret_key
from stack.embedded_valkey import free_port
from tests.builders import later
from tests.drivers import Api, wait_until
from tests.processes import NO_REDIS, ServiceProcess
from tests.proxies import PROXIES, proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.drivers import Database

KEY = "the key of the office"


class Served(NamedTuple):
    """Two APIs, and a caller of the proxy in front of them."""

    api: Api
    processes: tuple[ServiceProcess, ...]
    ports: tuple[int, ...]
    port: int
    """The proxy's."""


@pytest.fixture(scope="module", params=PROXIES)
def served(
    request: pytest.FixtureRequest, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Two APIs and a relay, behind each proxy in turn."""
    ports = (free_port(), free_port())
    keys = f"office:write:{sha256(KEY.encode()).hexdigest()}"
    settings = {"OMS_API_KEYS": keys, "OMS_DRAIN": "1", "OMS_SECRET_KEY": make_secret_key()}
    with ExitStack() as stack:
        processes = tuple(
            stack.enter_context(
                ServiceProcess("api.server", database=postgres_url, redis=NO_REDIS, port=port, **settings)
            )
            for port in ports
        )
        stack.enter_context(ServiceProcess("api.relay.main", database=postgres_url, redis=NO_REDIS))
        for port in ports:
            stack.enter_context(Api(port)).wait_until_ready()
        folder = tmp_path_factory.mktemp(request.param)
        in_front = stack.enter_context(proxy(request.param, list(ports), folder))
        api = stack.enter_context(Api(in_front))
        api.client.headers["Authorization"] = f"Bearer {KEY}"
        api.wait_until_ready()
        yield Served(api, processes, ports, in_front)


@pytest.fixture(autouse=True)
def _services(request: pytest.FixtureRequest) -> None:
    if "served" in request.fixturenames:
        database: Database = request.getfixturevalue("database")
        database.add_services()


def test_an_event_arrives_at_once_on_a_stream_that_stays_open(served: Served) -> None:
    """Nothing is collected in a buffer until it is full."""
    with served.api.client.stream("GET", "/order-changes/stream", timeout=20) as stream:
        lines = stream.iter_lines()
        for number in range(3):
            began = time.monotonic()
            with Api(served.port) as other:
                other.client.headers.update(served.api.client.headers)
                other.placed_order(at=later(days=number))
            next(line for line in lines if line.startswith("data:"))
            assert time.monotonic() - began < 3, "the order is stored, gets a position, and is streamed"


def test_connections_to_the_apis_are_kept(served: Served) -> None:
    """Fifty requests over one connection of a client need few to the APIs."""
    before = _connections_to(served.ports)
    for _ in range(50):
        assert served.api.client.get("/orders?limit=1").status_code == 200
    assert len(_connections_to(served.ports) - before) <= 6


def _connections_to(ports: tuple[int, ...]) -> set[tuple[int, int]]:
    """Return the client's port and the server's of all connections to ports, also of those just closed."""
    return {
        (connection.laddr.port, connection.raddr.port)
        for connection in psutil.net_connections("tcp")
        if connection.laddr and connection.raddr and connection.raddr.port in ports
    }


def test_no_read_fails_when_an_api_is_killed(served: Served) -> None:
    """A request whose connection breaks goes to the other one."""
    answers: Counter[int] = Counter()
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            with suppress(httpx.TransportError):
                answers[0] += 1  # taken back if it was answered
                with Api(served.port) as api:
                    api.client.headers.update(served.api.client.headers)
                    for _ in range(20):
                        answers[api.client.get("/orders?limit=2").status_code] += 1
                answers[0] -= 1

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for process, port in zip(served.processes, served.ports, strict=True):
        time.sleep(0.5)
        process.kill()
        time.sleep(1.5)
        process.start()
        with Api(port) as api:
            api.wait_until_ready()
        time.sleep(1)
    over.set()
    for thread in threads:
        thread.join(30)
    print(answers)
    assert {status for status, times in answers.items() if times} == {200}


def test_the_largest_import_passes_and_a_larger_one_is_refused_by_the_api(served: Served) -> None:
    """So that a caller learns what to do."""
    largest = 8 * 1024 * 1024
    assert _import(served, largest).status_code == 201
    refused = _import(served, largest + 1)
    assert refused.status_code == 413
    assert "oms import" in refused.json()["detail"]


def _import(served: Served, size: int) -> httpx.Response:
    content = b"[]" + b" " * (size - 2)
    headers = {"Content-Type": "application/json"}
    return served.api.client.post("/imports", content=content, headers=headers, timeout=30)


def test_the_console_takes_its_own_pages_for_its_own(served: Served) -> None:
    """It compares a page's origin with the Host that it gets, including the port."""
    page = f"http://127.0.0.1:{served.port}"
    for origin, is_refused in ((page, False), (f"http://127.0.0.1:{served.ports[0]}", True)):
        answer = httpx.post(f"{page}/console/sign-in", data={"key": KEY}, headers={"Origin": origin})
        # 400 on its own page: browsers would not keep the cookie over plain HTTP, which a form then says.
        assert answer.status_code == (403 if is_refused else 400), answer.text
        assert ("only over HTTPS" in answer.text) != is_refused


class Breaking:
    """An endpoint that takes requests, and breaks each connection without an answer."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            with suppress(OSError):
                try:
                    connection, _ = self._listener.accept()
                except OSError:
                    return  # closed
                with closing(connection):
                    connection.settimeout(5)
                    text = b""
                    while b"\r\n\r\n" not in text and (read := connection.recv(65_536)):
                        text += read
                    if b"/health/ready" in text:
                        connection.sendall(
                            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        )
                    elif text:
                        self.requests.append(text)

    def close(self) -> None:
        """Stop it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@contextmanager
def behind(program: str, folder: Path) -> Iterator[tuple[int, list[Breaking]]]:
    """Run a proxy in front of two endpoints that break; yield its port, and them."""
    with ExitStack() as stack:
        endpoints = [stack.enter_context(closing(Breaking())) for _ in range(2)]
        port = stack.enter_context(proxy(program, [endpoint.port for endpoint in endpoints], folder))
        yield port, endpoints


@pytest.mark.parametrize("program", PROXIES)
def test_a_write_whose_connection_breaks_is_not_sent_again_and_a_read_is(
    program: str, tmp_path: Path
) -> None:
    """A write may have been stored; its sender decides, with Idempotency-Key."""
    with behind(program, tmp_path) as (port, endpoints):
        for method, times in (("POST", 1), ("PATCH", 1), ("GET", 2)):
            answer = httpx.request(
                method,
                f"http://127.0.0.1:{port}/orders/1",
                headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
            )
            assert answer.status_code in {http.client.BAD_GATEWAY, http.client.SERVICE_UNAVAILABLE}
            sent = [text for endpoint in endpoints for text in endpoint.requests]
            assert len(sent) == times, (method, sent)
            lines = sent[0].lower().split(b"\r\n")
            assert f"host: 127.0.0.1:{port}".encode() in lines
            assert b"x-forwarded-proto: http" in lines
            assert b"x-forwarded-for: 127.0.0.1" in lines
            assert b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" in lines
            for endpoint in endpoints:
                endpoint.requests.clear()


@pytest.mark.parametrize("program", PROXIES)
def test_a_refused_connection_is_tried_at_the_other_also_for_a_write(program: str, tmp_path: Path) -> None:
    """It was not sent."""
    with ExitStack() as stack:
        endpoint = stack.enter_context(closing(Breaking()))
        port = stack.enter_context(proxy(program, [free_port(), endpoint.port], tmp_path))
        for _ in range(2):
            httpx.post(f"http://127.0.0.1:{port}/orders", json={})
        wait_until(lambda: len(endpoint.requests) == 2, "each was sent once")
