"""``rediss:`` URLs: every part that connects to Redis speaks TLS, and verifies the certificate."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest

from stack.embedded_valkey import free_port
from tests.drivers import Api, wait_until
from tests.processes import ServiceProcess
from tests.serving import serving
from tests.small_system import assert_an_order_is_summed
from tests.webhook_receiver import CERTIFICATE, CERTIFICATE_WITH_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.drivers import Database

PASSWORD = "the-password-of-redis"
TLS_HANDSHAKE = b"\x16\x03"


@contextmanager
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """Accept connections, record the first bytes of each, and close it; yields the port and the bytes."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.settimeout(1)
                        with suppress(OSError):
                            received.append(connection.recv(4_096))

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], received
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("module", ["api.server", "api.relay.main", "worker.main"])
def test_no_process_speaks_to_a_rediss_server_in_clear(
    module: str, database: Database, postgres_url: str
) -> None:
    """The first bytes are a TLS handshake; the password is never among them."""
    database.add_services()
    with listener() as (port, received):
        url = f"rediss://:{PASSWORD}@127.0.0.1:{port}/0"
        api_port = free_port() if module == "api.server" else 0
        with ServiceProcess(module, database=postgres_url, redis=url, port=api_port):
            if api_port:
                with Api(api_port) as api:
                    api.wait_until_ready()
                    api.placed_order()
            wait_until(lambda: len(received) > 0, f"{module} connects to Redis", 15)
    assert {data[:2] for data in received if data} == {TLS_HANDSHAKE}
    assert not any(PASSWORD.encode() in data for data in received)


@pytest.fixture
def tls_proxy(redis_url: str) -> Iterator[tuple[str, str]]:
    """A TLS server in front of the tests' Redis; yields its ``rediss:`` URL and its certificate's file."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE_WITH_KEY)
    upstream = urlsplit(redis_url)
    port = free_port()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_redis = await asyncio.open_connection(upstream.hostname, upstream.port)
        await asyncio.gather(copy(reader, to_redis[1]), copy(to_redis[0], writer))

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", port, ssl=context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    user = f"{upstream.username or ''}:{upstream.password}@" if upstream.password else ""
    yield f"rediss://{user}127.0.0.1:{port}{upstream.path}", str(CERTIFICATE)
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)


def test_changes_reach_the_summaries_over_tls(
    tls_proxy: tuple[str, str], database: Database, postgres_url: str
) -> None:
    """With the certificate's authority in OMS_REDIS_CA_FILE; without it the queue is unavailable."""
    database.add_services()
    url, ca_file = tls_proxy
    assert_an_order_is_summed(postgres_url, url, OMS_REDIS_CA_FILE=ca_file)
    with serving(database=postgres_url, redis=url) as (api, _):
        assert httpx.get(f"{api.url}/health/ready").json()["checks"]["queue"] == "unavailable"
