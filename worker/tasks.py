"""The Celery tasks, which call the consumers: one event loop and one connection per child process."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from celery.signals import worker_process_init, worker_process_shutdown

from shared.change_log import FEE_SUMMARIES, WEBHOOK_DELIVERIES
from shared.database.engine import DatabaseUnavailableError
from shared.logs import configure_logs
from shared.settings import settings
from shared.task_queue import (
    APPLY_TO_FEE_SUMMARIES,
    APPLY_TO_WEBHOOK_DELIVERIES,
    ATTEMPT_DUE_DELIVERIES,
    PROVE_FEE_SUMMARIES,
    app,
)
from shared.tracing.spans import begin_tracing, end_tracing
from worker.batches import apply_up_to
from worker.child_loop import ChildLoop
from worker.fee_summaries import consumer as fee_summaries
from worker.fee_summaries.proof import prove_if_requested
from worker.metrics import APPLIED, measured_task
from worker.webhooks import fan_out
from worker.webhooks.attempts import attempt_due
from worker.webhooks.client import WebhookClient

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

log = structlog.get_logger("worker")

_loop = ChildLoop()


@worker_process_init.connect
def _begin_child(**_: object) -> None:
    configure_logs()
    begin_tracing("worker")


@worker_process_shutdown.connect
def _end_child(**_: object) -> None:
    _loop.close()
    end_tracing()


@app.task(name=APPLY_TO_FEE_SUMMARIES)
def apply_changes_to_fee_summaries(last: int) -> None:
    """Apply changes to the fee summaries, up to a position."""
    _apply(APPLY_TO_FEE_SUMMARIES, FEE_SUMMARIES, fee_summaries.apply_changes, last)


@app.task(name=APPLY_TO_WEBHOOK_DELIVERIES)
def apply_changes_to_webhook_deliveries(last: int) -> None:
    """Create the webhook deliveries of changes, up to a position."""
    _apply(APPLY_TO_WEBHOOK_DELIVERIES, WEBHOOK_DELIVERIES, fan_out.apply_changes, last)


@app.task(name=ATTEMPT_DUE_DELIVERIES)
def attempt_due_deliveries() -> None:
    """Attempt the deliveries that are due."""
    try:
        attempted = _run(ATTEMPT_DUE_DELIVERIES, _attempt_due())
    except DatabaseUnavailableError as error:
        log.warning("database_unavailable", reason=str(error))
    else:
        log.debug("deliveries_attempted", attempted=attempted)


async def _attempt_due() -> int:
    current = settings()
    async with WebhookClient(
        current.webhook_addresses,
        seconds=current.webhook_timeout,
        at_once=current.webhook_endpoints_at_once,
        ca_file=current.webhook_ca_file,
    ) as client:
        return await attempt_due(client)


def _run(task: str, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a task's coroutine to its end, and measure it."""
    with measured_task(task):
        return _loop.run(coroutine)


def _apply(
    task: str, consumer: str, apply_changes: Callable[[int], Coroutine[Any, Any, int]], last: int
) -> None:
    async def apply_and_count(last: int) -> int:
        applied = await apply_changes(last)
        APPLIED.add(consumer, amount=applied)
        return applied

    try:
        applied = _run(task, apply_up_to(last, apply_and_count))
    except DatabaseUnavailableError as error:
        # Not an error of the task: the relay publishes again from the cursor when PostgreSQL is back.
        log.warning("database_unavailable", reason=str(error))
    else:
        log.debug("changes_applied", up_to=last, applied=applied)


PROOF_TIMEOUT_SECONDS = 3_600


@app.task(
    name=PROVE_FEE_SUMMARIES,
    # Acknowledged when it begins: it may run longer than the visibility timeout and would be sent again.
    acks_late=False,
    soft_time_limit=PROOF_TIMEOUT_SECONDS,
    time_limit=PROOF_TIMEOUT_SECONDS + 10,
)
def prove_fee_summaries() -> None:
    """Compare every fee summary with the orders; the relay requests it once a day."""
    try:
        proof = _run(
            PROVE_FEE_SUMMARIES,
            prove_if_requested(lambda difference: log.error("fee_summary_differs", row=str(difference))),
        )
    except DatabaseUnavailableError as error:
        # The relay requests it again within the hour.
        log.warning("database_unavailable", reason=str(error))
        return
    if proof is None:
        log.info("proof_not_needed")
        return
    log_result = log.error if proof.differing else log.info
    log_result("fee_summaries_proved", **asdict(proof))
