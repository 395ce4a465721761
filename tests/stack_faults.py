"""Kills in a running ``make run``: ``python -m tests.stack_faults --operations 10000 [--seed 1]``.

Callers place, change, cancel and delete orders while processes are killed and data in Redis is deleted, at
most 3 s apart. Nothing is repaired by hand: the stack must do that. After each fault, an order must be
stored, and be in the fee summaries, within 10 s; the time begins again if the same order is held up by
another fault before that, of a part that cannot be up again yet. At the end everything acknowledged must be
there. Exit status 0: all of that holds; 1: something does not, and is printed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import redis

from stack.child_processes import working_in
from stack.embedded_valkey import free_port
from tests.builders import order_body
from tests.callers import EXPECTED, Caller
from tests.drivers import Api, Database, http_client, wait_until
from tests.supervisor import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LIMIT_SECONDS = 10.0
"""Within this time after a fault an order must be stored, and be summed."""

PROBE_TIMEOUT_SECONDS = 60.0
FAULT_PAUSE_SECONDS = 3.0
CALLERS = 4


HOLDS_UP_STORING = {
    "PostgreSQL killed",
    "a session of PostgreSQL killed",
    "the API's main process killed",
    "the API's child killed",
}
"""After these faults a process starts, or PostgreSQL recovers, before an order can be stored."""
HOLDS_UP_SUMMING = HOLDS_UP_STORING | {"the relay killed", "the worker's main process killed"}


@dataclass
class Probe:
    """When an order was stored and summed after a fault (monotonic seconds); None: not in time."""

    fault: str
    begun: float
    stored: float | None = None
    summed: float | None = None

    def seconds(self, done: float | None, holding_up: Sequence[Probe] = ()) -> float:
        """Return how long it took, from the last of the faults that held it up, or from this one."""
        if done is None:
            return PROBE_TIMEOUT_SECONDS
        return done - max(
            self.begun, *(fault.begun for fault in holding_up if fault.begun < done), self.begun
        )


@dataclass
class Faults:
    """Breaks one part of a stack after another, and measures how soon an order is stored and summed again."""

    run: Run
    rng: random.Random
    probes: list[Probe] = field(default_factory=list)

    def __post_init__(self) -> None:
        environment = json.loads((self.run.state / "environment.json").read_text())
        self.database_url, self._redis_url = environment["OMS_DATABASE_URL"], environment["OMS_REDIS_URL"]
        self._threads = ThreadPoolExecutor(32)
        self._numbers = iter(range(1_000_000))

    def break_once(self) -> str:
        """Break one part, begin to measure, and return what was broken."""
        kinds: dict[str, Callable[[], object]] = {
            "Redis killed": lambda: self._kill(working_in(self.run.state / "valkey", "valkey-server")),
            "Redis wiped": self._wipe_redis,
            "clients of Redis disconnected": self._disconnect_from_redis,
            "PostgreSQL killed": lambda: self._kill([self._postmaster()]),
            "sessions of PostgreSQL ended": self._end_sessions,
            "a session of PostgreSQL killed": lambda: self._kill(self._some(self._sessions(), 1)),
            "the API's main process killed": lambda: self._kill(self._main("api.server")),
            "the API's child killed": lambda: self._kill(self._children("api.server")),
            "the relay killed": lambda: self._kill(self._main("api.relay.main")),
            "the worker's main process killed": lambda: self._kill(self._main("worker.main")),
            "a child of the worker killed": lambda: self._kill(self._some(self._children("worker.main"), 1)),
            "all children of the worker killed": lambda: self._kill(self._children("worker.main")),
            "Redis and children of the worker killed": lambda: self._kill(
                [
                    *working_in(self.run.state / "valkey", "valkey-server"),
                    *self._some(self._children("worker.main"), 2),
                ]
            ),
        }
        name = self.rng.choice(list(kinds))
        begun = time.monotonic()
        with suppress(psutil.NoSuchProcess, redis.RedisError):
            kinds[name]()
        probe = Probe(name, begun)
        self.probes.append(probe)
        self._threads.submit(self._measure, probe)
        return name

    def wait_for_probes(self) -> None:
        """Wait until every order was stored and summed, or its time is up."""
        self._threads.shutdown()

    def _measure(self, probe: Probe) -> None:
        number = next(self._numbers)
        body = order_body(
            at=datetime(2100, 1, 1, tzinfo=UTC) + timedelta(hours=3 * number % 300_000), calendar="probe"
        )
        with http_client(self.run.address, timeout=5) as client:

            def passed(request: Callable[[], httpx.Response], statuses: set[int]) -> httpx.Response | None:
                while time.monotonic() - probe.begun < PROBE_TIMEOUT_SECONDS:
                    with suppress(httpx.TransportError):
                        response = request()
                        if response.status_code in statuses:
                            return response
                    time.sleep(0.05)
                return None

            headers = {"Idempotency-Key": f"probe-{number}"}
            stored = passed(lambda: client.post("/orders", json=body, headers=headers), {201})
            if stored is None:
                return
            probe.stored = time.monotonic()
            path = f"/fee-summaries?after_version={stored.json()['id']}:1"
            if passed(lambda: client.get(path), {200}):
                probe.summed = time.monotonic()

    def _main(self, module: str) -> list[psutil.Process]:
        return [
            process
            for process in psutil.Process(self.run.process.pid).children()
            if module in process.cmdline()
        ]

    def _children(self, module: str) -> list[psutil.Process]:
        return [child for main in self._main(module) for child in main.children()]

    def _some(self, processes: list[psutil.Process], most: int) -> list[psutil.Process]:
        return self.rng.sample(processes, min(most, len(processes)))

    def _kill(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _postmaster(self) -> psutil.Process:
        lock_file = self.run.state / "postgres" / "data" / "postmaster.pid"
        with suppress(FileNotFoundError, ValueError):
            return psutil.Process(int(lock_file.read_text().split()[0]))
        raise psutil.NoSuchProcess(0)

    def _sessions(self) -> list[psutil.Process]:
        return [
            session for session in self._postmaster().children() if "[local]" in " ".join(session.cmdline())
        ]

    def _end_sessions(self) -> None:
        # As PostgreSQL itself ends a session: pg_terminate_backend sends the same signal.
        for session in self._sessions():
            with suppress(psutil.NoSuchProcess):
                session.terminate()

    def _wipe_redis(self) -> None:
        with redis.Redis.from_url(self._redis_url, socket_timeout=1) as client:
            client.flushall()

    def _disconnect_from_redis(self) -> None:
        with redis.Redis.from_url(self._redis_url, socket_timeout=1) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def run(stack: Run, operations: int, seed: int) -> list[str]:
    """Break parts of a stack until callers were answered that often; return what does not hold."""
    faults = Faults(stack, random.Random(seed))
    stop = threading.Event()
    callers = [
        Caller(stack.address, f"caller-{number}-{seed}", seed * 100 + number, stop, pause=0.02)
        for number in range(CALLERS)
    ]
    with Database(faults.database_url) as database:
        database.add_services()
    for caller in callers:
        caller.start()
    begun = time.monotonic()
    while sum(map(_answered, callers)) < operations:
        if stack.process.poll() is not None:
            break
        print(f"{datetime.now(UTC):%H:%M:%S} {faults.break_once()}", flush=True)
        time.sleep(faults.rng.random() * FAULT_PAUSE_SECONDS)
    stop.set()
    for caller in callers:
        caller.join(60)
    faults.wait_for_probes()
    if stack.process.poll() is not None:
        return ["the stack ended", *stack.lines[-40:]]
    answers = sum((caller.answers for caller in callers), Counter[int | str]())
    print(f"{sum(map(_answered, callers))} answers in {time.monotonic() - begun:.0f} s: {dict(answers)}")
    return [*_slow(faults.probes), *_broken(stack, faults.database_url, callers, answers)]


def _answered(caller: Caller) -> int:
    """Count a caller's answers; while the API is down, it makes many requests that have none."""
    return sum(count for answer, count in list(caller.answers.items()) if isinstance(answer, int))


