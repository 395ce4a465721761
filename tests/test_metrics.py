"""GET /metrics: counts and times of requests, and what stands still elsewhere."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from api.operations import figures
from stack.embedded_valkey import free_port
from tests.builders import later
from tests.drivers import Api, wait_until
from tests.processes import NO_REDIS, ServiceProcess
from tests.scrapes import Metrics, documented, kinds_and_labels, read_metrics
from tests.serving import serving
from tests.steps import apply_every_change, assign_all, place
from tests.webhook_steps import deliver, fan_out, subscribe

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from tests.drivers import Database, Pipeline
    from tests.task_queue import Queue
    from tests.webhook_receiver import Receiver

    Run = Callable[[Coroutine[Any, Any, Any]], Any]

REQUESTS, DURATIONS = "http_requests_total", "http_request_duration_seconds"


def read(api: Api) -> Metrics:
    """Read all metrics."""
    answer = api.client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return read_metrics(answer.text)


@pytest.fixture
def own_api(postgres_url: str, database: Database) -> Iterator[Api]:
    """An API without Redis."""
    database.add_services()
    with serving(database=postgres_url, redis=NO_REDIS) as (api, _):
        yield api


def test_requests_are_counted_by_method_route_and_status(api: Api) -> None:
    """The route is the template, so that orders share one; durations have the same labels."""
    before = read(api)
    order = api.placed_order()
    api.placed_order(at=later(days=1))
    api.place_order(at=order["datetime"])
    for _ in range(3):
        api.client.get(f"/orders/{order['id']}")
    api.client.get("/orders/999")
    api.client.get("/orders", params={"wrong": "yes"})
    after = read(api)
    for count, method, route, status in (
        (2, "POST", "/orders", "201"),
        (1, "POST", "/orders", "409"),
        (3, "GET", "/orders/{order_id}", "200"),
        (1, "GET", "/orders/{order_id}", "404"),
        (1, "GET", "/orders", "400"),
        (1, "GET", "/metrics", "200"),
    ):
        labels = {"method": method, "route": route, "status": status}
        for name in (REQUESTS, f"{DURATIONS}_count"):
            assert after.of(name, **labels) - before.of(name, **labels) == count, (name, labels)
        name = f"{DURATIONS}_sum"
        assert 0 < after.of(name, **labels) - before.of(name, **labels) < 10 * count


def test_concurrent_requests_are_all_counted(api: Api) -> None:
    """Whichever process of the server they reach."""
    labels = {"method": "GET", "route": "/orders", "status": "200"}
    before = read(api)
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: api.client.get("/orders").status_code, range(300)))
    assert answers == [200] * 300
    assert read(api).of(REQUESTS, **labels) - before.of(REQUESTS, **labels) == 300


def test_callers_cannot_make_more_series_than_there_are_routes(api: Api) -> None:
    """Unknown paths share one, unknown methods another."""
    for number in range(3):
        api.client.get(f"/unknown-{number}")
        api.client.request(f"BREW{number}", "/orders")
        api.client.request("TRACE", "/orders")
    before = read(api)
    for number in range(40):
        assert api.client.get(f"/elsewhere/{number}/{number}?a={number}").status_code == 404
        assert api.client.request(f"MAKE{number}", "/orders").status_code == 405
        assert api.client.get(f"/orders/{10**6 + number}").status_code == 404
    after = read(api)
    unknown = {"method": "GET", "route": "unknown", "status": "404"}
    assert after.of(REQUESTS, **unknown) - before.of(REQUESTS, **unknown) == 40
    new = {labels for name, labels in after if name == REQUESTS} - {
        labels for name, labels in before if name == REQUESTS
    }
    orders = frozenset({"method": "GET", "route": "/orders/{order_id}", "status": "404"}.items())
    assert new <= {orders, frozenset({"method": "GET", "route": "/metrics", "status": "200"}.items())}


def test_an_event_stream_is_counted_when_it_begins(api: Api) -> None:
    """Its duration is the time to its beginning, and not how long the client stayed."""
    labels = {"method": "GET", "route": "/order-changes/stream", "status": "200"}
    before = read(api)
    with api.client.stream("GET", "/order-changes/stream") as stream:
        assert stream.status_code == 200
        wait_until(
            lambda: read(api).of(REQUESTS, **labels) - before.of(REQUESTS, **labels) == 1, "it is counted"
        )
        time.sleep(0.5)
    wait_until(lambda: api.waiting() == 0, "the stream has ended")
    after = read(api)
    assert after.of(REQUESTS, **labels) - before.of(REQUESTS, **labels) == 1
    assert after.of(f"{DURATIONS}_sum", **labels) - before.of(f"{DURATIONS}_sum", **labels) < 0.5


def test_changes_without_a_position_and_the_lag_of_each_consumer_are_shown(
    run: Run, api: Api, database: Database
) -> None:
    """While no relay runs, then while no worker does."""
    for days in (1, 2, 3):
        run(place(later(days=days)))
    database.rows("UPDATE order_change SET recorded_at = now() - interval '100 s' WHERE order_version = 1")
    stopped_relay = read(api)
    assert stopped_relay.of("order_changes_unassigned") == 3
    assert 100 <= stopped_relay.of("order_changes_unassigned_age_seconds") < 130
    run(assign_all())
    stopped_worker = read(api)
    assert stopped_worker.of("order_changes_unassigned") == 0
    assert stopped_worker.of("order_changes_unassigned_age_seconds") == 0
    assert stopped_worker.of("change_log_position") == 3
    for consumer in ("fee_summaries", "webhook_deliveries"):
        assert stopped_worker.of("consumer_behind_changes", consumer=consumer) == 3
        assert 100 <= stopped_worker.of("consumer_behind_seconds", consumer=consumer) < 130
    run(apply_every_change())
    metrics = read(api)
    for consumer in ("fee_summaries", "webhook_deliveries"):
        assert metrics.of("consumer_position", consumer=consumer) == 3
        assert metrics.of("consumer_behind_changes", consumer=consumer) == 0
        assert metrics.of("consumer_behind_seconds", consumer=consumer) == 0


def test_metrics_show_when_a_relay_last_worked(pipeline: Pipeline) -> None:
    """It moves on while one works, and stays when it is stopped."""

    def led_at() -> float:
        return read(pipeline.api).of("relay_last_led_timestamp_seconds")

    wait_until(lambda: abs(time.time() - led_at()) < 5, "a relay works")
    seen = led_at()
    wait_until(lambda: led_at() > seen, "it works on")
    pipeline.relay.stop()
    try:
        stopped = led_at()
        time.sleep(3)
        assert led_at() == stopped
        pipeline.api.placed_order()
        assert read(pipeline.api).of("order_changes_unassigned") == 1
    finally:
        pipeline.relay.start()
    wait_until(lambda: led_at() > stopped, "it works again")


def test_webhooks_backlog_and_failures_are_shown(
    run: Run, api: Api, database: Database, receiver: Receiver
) -> None:
    """One endpoint works, one fails, one is disabled."""
    subscribe(api, receiver.url)
    failing = subscribe(api, f"http://127.0.0.1:{free_port()}/")
    disabled = subscribe(api, receiver.url)
    api.client.patch(f"/webhooks/{disabled['id']}", json={"enabled": False})
    run(place(later(days=1)))
    run(assign_all())
    run(fan_out())
    database.rows(
        "UPDATE webhook_delivery SET next_attempt_at = now() - interval '60 s' WHERE state = 'pending'"
    )
    waiting = read(api)
    assert waiting.of("webhook_deliveries_waiting") == 2
    assert 60 <= waiting.of("webhook_deliveries_due_age_seconds") < 90
    run(deliver())
    metrics = read(api)
    assert metrics.of("webhooks", state="working") == 1
    assert metrics.of("webhooks", state="failing") == 1
    assert metrics.of("webhooks", state="disabled") == 1
    assert metrics.of("webhook_attempts_recent", outcome="delivered") == 1
    assert metrics.of("webhook_attempts_recent", outcome="failed") == 1
    assert metrics.of("webhook_deliveries_waiting") == 1
    assert metrics.of("webhook_deliveries_due_age_seconds") == 0, "the next attempt is not due yet"
    api.client.delete(f"/webhooks/{failing['id']}")
    assert read(api).of("webhook_deliveries_waiting") == 0


def test_the_queues_lengths_are_shown(api: Api, queue: Queue) -> None:
    """Nothing takes what waits in them here."""
    queue.client.rpush("order-change-batches", "one", "two")
    metrics = read(api)
    assert metrics.of("redis_up") == 1
    assert metrics.of("queue_messages", queue="order-change-batches") == 2
    assert ("queue_messages", frozenset({("queue", "webhook-attempts")})) in metrics


def test_without_redis_the_other_metrics_are_shown(own_api: Api) -> None:
    """An absent length is not 0."""
    own_api.placed_order()
    metrics = read(own_api)
    assert (metrics.of("redis_up"), metrics.of("database_up")) == (0, 1)
    assert ("redis_up", frozenset[tuple[str, str]]()) in metrics
    assert "queue_messages" not in metrics.names()
    assert metrics.of("order_changes_unassigned") == 1


def test_without_a_schema_the_other_metrics_are_shown(new_database_url: str) -> None:
    """Before the first migration."""
    port = free_port()
    with ServiceProcess("api.server", database=new_database_url, redis=NO_REDIS, port=port), Api(port) as api:
        wait_until(lambda: _lives(api), "the API answers")
        api.client.get("/orders")
        metrics = read(api)
    assert ("database_up", frozenset[tuple[str, str]]()) in metrics
    assert metrics.of("database_up") == 0
    assert metrics.of(REQUESTS, method="GET", route="/orders", status="503") == 1
    assert "order_changes_unassigned" not in metrics.names()


def _lives(api: Api) -> bool:
    import httpx

    try:
        return api.client.get("/health/live").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("analyzed", [False, True])
def test_no_metric_reads_a_large_table(database: Database, *, analyzed: bool) -> None:
    """Only a bounded number of rows through an index, whatever the statistics say."""
    database.rows("INSERT INTO calendar (id, name) VALUES (1, 'default')")
    database.rows(
        """
        INSERT INTO order_change (position, type, order_id, order_version, calendar_id, order_state)
        SELECT n, 'order.created', n, 1, 1, '{}' FROM generate_series(1, 20000) AS n
        """
    )
    database.rows("UPDATE change_log SET last_position = 20000")
    database.rows(
        """
        INSERT INTO webhook (url, types, calendars, description, starts_after)
        VALUES ('https://example.org/', '{}', '{}', '', 0)
        """
    )
    database.rows(
        """
        INSERT INTO webhook_delivery
            (webhook_id, position, event_id, type, state, next_attempt_at, acknowledged_at)
        SELECT (SELECT max(id) FROM webhook), n, uuidv7(), 'order.created',
            CASE WHEN n < 20 THEN 'pending' ELSE 'delivered' END,
            CASE WHEN n < 20 THEN now() END, CASE WHEN n >= 20 THEN now() END
        FROM generate_series(1, 20000) AS n
        """
    )
    database.rows(
        """
        INSERT INTO webhook_attempt (delivery_id, started_at, latency_ms, answer)
        SELECT id, now(), 1, '' FROM webhook_delivery
        """
    )
    if analyzed:
        database.rows("ANALYZE")
    database.rows("BEGIN")
    database.rows(figures._SETTINGS)
    for name in ("_LOG_AND_PROOF", "_CONSUMERS", "_WEBHOOKS"):
        plan = "\n".join(
            row["QUERY PLAN"] for row in database.rows(f"EXPLAIN (ANALYZE, BUFFERS) {getattr(figures, name)}")
        )
        assert not re.search(r"Seq Scan on (order_change|webhook_delivery|webhook_attempt)", plan), plan
        assert not re.search(r"rows=[12]\d{4}\.\d+ loops", plan), plan
    database.rows("ROLLBACK")


def test_every_metric_is_documented_with_its_type_and_labels(run: Run, api: Api, queue: Queue) -> None:
    """And every documented one is shown, once there has been a proof and a relay."""
    from worker.fee_summaries.proof import prove

    assert queue.client.ping()
    run(prove())
    run(_lead())
    shown = kinds_and_labels(api.client.get("/metrics").text)
    assert shown == documented("the server that answers", "the database", "the queue")


async def _lead() -> None:
    from shared.database.statements import execute

    await execute("UPDATE change_log SET led_at = now()")
