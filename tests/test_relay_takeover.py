"""A second relay takes over within five seconds, whatever happened to the first; the log stays in order."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from api.relay.retention import LONGEST_SILENCE_SECONDS, short_transaction
from shared.change_log import log_bounds
from shared.database.engine import DatabaseUnavailableError
from shared.database.locks import RELAY_LOCK
from shared.database.statements import execute
from tests.builders import later
from tests.consistency import seeded_random, stays_consistent
from tests.drivers import Api, Database, http_client, wait_until
from tests.processes import NO_REDIS, ServiceProcess
from tests.random_rounds import ROUNDS
from tests.serving import serving
from tests.silent_network import silent_network

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine
    from typing import Any

    from tests.silent_network import SilentNetwork

LIMIT_SECONDS = 5.0

FAULTS = ("killed", "stopped", "cut off", "host gone")


class Rival:
    """One of two relays, behind a network of its own."""

    def __init__(self, network: SilentNetwork) -> None:
        self._network = network
        self.process = ServiceProcess("api.relay.main", database=network.url, redis=NO_REDIS)
        self.process.start()

    @property
    def times_led(self) -> int:
        """How often it has become the leader."""
        return self.process.log.count(" leading")

    def suffer(self, fault: str) -> None:
        """Be killed or stopped, or have no network."""
        if fault in {"cut off", "host gone"}:
            self._network.fall_silent()
        if fault in {"killed", "host gone"}:
            self.process.kill()
        if fault == "stopped":
            os.kill(self.process.pid, signal.SIGSTOP)

    def recover(self, fault: str) -> None:
        """Undo it."""
        if fault == "stopped":
            os.kill(self.process.pid, signal.SIGCONT)
        if fault in {"cut off", "host gone"}:
            self._network.speak()
        if fault in {"killed", "host gone"}:
            starts = self.process.log.count(" started")
            self.process.start()
            wait_until(lambda: self.process.log.count(" started") > starts, "it has started again", 30)


class Follower:
    """Reads the feed without a pause, and checks that each position comes once and in order."""

    def __init__(self, api: Api) -> None:
        self._url = api.url
        self.events: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        """Read until it is over and nothing is left."""
        with http_client(self._url) as client:
            while True:
                is_last = self.over.is_set()
                page = client.get("/order-changes", params={"after": len(self.events), "limit": 100}).json()
                for item in page["items"]:
                    assert int(item["sequence"]) == len(self.events) + 1
                    self.events.append(item["id"])
                if not page["items"]:
                    if is_last:
                        return
                    time.sleep(0.02)


def _leader_of(rivals: list[Rival], before: tuple[int, ...]) -> Rival | None:
    """Return the relay that has become the leader since."""
    return next((rival for rival, times in zip(rivals, before, strict=True) if rival.times_led > times), None)


def _last(database: Database) -> int:
    return int(database.value("SELECT last_position FROM change_log"))


def _take_over(
    fault: str, leader: Rival, other: Rival, database: Database, generator: random.Random
) -> tuple[float, Rival, Rival]:
    """Break the leader; return the seconds until a position that the other one assigned, and who leads."""
    before = other.times_led
    time.sleep(generator.uniform(0.2, 1.5))
    leader.suffer(fault)
    broken_at = time.monotonic()
    wait_until(lambda: other.times_led > before, f"the other leads: {other.process.log[-500:]}", 30)
    last = _last(database)
    wait_until(lambda: _last(database) > last, "it assigns positions", 30)
    seconds = time.monotonic() - broken_at
    time.sleep(generator.uniform(0, 0.5))
    leader.recover(fault)
    time.sleep(1.5)  # it tries to lead, in vain
    assert other.times_led == before + 1, "the one that leads keeps the lead"
    return seconds, other, leader


@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", FAULTS)
def test_another_relay_assigns_positions_within_five_seconds(fault: str, own_database_url: str) -> None:
    """Twice here, and ten times with ROUNDS=5; orders are written and changes are read all the time."""
    generator = seeded_random()
    seconds: list[float] = []
    with ExitStack() as stack:
        database = stack.enter_context(Database(own_database_url))
        database.clean()
        database.add_services()
        api, _ = stack.enter_context(serving(database=own_database_url, redis=NO_REDIS))
        rivals = []
        for _ in range(2):
            folder = stack.enter_context(tempfile.TemporaryDirectory())  # a short path, for a socket
            network = stack.enter_context(silent_network(Path(folder), own_database_url))
            rivals.append(Rival(network))
            stack.callback(rivals[-1].process.kill)
        follower = Follower(api)
        is_over = threading.Event()
        threads = stack.enter_context(ThreadPoolExecutor(3))
        writing = [threads.submit(_write, api, name, is_over) for name in ("a", "b")]
        following = threads.submit(follower.run)
        try:
            wait_until(lambda: _leader_of(rivals, (0, 0)) is not None, "one leads")
            leader = _leader_of(rivals, (0, 0))
            assert leader
            (other,) = (rival for rival in rivals if rival is not leader)
            with stays_consistent(database):
                for _ in range(2 * ROUNDS):
                    taken, leader, other = _take_over(fault, leader, other, database, generator)
                    seconds.append(taken)
                is_over.set()
                written = [future.result(30) for future in writing]
                wait_until(lambda: _last(database) == sum(written), "every change has a position")
        finally:
            is_over.set()
            follower.over.set()
        following.result(30)
    print(f"{fault}: {', '.join(f'{s:.2f}' for s in seconds)} s; median {statistics.median(seconds):.2f} s")
    assert len(follower.events) == len(set(follower.events)) == sum(written)
    assert max(seconds) <= LIMIT_SECONDS


def _write(api: Api, name: str, is_over: threading.Event) -> int:
    """Create orders until it is over; return how many."""
    with http_client(api.url) as client:
        own = Api(int(api.url.rpartition(":")[2]))
        own.client = client
        for number in count():
            if is_over.is_set():
                return number
            own.placed_order(at=later(hours=3 * number), calendar=name)
            time.sleep(0.02)
    raise AssertionError


def test_a_leader_whose_session_waits_for_postgresql_is_left_alone(own_database_url: str) -> None:
    """As it does for a synchronous standby: another relay could do no better, and must not interrupt it."""
    with (
        Database(own_database_url) as database,
        Database(own_database_url) as blocking,
        ExitStack() as stack,
    ):
        relays = [
            stack.enter_context(
                ServiceProcess(
                    "api.relay.main", database=own_database_url, redis=NO_REDIS, OMS_STATEMENT_TIMEOUT="20"
                )
            )
            for _ in range(2)
        ]
        wait_until(lambda: any(" leading" in relay.log for relay in relays), "one leads")
        holder = (
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = $1::bigint::oid AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        leading = database.rows(holder, RELAY_LOCK)
        # Its record that it works waits for this lock.
        blocking.rows("BEGIN")
        blocking.rows("SELECT FROM change_log WHERE id = 1 FOR UPDATE")
        time.sleep(LIMIT_SECONDS)
        assert database.rows(holder, RELAY_LOCK) == leading
        blocking.rows("ROLLBACK")
        assert not any("silent_leader_ended" in relay.log for relay in relays)


def test_a_relay_that_stops_in_the_middle_of_deleting_holds_no_lock_for_long(
    run: Callable[[Coroutine[Any, Any, Any]], Any], database: Database
) -> None:
    """A relay that takes over locks the same row to assign positions."""

    async def stop_in_the_middle() -> None:
        async with short_transaction():
            await execute("SELECT FROM change_log WHERE id = 1 FOR UPDATE")
            began = time.monotonic()
            waiting = asyncio.to_thread(database.rows, "UPDATE change_log SET led_at = now()")
            await waiting
            assert time.monotonic() - began < LONGEST_SILENCE_SECONDS + 1
            await log_bounds()

    with pytest.raises(DatabaseUnavailableError):
        run(stop_in_the_middle())