def _slow(probes: list[Probe]) -> list[str]:
    """Print how long orders took after each kind of fault; list those that took too long."""
    storing = [probe for probe in probes if probe.fault in HOLDS_UP_STORING]
    summing = [probe for probe in probes if probe.fault in HOLDS_UP_SUMMING]
    print("most seconds after the fault (in brackets: however often the same order was held up again)")
    print(f"{'':42} faults {'stored':>14} {'summed':>14}")
    slow: list[str] = []
    for kind in sorted({probe.fault for probe in probes}):
        same = [probe for probe in probes if probe.fault == kind]
        stored = max(probe.seconds(probe.stored, storing) for probe in same)
        summed = max(probe.seconds(probe.summed, summing) for probe in same)
        in_all = [max(p.seconds(p.stored) for p in same), max(p.seconds(p.summed) for p in same)]
        print(f"{kind:42} {len(same):6} {stored:6.1f} ({in_all[0]:5.1f}) {summed:6.1f} ({in_all[1]:5.1f})")
        if max(stored, summed) > LIMIT_SECONDS:
            slow.append(f"{kind}: stored after {stored:.1f} s, summed after {summed:.1f} s")
    return slow


def _broken(stack: Run, database_url: str, callers: list[Caller], answers: Counter[int | str]) -> list[str]:
    """List the guarantees that do not hold after the last fault."""
    # 503 while PostgreSQL is unavailable, and no answer from an API that is killed.
    allowed = EXPECTED | {503} | {answer for answer in answers if isinstance(answer, str)}
    with Database(database_url) as database, Api(int(stack.address.rpartition(":")[2])) as api:
        api.wait_until_ready()
        wait_until(
            lambda: database.value(
                "SELECT (SELECT count(*) FROM order_change) = (SELECT min(position) FROM consumer_cursor)"
            ),
            "every change is summed",
            PROBE_TIMEOUT_SECONDS,
        )
        return [
            *(f"summary: {row}" for row in database.wrong_summaries()[:5]),
            *(f"too close: {row}" for row in database.too_close_pairs()[:5]),
            *(loss for caller in callers for loss in caller.losses(api)),
            *(refusal for caller in callers for refusal in caller.refusals(allowed)),
        ]


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="tests.stack_faults", description="Kills in a running `make run`.")
    parser.add_argument("--operations", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}: python -m tests.stack_faults --operations {options.operations} --seed {seed}")
    folder = Path(tempfile.mkdtemp(prefix="oms-faults-"))
    folder.chmod(0o755)  # the database's unprivileged user must be able to enter it
    stack = Run(folder, free_port())
    try:
        stack.wait_until_ready()
        faults = run(stack, options.operations, seed)
        if faults:
            print(*(line for line in stack.lines if "answered" not in line), sep="\n")
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(faults, indent=1, ensure_ascii=False) if faults else "everything held")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
