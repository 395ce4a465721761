"""Random faults under random load: ``python -m tests.faults --minutes 10 [--seed 1]``.

Servers and processes of its own are killed, hung, wiped and restarted while callers place, change, move,
cancel, reinstate and delete orders, one by one and many at once. At the end everything is repaired and
checked: nothing acknowledged is lost, no answer was a 5xx other than 503, the rule holds, the change log is
dense, and the summaries are exactly the orders' sums. Exit status 0: all of that holds; 1: something does
not, and is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

import asyncpg
import psutil
import redis

from stack.embedded_postgres import EmbeddedPostgres
from stack.embedded_valkey import EmbeddedValkey, free_port
from tests.callers import EXPECTED, Caller
from tests.drivers import Api, Database, wait_until
from tests.processes import ServiceProcess, migrate

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

HEALING_SECONDS = 60.0


class Deployment:
    """A whole deployment on one machine whose parts may be broken and repaired.

    Args:
        folder: where Redis keeps its data.
        database_url: a migrated database that nothing else uses.
        postgres: its server, if that may be killed.
        more: settings of all processes, such as another OMS_REDIS_URL than that of the server here.

    """

    def __init__(
        self, folder: Path, database_url: str, postgres: EmbeddedPostgres | None = None, **more: str
    ) -> None:
        self._more = more
        self.database_url = database_url
        self.postgres = postgres
        self.valkey = EmbeddedValkey(folder / "valkey")
        self._valkey_data = folder / "valkey" / "appendonlydir"
        self._closing = ExitStack()
        self._ended: list[str] = []

    def __enter__(self) -> Self:
        with ExitStack() as begun:
            begun.enter_context(self.valkey)

            def started(module: str, port: int = 0, **settings: str) -> ServiceProcess:
                process = ServiceProcess(
                    module,
                    database=self.database_url,
                    redis=self.valkey.url,
                    port=port,
                    **self._more,
                    **settings,
                )
                return begun.enter_context(process)

            port = free_port()
            hurried = {"OMS_POOL_WAIT": "2", "OMS_STATEMENT_TIMEOUT": "4", "OMS_LOCK_WAIT": "0.1"}
            self.api_process = started("api.server", port, **hurried)
            self.relay = started("api.relay.main")
            self.standby = started("api.relay.main")
            self.worker = started("worker.main")
            self.api = begun.enter_context(Api(port))
            self.api.wait_until_ready()
            with self.psql() as database:
                database.add_services()
            self._closing = begun.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def psql(self) -> Database:
        """Open a session on the database."""
        return Database(self.database_url)

    @property
    def services(self) -> tuple[ServiceProcess, ...]:
        """The service's own processes."""
        return self.api_process, self.relay, self.standby, self.worker

    def redis(self) -> redis.Redis:
        """Open a client of Redis."""
        return redis.Redis.from_url(self.valkey.url, socket_timeout=5)

    def terminate_backends(self) -> int:
        """End every other session on the database."""
        with self.psql() as database:
            return len(
                database.rows(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )

    def wipe_redis(self) -> None:
        """Remove everything from Redis."""
        with suppress(redis.RedisError), self.redis() as client:
            client.flushall()

    def restart_redis(self, *, empty: bool, outage: float = 0.0) -> None:
        """Kill Redis, and restart it some seconds later, with its data on disk or without."""
        self.valkey.kill()
        time.sleep(outage)
        if empty:
            shutil.rmtree(self._valkey_data, ignore_errors=True)
        self.valkey.start()

    def hang_redis(self, seconds: float) -> None:
        """Stop Redis from answering for a while; it still accepts connections."""
        process = self.valkey.process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(process.pid, signal.SIGCONT)

    def restart(self, process: ServiceProcess, *, outage: float = 0.0) -> None:
        """Kill a process with its children, and start it again some seconds later."""
        self._check_that_it_runs(process)
        process.kill()
        time.sleep(outage)
        process.start()

    def _check_that_it_runs(self, process: ServiceProcess) -> None:
        # Checked before each kill too, or the restart would hide that a process had ended by itself.
        if process.has_ended:
            self._ended.append(f"{process.module} ended by itself: {process.log[-2000:]}")

    def kill_worker_child(self, rng: random.Random) -> None:
        """Kill one of the worker's children, as the OOM killer does."""
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.worker.pid).children()
            if children:
                rng.choice(children).kill()

    def restart_postgres(self, *, outage: float = 0.0) -> None:
        """Kill the database server, and restart it."""
        assert self.postgres is not None
        self.postgres.kill()
        time.sleep(outage)
        self.postgres.start()

    def wait_until_exact(self, seconds: float = HEALING_SECONDS) -> float:
        """Wait until every change is summed, and return the seconds it took."""
        begun = time.monotonic()
        with self.psql() as database:
            wait_until(
                lambda: database.value(
                    "SELECT (SELECT count(*) FROM order_change) = (SELECT min(position) FROM consumer_cursor)"
                ),
                "every change is summed",
                seconds,
            )
        return time.monotonic() - begun

    def faults(self) -> list[str]:
        """List the guarantees that are broken once everything is summed."""
        for process in self.services:
            self._check_that_it_runs(process)
        faults, self._ended = self._ended, []
        with self.psql() as database:
            faults += [f"summary: {row}" for row in database.wrong_summaries()[:5]]
            faults += [f"too close: {row}" for row in database.too_close_pairs()[:5]]
            dense = database.value(
                "SELECT count(*) = coalesce(max(position), 0) AND count(*) = count(position) "
                "FROM order_change"
            )
            if not dense:
                faults.append("the change log has gaps")
            unlike = database.value(
                """
                SELECT count(*) FROM orders AS o LEFT JOIN LATERAL (
                    SELECT order_state FROM order_change AS c
                    WHERE c.order_id = o.id ORDER BY position DESC LIMIT 1
                ) AS last ON true WHERE last.order_state::text IS DISTINCT FROM o.rendered::text
                """
            )
            if unlike:
                faults.append(f"{unlike} orders are not what their last change says")
        return faults


