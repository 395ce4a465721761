"""Connections that say nothing, or not enough, are closed in time and never keep others out."""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import time
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from api.http.open_connections import ConnectionCloser, track_requests
from stack.embedded_valkey import free_port
from tests.builders import order_body
from tests.drivers import Api, wait_until
from tests.processes import ServiceProcess
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.drivers import Database

PLACES = 200

SHORT = {
    "OMS_CONNECTIONS": str(PLACES),
    "OMS_HEADER_TIMEOUT": "1",
    "OMS_IDLE_TIMEOUT": "4",
    "OMS_BODY_TIMEOUT": "3",
    "OMS_STREAM_SILENCE": "1",
}

GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server(postgres_url: str, redis_url: str) -> Iterator[Api]:
    """An API with few places and short times."""
    with serving(database=postgres_url, redis=redis_url, **SHORT) as (api, _):
        yield api


def connect(api: Api, sent: bytes = b"") -> socket.socket:
    """Open a connection and send something on it."""
    connection = socket.create_connection((api.client.base_url.host, api.client.base_url.port or 0))
    connection.settimeout(20)
    connection.sendall(sent)
    return connection


def seconds_until_closed(connection: socket.socket) -> tuple[float, bytes]:
    """Wait until the server closes; return how long that took, and what it answered."""
    began = time.monotonic()
    answer = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            answer += part
    return time.monotonic() - began, answer


def readable(connections: list[socket.socket]) -> list[socket.socket]:
    """Return those that were answered or closed."""
    return select.select(connections, [], [], 0)[0]


def drip(connection: socket.socket, text: bytes, pause: float) -> tuple[float, bytes]:
    """Send a byte at a time until the server closes; return how long that took, and what it answered."""
    began = time.monotonic()
    answer = b""
    connection.settimeout(pause)
    with suppress(ConnectionResetError, BrokenPipeError):
        for byte in text:
            connection.sendall(bytes([byte]))
            try:
                part = connection.recv(65_536)
            except TimeoutError:
                continue
            answer += part
            if not part:
                break
    return time.monotonic() - began, answer


@pytest.mark.parametrize(
    "sent",
    [b"", b"\r\n", b"G", b"GET /orders HTTP/1.1\r\nHost: localhost\r\n", b"PRI * HTTP/2.0\r\n"],
    ids=["nothing", "an empty line", "a letter", "half a header", "half an HTTP/2 preface"],
)
def test_a_connection_without_a_whole_header_is_closed(sent: bytes, server: Api) -> None:
    """Whatever has come until then."""
    with closing(connect(server, sent)) as connection:
        seconds, _ = seconds_until_closed(connection)
    assert seconds < 3.5


def test_a_header_that_drips_is_closed(server: Api) -> None:
    """Each byte does not begin the time anew."""
    with closing(connect(server)) as connection:
        seconds, answer = drip(connection, GET * 3, 0.2)
    assert seconds < 4
    assert answer == b""


def test_an_idle_connection_is_kept_longer_than_a_silent_one(server: Api) -> None:
    """Clients and proxies reuse connections; a pause between requests is not an attack."""
    with closing(connect(server, GET)) as connection:
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        time.sleep(3)
        connection.sendall(GET)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        seconds, _ = seconds_until_closed(connection)
    assert 3 < seconds < 6


