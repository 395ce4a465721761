"""GET /health/live and /health/ready: the process lives, and orders can be stored."""

from __future__ import annotations

from contextlib import contextmanager
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
