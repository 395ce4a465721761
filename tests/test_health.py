"""GET /health/live and /health/ready: the process lives, and orders can be stored."""

from __future__ import annotations

import socketserver
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from stack.embedded_postgres import EmbeddedPostgres
from stack.embedded_valkey import free_port
from tests.drivers import Api, wait_until
from tests.processes import NO_REDIS, ServiceProcess, call_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def serving(database: str, redis: str) -> Iterator[Api]:
    """Start an API of our own."""
    port = free_port()
    with ServiceProcess("api.server", database=database, redis=redis, port=port), Api(port) as api:
        wait_until(lambda: port_answers(api), "the API answers")
        yield api


def port_answers(api: Api) -> bool:
    """Whether the port accepts connections yet."""
    import httpx

    try:
        return api.client.get("/health/live").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"


class InPlaceOfRedis(socketserver.ThreadingTCPServer):
    """A server that answers the first command of a connection, and all others, as it is told to."""

    allow_reuse_address = daemon_threads = True
    to_hello = to_others = b""

    class Connection(socketserver.StreamRequestHandler):
        """Answers as many times as commands come."""

        server: InPlaceOfRedis

        def handle(self) -> None:
            """A command begins with its number of words."""
            with suppress(OSError):
                for line in self.rfile:
                    if line.startswith(b"*"):
                        self.rfile.readline()  # the length of the first word
                        is_hello = self.rfile.readline() == b"HELLO\r\n"
                        answers = (self.server.to_hello, self.server.to_others or self.server.to_hello)
                        self.wfile.write(answers[not is_hello])

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.Connection)


@pytest.fixture(scope="module")
def in_place_of_redis() -> Iterator[InPlaceOfRedis]:
    """Started, in a thread."""
    with InPlaceOfRedis() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def own_api(in_place_of_redis: InPlaceOfRedis, postgres_url: str) -> Iterator[Api]:
    """An API that takes it for Redis."""
    with serving(postgres_url, f"redis://:secret@127.0.0.1:{in_place_of_redis.server_address[1]}/0") as api:
        yield api


def test_liveness_needs_nothing_but_the_process(api: Api) -> None:
    """It checks neither database nor queue."""
    answer = api.client.get("/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "live"})


def test_an_api_whose_database_is_up_to_date_is_ready(api: Api) -> None:
    """The answer lists what was checked."""
    answer = api.client.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ready"
    assert answer.json()["checks"]["database"] == "ok"


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health_checks_answer_head_requests(api: Api, path: str) -> None:
    """Some probes use HEAD."""
    answer = api.client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


def test_without_redis_the_api_is_ready_and_reports_redis_as_unavailable(api: Api, postgres_url: str) -> None:
    """Orders are still accepted."""
    with_redis = api.client.get("/health/ready").json()
    with serving(postgres_url, NO_REDIS) as own:
        answer = own.client.get("/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (200, "ready")
        differing = set(answer.json()["checks"].items()) - set(with_redis["checks"].items())
        assert len(differing) == 1
        own.placed_order()


@pytest.mark.parametrize(
    ("to_hello", "to_others"),
    [
        (b":1\r\n", b""),
        (b"$2\r\nOK\r\n", b""),
        (b"*0\r\n", b""),
        (b":x\r\n", b""),
        (b"-MOVED 1 x\r\n", b""),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", b""),
        (b"\0" * 9, b""),
        (HELLO, b"-LOADING\r\n"),
        (HELLO, b"+OK\r\n"),
        (HELLO, b"_\r\n"),
        (HELLO, b"*0\r\n"),
        (HELLO, b":x\r\n"),
    ],
)
def test_whatever_answers_in_place_of_redis_the_api_is_ready(
    to_hello: bytes, to_others: bytes, in_place_of_redis: InPlaceOfRedis, own_api: Api
) -> None:
    """Also when it answers what no Redis would: health and metrics say that the queue is unavailable."""
    in_place_of_redis.to_hello, in_place_of_redis.to_others = to_hello, to_others
    answer = own_api.client.get("/health/ready")
    assert (answer.status_code, answer.json()["checks"]["queue"]) == (200, "unavailable")
    metrics = own_api.client.get("/metrics")
    assert metrics.status_code == 200
    assert "\nredis_up 0.0\n" in metrics.text


def test_the_api_is_not_ready_until_the_databases_migrations_are_applied(
    new_database_url: str, redis_url: str
) -> None:
    """No restart is needed."""
    with serving(new_database_url, redis_url) as own:
        answer = own.client.get("/health/ready")
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["checks"]["database"] == "ok"
        call_command("shared.database.migrate", database=new_database_url).check_returncode()
        assert own.client.get("/health/ready").status_code == 200


def test_the_api_is_not_ready_while_the_database_is_unreachable(tmp_path: Path, redis_url: str) -> None:
    """It is live all the time; other requests are answered 503 with Retry-After, and nothing is stored."""
    with EmbeddedPostgres(tmp_path / "postgres", durable=False) as postgres:
        call_command("shared.database.migrate", database=postgres.url).check_returncode()
        with serving(postgres.url, redis_url) as own:
            own.client.post("/services", json={"id": 123, "name": "Inspection"})
            own.placed_order(id=5)
            postgres.stop()
            answer = own.client.get("/health/ready")
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")
            assert own.client.get("/health/live").status_code == 200
            for refused in (own.place_order(id=6), own.client.get("/orders/5"), own.client.get("/services")):
                assert refused.status_code == 503
                assert refused.json()["type"] == "/problems/unavailable"
                assert int(refused.headers["retry-after"]) >= 1
            postgres.start()
            wait_until(lambda: own.client.get("/health/ready").status_code == 200, "ready again")
            assert [order["id"] for order in own.every_order()] == ["5"]
