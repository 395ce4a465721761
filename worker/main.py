"""The worker: ``python -m worker.main``. Celery, with OMS_WORKER_PROCESSES child processes and three more."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import warnings
from typing import Any

import structlog

from shared.database.engine import DatabaseUnavailableError
from shared.database.stored_cell import check_cell
from shared.fee_summaries import check_time_zone
from shared.heartbeat import beat
from shared.logs import configure_logs
from shared.metrics.endpoint import serve_metrics
from shared.metrics.shared_counts import shared_counts
from shared.redis_cluster import check_no_cluster
from shared.settings import settings
from shared.stored_secrets import check_secret_keys
from shared.task_queue import ATTEMPTS_QUEUE, BROKER, CONSUMER_QUEUE, app
from shared.tracing.spans import import_tracing

# After shared.task_queue, which sets REMAP_SIGTERM before Celery reads it.
from celery import bootsteps  # isort: skip
from celery.bootsteps import RUN  # type: ignore[attr-defined]  # isort: skip  # the stubs lack it
from celery.exceptions import SecurityWarning  # isort: skip
from celery.apps import worker as celery_worker  # isort: skip
from celery.signals import setup_logging, worker_init, worker_ready  # isort: skip
from celery.worker import state  # isort: skip

from worker import queue_reader  # isort: skip


log = structlog.get_logger("worker")

BEAT_SECONDS = 2.0


class Heartbeat(bootsteps.StartStopStep):
    """Beats from the event loop that dispatches tasks: it stops if the loop hangs or has no queue to read.

    Its first beat is when the worker is ready.
    """

    requires = ("celery.worker.components:Timer",)

    def start(self, worker: Any) -> None:
        """Start beating when the worker starts."""
        worker.timer.call_repeatedly(BEAT_SECONDS, beat)


@worker_init.connect
def _freeze_imported_objects(**_: object) -> None:
    """Leave objects that children share out of garbage collection, which Celery runs before each fork."""
    gc.freeze()


@worker_ready.connect
def _beat_at_once(**_: object) -> None:
    beat()


def _print_nothing(_text: str, _stream: object = None) -> None:
    """Replace Celery's function that writes to standard output when it stops, past every logger.

    It says that Ctrl-C again would end all tasks, even if SIGTERM was sent, and in no log format.
    """


class Worker(celery_worker.Worker):
    """Celery's worker, which stops between two steps of its event loop, never in the middle of one.

    Celery stops its pool in the signal handler. If the signal comes while the worker sends a task to a child
    or reads a result, that waits forever for what the interrupted code holds.
    """

    is_told_to_stop = False

    def install_platform_tweaks(self, worker: Any) -> None:
        """Install Celery's signal handlers, except those of the signals that stop the worker."""
        super().install_platform_tweaks(worker)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request_stop)
        if _ended_early.is_set():
            self._request_stop(0, None)

    def _request_stop(self, _number: int, _frame: object) -> None:
        """Handle a signal that stops the worker: the loop reads this between two steps."""
        self.is_told_to_stop = True
        state.should_terminate = 0  # type: ignore[assignment]  # the stubs know only its first value

    def terminate(self, in_sighandler: bool = False) -> None:  # noqa: FBT001, FBT002 (Celery's signature)
        """Give running tasks until the end of the soft shutdown, then stop."""
        if self.blueprint.state == RUN:  # type: ignore[union-attr]  # it has one since its creation
            celery_worker.on_cold_shutdown(self)  # type: ignore[attr-defined]  # the stubs lack it
        super().terminate(in_sighandler)


_ended_early = threading.Event()


def _end_at_once(_number: int, _frame: object) -> None:
    """Handle a signal that stops the worker before Celery does: there is nothing to wait for yet.

    A callback that Python runs meanwhile, such as a finalizer's, may swallow the exit. Then the worker stops
    when it has started.
    """
    _ended_early.set()
    sys.exit(0)


def _share_memory_without_a_folder() -> None:
    """Have the pool map its shared memory from files of the temporary folder itself.

    It unlinks each file at once, but would make a folder for them, which a killed worker leaves behind.
    """
    process: Any = multiprocessing.current_process()
    process._config["tempdir"] = tempfile.gettempdir()  # noqa: SLF001 - where multiprocessing looks, see its util.py


def main() -> int:
    """Run the worker until a signal stops it; return the exit status, 1 if it ended by itself.

    Raises:
        OtherTimeZoneError: the fee summaries count in days of another zone than OMS_TIME_ZONE.
        OtherCellError: the database is of another cell than OMS_CELL.
        RedisClusterError: OMS_REDIS_URL names a node of a Redis Cluster.
        MissingSecretKeyError: a webhook's secret is encrypted under a key that OMS_SECRET_KEY lacks.

    """
    configure_logs()
    import_tracing()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_at_once)
    _share_memory_without_a_folder()
    if BROKER is None:
        asyncio.run(check_no_cluster())
    # If PostgreSQL is unavailable this can't be checked; the worker then counts in the stored zone, and sends
    # nothing whose secret it can't decrypt.
    with contextlib.suppress(DatabaseUnavailableError):
        asyncio.run(check_time_zone())
        asyncio.run(check_cell())
        asyncio.run(check_secret_keys(of_answers=False))
    # Run as root, Celery warns about pickle. That does not apply here: accept_content is JSON only.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    celery_worker.safe_say = _print_nothing  # type: ignore[attr-defined]  # imported there, not exported
    app.steps["worker"].add(Heartbeat)
    app.conf.worker_consumer = f"{queue_reader.__name__}:Consumer"
    queue_reader.use_transport()
    setup_logging.connect(queue_reader.configure_celery_logs)
    queue_reader.quieten_celery()
    log.info("started")
    try:
        with shared_counts(_concurrency() + 1 if settings().metrics_port else 1):
            serve_metrics()
            worker = _create_worker()
            worker.start()
    finally:
        log.info("stopped")
    # Celery's own exit code is no help: it is 1 after a signal too, and none if no file could be opened.
    return 0 if worker.is_told_to_stop else 1


def _concurrency() -> int:
    # Two more for the tasks that attempt deliveries, one that leases webhooks and one that finishes: they
    # wait for subscribers' endpoints, which must not delay consumers. And one for the daily proof of the
    # fee summaries, which may take minutes.
    return settings().worker_processes + 3


def _create_worker() -> Worker:
    return Worker(
        app=app,
        quiet=True,
        pool_cls=queue_reader.Pool,
        concurrency=_concurrency(),
        queues=[CONSUMER_QUEUE, ATTEMPTS_QUEUE],
        loglevel=settings().log_level,
        # Distinct, where several workers run on one host.
        hostname=f"worker-{os.getpid()}@{socket.gethostname()}",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )


if __name__ == "__main__":
    sys.exit(main())