def test_a_connection_whose_first_answer_took_long_is_kept(
    run: Callable[..., Any], setting: Callable[..., None]
) -> None:
    """Also in the moment when the request has ended and the client has not acknowledged the answer yet."""
    setting(header_timeout=0.2)
    ended = asyncio.Event()

    async def application(*_: object) -> None:
        await ended.wait()

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()  # from Python 3.12.1 on, the end of the block below waits for that

    async def close_after_the_answer() -> int:
        async with await asyncio.start_server(keep, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            scope: Any = {"type": "http", "client": writer.get_extra_info("sockname")}
            request = asyncio.ensure_future(track_requests(application)(scope, unused, unused))
            closer = ConnectionCloser(port, 100)
            await closer.close_once()
            await asyncio.sleep(0.3)
            ended.set()
            await request
            closed = await closer.close_once()
            writer.close()
            return closed

    assert run(close_after_the_answer()) == 0


async def unused(*_: object) -> Any:
    """What the application does not call."""


def test_http_2_is_not_spoken(server: Api) -> None:
    """Its connections could not be limited; a client that begins with it is refused at once."""
    with closing(connect(server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")) as connection:
        seconds, _ = seconds_until_closed(connection)
    assert seconds < 1


@pytest.mark.parametrize(
    "length", [b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"]
)
def test_a_body_that_stalls_is_answered_408(length: bytes, server: Api) -> None:
    """After a third of the time for a body, and the connection is closed."""
    with closing(connect(server, POST + length)) as connection:
        seconds, answer = seconds_until_closed(connection)
    assert 0.9 < seconds < 2.5
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in head.lower()
    problem = json.loads(body)
    assert problem["type"] == "/problems/request-timeout"
    assert "may take 3 s" in problem["detail"]


def test_a_body_that_stalls_ends_in_its_own_time_beside_one_that_may_take_longer(server: Api) -> None:
    """Each has its own end, whatever ends first, last or was begun before."""
    with closing(connect(server, POST + b"Content-Length: 10000\r\n\r\n" + b" " * 5000)) as longer:
        time.sleep(1.05)  # a third of the time for a body; by its many bytes, this one has the whole
        with closing(connect(server, POST + b"Content-Length: 100\r\n\r\n{")) as stalled:
            seconds, answer = seconds_until_closed(stalled)
        assert answer.startswith(b"HTTP/1.1 408")
        assert 0.9 < seconds < 1.7
        seconds, answer = seconds_until_closed(longer)
        assert answer.startswith(b"HTTP/1.1 408")
        assert seconds > 0.3


def test_a_connection_is_used_again_after_a_body_in_parts(server: Api) -> None:
    """The service does not wait for the end of a body whose announced bytes it has."""
    body = b'{"totalfee": 1}'
    head = POST + b"Content-Length: %d\r\n\r\n" % len(body)
    with closing(connect(server)) as connection:
        for _ in range(3):
            for part in (head, body[:3], body[3:]):
                connection.sendall(part)
                time.sleep(0.05)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 422")
        connection.sendall(2 * (head + body))  # two at once
        answers = b""
        while answers.count(b"HTTP/1.1 422") < 2:
            answers += connection.recv(65_536)


def test_a_body_that_drips_is_answered_408(server: Api) -> None:
    """It has to come at a least rate, not only at all."""
    with closing(connect(server, POST + b"Content-Length: 1000\r\n\r\n")) as connection:
        seconds, answer = drip(connection, b" " * 1000, 0.05)
    assert seconds < 3
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_body_that_comes_steadily_has_the_whole_time_and_no_more(server: Api) -> None:
    """A slow line is served; one that would take for ever is not."""
    body = json.dumps(order_body() | {"services": []}).encode()
    head = POST + b"Content-Length: %d\r\n\r\n"
    with closing(connect(server, head % (len(body) + 4_000))) as connection:
        for _ in range(8):
            connection.sendall(b" " * 500)
            time.sleep(0.25)
        connection.sendall(body)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 422")
    with closing(connect(server, head % 65_000)) as connection:
        began = time.monotonic()
        with suppress(ConnectionResetError, BrokenPipeError):
            while time.monotonic() - began < 10:
                connection.sendall(b" " * 500)
                time.sleep(0.2)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /orders HTTP/1.1\r\n",
        GET,
        POST + b"Content-Length: 100\r\n\r\n{",
        POST + b"Content-Length: 65000\r\n\r\n" + b" " * 60_000,
    ],
    ids=["silent", "half a header", "idle", "unfinished body", "large unfinished body"],
)
def test_more_connections_than_places_deny_nothing(sent: bytes, server: Api) -> None:
    """Health, reads and writes are answered while an attacker holds all places that he can get."""
    with ExitStack() as stack:
        for _ in range(3 * PLACES):
            with suppress(OSError):
                connection = stack.enter_context(closing(connect(server)))
                connection.setblocking(False)
                with suppress(OSError):
                    connection.send(sent)
        for path in ("/health/live", "/services", "/health/ready") * 3:
            began = time.monotonic()
            with Api(server.client.base_url.port or 0) as other:
                assert other.client.get(path).status_code == 200
            assert time.monotonic() - began < 5, path
        with Api(server.client.base_url.port or 0) as other:
            refused = other.client.post("/orders", json=order_body() | {"services": []})
        assert refused.status_code == 422


def test_a_request_in_progress_is_never_closed_to_make_room(server: Api, database: Database) -> None:
    """A stream and a waiting request go on while silent connections come and go."""
    del database
    with (
        server.client.stream("GET", "/order-changes/stream") as stream,
        closing(connect(server, GET.replace(b"/health/live", b"/order-changes?after=0&wait=5"))) as waiting,
        ExitStack() as stack,
    ):
        assert stream.status_code == 200
        for _ in range(2 * PLACES):
            with suppress(OSError):
                stack.enter_context(closing(connect(server)))
        seconds, answer = seconds_until_closed(waiting)
        assert answer.startswith(b"HTTP/1.1 200")
        assert seconds > 4
        lines = stream.iter_lines()
        comments = [next(line for line in lines if line.startswith(":")) for _ in range(6)]
    assert len(comments) == 6


@pytest.mark.parametrize("host", ["::1", "::ffff:127.0.0.1"])
def test_connections_by_ipv6_are_told_apart_too(host: str, postgres_url: str, redis_url: str) -> None:
    """A request that waits is found by the address that the server names."""
    port = free_port()
    process = ServiceProcess(
        "api.server",
        database=postgres_url,
        redis=redis_url,
        port=port,
        OMS_HOST=host,
        OMS_ACCESS="open",
        **SHORT,
    )
    with process:
        wait_until(lambda: answers((host, port)), "the server listens")
        with (
            socket.create_connection((host, port)) as waiting,
            socket.create_connection((host, port)) as silent,
        ):
            waiting.settimeout(20)
            silent.settimeout(20)
            waiting.sendall(GET.replace(b"/health/live", b"/order-changes?after=0&wait=4"))
            assert seconds_until_closed(silent)[0] < 3.5
            assert waiting.recv(65_536).startswith(b"HTTP/1.1 200")


def answers(address: tuple[str, int]) -> bool:
    """Whether a server accepts connections."""
    with suppress(OSError), socket.create_connection(address):
        return True
    return False


def test_the_bytes_of_bodies_in_flight_are_limited(
    postgres_url: str, redis_url: str, database: Database
) -> None:
    """The oldest of 80 MB of unfinished bodies are answered 503 at once; a new one is read."""
    database.add_services()
    head = POST.replace(b"/orders", b"/orders/batch") + b"Content-Length: 1000000\r\n\r\n"
    with serving(database=postgres_url, redis=redis_url) as (api, _), ExitStack() as stack:
        connections = []
        for _ in range(80):
            connections.append(stack.enter_context(closing(connect(api, head))))
            with suppress(ConnectionResetError, BrokenPipeError):
                connections[-1].sendall(b" " * 999_000)
        assert api.place_order().status_code == 201
        wait_until(lambda: len(readable(connections)) > 10, "the oldest are answered", seconds=8)
        ended = readable(connections)
        assert 10 < len(ended) < 40
        assert connections[0] in ended
        assert connections[-1] not in ended
        answer = connections[0].recv(65_536)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in answer.lower()


def test_looking_for_connections_leaves_no_file_descriptor_open() -> None:
    """An open copy of a pipe would keep its reader from ever seeing the end."""
    reader, writer = os.pipe()
    before = psutil.Process().num_fds()
    assert asyncio.run(ConnectionCloser(free_port(), 100).close_once()) == 0
    assert psutil.Process().num_fds() == before
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