def with_load(
    deployment: Deployment, seed: int, during: Callable[[], object], callers: int = 3, pause: float = 0.01
) -> list[Caller]:
    """Run callers during a block, and for a moment before and after it.

    Each makes its next request some ``pause`` seconds after the last.
    """
    stop = threading.Event()
    crowd = [
        Caller(deployment.api.url, f"caller-{number}-{seed}", seed * 100 + number, stop, pause)
        for number in range(callers)
    ]
    for caller in crowd:
        caller.start()

    def wait_until_all_are_at_work() -> None:
        before = [caller.answers.total() for caller in crowd]
        wait_until(
            lambda: all(caller.answers.total() > had + 2 for caller, had in zip(crowd, before, strict=True)),
            "every caller is at work",
        )

    try:
        wait_until_all_are_at_work()
        during()
        wait_until_all_are_at_work()
    finally:
        stop.set()
        for caller in crowd:
            caller.join(60)
    return crowd


def random_fault(deployment: Deployment, rng: random.Random) -> str:
    """Break something and repair it; return what was done."""
    outage = round(rng.choice((0.0, 0.2, 1.0, 2.0)) * rng.random(), 2)
    process = rng.choice([deployment.worker, deployment.worker, deployment.relay, deployment.standby])
    faults: list[tuple[str, Callable[[], object]]] = [
        (f"{process.module} killed for {outage} s", lambda: deployment.restart(process, outage=outage)),
        ("a child of the worker killed", lambda: deployment.kill_worker_child(rng)),
        ("Redis wiped", deployment.wipe_redis),
        (f"Redis killed for {outage} s", lambda: deployment.restart_redis(empty=False, outage=outage)),
        (f"Redis replaced for {outage} s", lambda: deployment.restart_redis(empty=True, outage=outage)),
        (f"Redis hung for {3 * outage:.1f} s", lambda: deployment.hang_redis(3 * outage)),
        ("sessions of PostgreSQL ended", deployment.terminate_backends),
        ("the API killed", lambda: deployment.restart(deployment.api_process)),
    ]
    if deployment.postgres is not None:
        faults.append(
            (f"PostgreSQL killed for {outage} s", lambda: deployment.restart_postgres(outage=outage))
        )
    what, do = rng.choice(faults)
    do()
    return what


def run(deployment: Deployment, seconds: float, seed: int, pause: float = 0.01) -> list[str]:
    """Break things at random under load for a while; return the guarantees that do not hold in the end."""
    rng = random.Random(seed)
    until = time.monotonic() + seconds

    def break_things() -> None:
        while time.monotonic() < until:
            print(f"{datetime.now(UTC):%H:%M:%S} {random_fault(deployment, rng)}", flush=True)
            time.sleep(rng.random() * 1.5)

    crowd = with_load(deployment, seed, break_things, pause=pause)
    deployment.api.wait_until_ready()
    answers = sum((caller.answers for caller in crowd), Counter[int | str]())
    print(f"answers: {dict(answers)}", flush=True)
    print(f"exact after {deployment.wait_until_exact():.1f} s", flush=True)
    # 503 while PostgreSQL is unavailable, and no answer from an API that is killed.
    allowed = EXPECTED | {503} | {answer for answer in answers if isinstance(answer, str)}
    return [
        *deployment.faults(),
        *(loss for caller in crowd for loss in caller.losses(deployment.api)),
        *(refusal for caller in crowd for refusal in caller.refusals(allowed)),
    ]


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="tests.faults", description="Random faults under random load.")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}: python -m tests.faults --minutes {options.minutes:g} --seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="oms-faults-") as name:
        folder = Path(name)
        with EmbeddedPostgres(folder / "postgres", durable=False) as postgres:
            migrate(postgres.url)
            with Deployment(folder, postgres.url, postgres) as deployment:
                try:
                    faults = run(deployment, options.minutes * 60, seed)
                except (AssertionError, asyncpg.PostgresError) as error:
                    faults = [str(error), *deployment.faults()]
                if faults:
                    for process in deployment.services:
                        print(f"---- {process.module}\n{process.log}")
    print(json.dumps(faults, indent=1, ensure_ascii=False) if faults else "everything held")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
