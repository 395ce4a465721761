"""What the worker counts, in all of its processes, for Prometheus (``docs/metrics.md``)."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from celery.signals import task_failure

from shared import task_queue
from shared.change_log import FEE_SUMMARIES, WEBHOOK_DELIVERIES
from shared.database.engine import DatabaseUnavailableError
from shared.metrics.declared import Count, Durations

if TYPE_CHECKING:
    from collections.abc import Iterator

TASKS = Durations(
    "worker_task_duration_seconds",
    "Time of a task that was done, failed, timed_out or was ended as the database was unavailable.",
    ("task", "outcome"),
    tuple((task, "done") for task in task_queue.TASKS),
)

LOST_TASKS = Count(
    "worker_tasks_lost_total",
    "Tasks whose process ended meanwhile, or was ended as they exceeded their time limit.",
    ("task",),
    tuple((task,) for task in task_queue.TASKS),
)

APPLIED = Count(
    "worker_changes_applied_total",
    "Changes that a consumer has applied.",
    ("consumer",),
    ((FEE_SUMMARIES,), (WEBHOOK_DELIVERIES,)),
)

ATTEMPTS = Durations(
    "webhook_attempt_duration_seconds",
    "Time of an attempt at a delivery: delivered, failed (another answer than 2xx) or unanswered.",
    ("outcome",),
    (("delivered",), ("failed",), ("unanswered",)),
)

DELIVERIES = Count(
    "webhook_deliveries_total",
    "Deliveries by their state after an attempt: delivered, retrying, exhausted or disabled.",
    ("state",),
    (("delivered",), ("retrying",), ("exhausted",), ("disabled",)),
)

DISABLED_WEBHOOKS = Count(
    "webhooks_disabled_total",
    "Webhooks that the service disabled: gone (answered 410), or failing for days.",
    ("reason",),
    (("gone",), ("failing",)),
)

QUEUE_FAILURES = Count(
    "worker_queue_failures_total", "Failed tries to connect to Redis or to read the queue."
)

DROPPED_MESSAGES = Count("worker_messages_dropped_total", "Messages in the queue that are none of ours.")


@contextmanager
def measured_task(task: str) -> Iterator[None]:
    """Measure the block, which is a task."""
    began = time.perf_counter()
    outcome = "failed"
    try:
        yield
        outcome = "done"
    except DatabaseUnavailableError:
        outcome = "unavailable"
        raise
    except SoftTimeLimitExceeded:
        outcome = "timed_out"
        raise
    finally:
        TASKS.observe(time.perf_counter() - began, task, outcome)


@task_failure.connect
def _count_lost_task(sender: Any = None, exception: BaseException | None = None, **_: object) -> None:
    # The process of these can't count them any more: Celery reports them in the parent.
    if isinstance(exception, (WorkerLostError, TimeLimitExceeded)):
        LOST_TASKS.add(sender.name)
