"""What happens to an observed system, so that each of its metrics moves."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import psutil

from tests.builders import later
from tests.drivers import WAITING_FOR_LOCKS
from tests.webhook_receiver import Answer, Receiver
from tests.webhook_steps import subscribe

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from tests.metric_watch import MetricWatch
    from tests.observed_system import ObservedSystem

TASKS = "worker_task_duration_seconds_count"


@contextmanager
def _a_function_missing(system: ObservedSystem, name: str) -> Iterator[None]:
    system.database.run_script(f"ALTER FUNCTION {name} RENAME TO {name}_away")
    try:
        yield
    finally:
        system.database.run_script(f"ALTER FUNCTION {name}_away RENAME TO {name}")


@contextmanager
def _database_away(system: ObservedSystem) -> Iterator[None]:
    """PostgreSQL ends the sessions of the service, and refuses new ones."""
    name = system.database.value("SELECT current_database()")
    _administer(system, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        system.database.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'oms'"
        )
        yield
    finally:
        _administer(system, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def _administer(system: ObservedSystem, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(system.database_url, database="postgres")
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


def _make_a_proof_due(system: ObservedSystem) -> None:
    """And a summary wrong, which it finds."""
    system.database.rows("UPDATE fee_summary SET orders = orders + 1")
    system.database.rows(
        "UPDATE fee_summary_proof SET asked_at = now() - interval '3 days', position = 0, orders = 0, "
        "finished_at = now() - interval '2 days', differing = 0, seconds = 0"
    )


def use_webhooks(system: ObservedSystem, watch: MetricWatch) -> None:
    """Have one that works, one that fails and one that is gone."""
    with Receiver() as works, Receiver() as fails, Receiver() as is_gone:
        fails.answer = lambda _: Answer(500)
        is_gone.answer = lambda _: Answer(410)
        for receiver in (works, fails, is_gone):
            subscribe(system.api, receiver.url)
        for n in range(3):
            system.api.placed_order(at=later(days=n))
        watch.until(lambda: len(works.received) == 3 and is_gone.received, "webhooks are sent to")
    watch.until(lambda: watch.of_worker("webhooks_disabled_total") == 1, "one is disabled")
    system.wait_until_summed()


def do_without_relay(system: ObservedSystem, watch: MetricWatch) -> None:
    """Have changes without a position, and then a proof that finds a wrong summary."""
    system.relay.stop()
    system.api.placed_order(at=later(days=10))
    _make_a_proof_due(system)
    for _ in range(3):
        watch.look()
        time.sleep(0.3)
    system.relay.start()
    differ = "SELECT differing > 0 FROM fee_summary_proof"
    watch.until(lambda: system.database.value(differ), "a proof runs")


def do_without_worker(system: ObservedSystem, watch: MetricWatch, queue: redis.Redis) -> bytes:
    """Have changes that nobody applies, until the queue is full; return a message of the queue."""
    failures = "relay_publish_failures_total"
    system.worker.stop()
    watch.look()
    before = watch.of_relay(failures, reason="full")  # a slow machine's queue was full earlier, too
    for n in range(20, 26):
        system.api.placed_order(at=later(days=n))
    watch.until(lambda: watch.of_relay(failures, reason="full") > before, "it is full", 30)
    message: Any = queue.lindex("order-change-batches", 0)
    queue.lpush("order-change-batches", "nonsense")
    system.worker.start()
    watch.until(lambda: watch.of_worker("worker_messages_dropped_total") == 1, "nonsense is dropped", 30)
    return bytes(message)


def lose_tasks(system: ObservedSystem, watch: MetricWatch) -> None:
    """Have one fail, and another one end with its process."""
    with _a_function_missing(system, "fee_effects"):
        system.api.placed_order(at=later(days=30))
        watch.until(lambda: watch.of_worker(TASKS, outcome="failed") > 0, "it fails")
    system.wait_until_summed()
    system.database.rows("BEGIN")
    system.database.rows("SELECT FROM consumer_cursor WHERE consumer = 'fee_summaries' FOR UPDATE")
    system.api.placed_order(at=later(days=31))
    blocked = f"SELECT count(*) > 0 {WAITING_FOR_LOCKS}"
    watch.until(lambda: system.database.value(blocked), "it waits")
    for child in psutil.Process(system.worker.pid).children(recursive=True):
        child.kill()
    system.database.rows("ROLLBACK")
    watch.until(lambda: watch.of_worker("worker_tasks_lost_total") > 0, "it is lost")


def do_without_redis(system: ObservedSystem, watch: MetricWatch) -> None:
    """Have relay and worker look for it."""
    system.valkey.stop(grace=1)
    system.api.placed_order(at=later(days=40))
    watch.until(lambda: watch.of_worker("worker_queue_failures_total") > 0, "the worker can't read")
    failures = "relay_publish_failures_total"
    watch.until(lambda: watch.of_relay(failures, reason="unavailable") > 0, "the relay can't publish")
    system.valkey.start()
    watch.until(lambda: watch.api.of("redis_up") == 1, "Redis is back")
    system.wait_until_summed()


def do_without_database(
    system: ObservedSystem, watch: MetricWatch, queue: redis.Redis, message: bytes
) -> None:
    """Have every process look for it."""
    with _database_away(system):
        watch.until(lambda: system.api.client.get("/orders").status_code == 503, "orders can't be read")
        watch.until(lambda: watch.of_relay("relay_database_failures_total") > 0, "the relay starts over")
        queue.lpush("order-change-batches", message)
        watch.until(lambda: watch.of_worker(TASKS, outcome="unavailable") > 0, "a task can't apply it")
    watch.until(lambda: watch.api.of("database_up") == 1, "PostgreSQL is back")
    watch.until(lambda: watch.of_relay("relay_leading") == 1, "the relay works again")
