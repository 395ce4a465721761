"""The relay: positions for what is committed, and batches in order, through whatever happens to Redis."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import redis

from api.relay import Relay
from shared.change_log import FEE_SUMMARIES, move_cursor
from shared.changes import Batch
from shared.database import transaction
from shared.task_queue import APPLY_TO_FEE_SUMMARIES, CONSUMER_QUEUE
from stack.embedded_valkey import EmbeddedValkey
from tests.builders import later
from tests.drivers import wait_until
from tests.processes import ServiceProcess
from tests.steps import applied, apply_every_change, place
from worker.fee_summaries import apply_changes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers import Database

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Queue:
    """What waits for the worker in Redis."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url, socket_timeout=5)

    def __len__(self) -> int:
        """Count the messages."""
        return int(self.client.llen(CONSUMER_QUEUE))

    def batches(self) -> list[Batch]:
        """Read the messages, oldest first, and leave them."""
        found = []
        for text in reversed(self.client.lrange(CONSUMER_QUEUE, 0, -1)):
            message = json.loads(text)
            if message["headers"]["task"] != APPLY_TO_FEE_SUMMARIES:
                continue  # another consumer's, of a relay in a process of its own
            arguments, _, _ = json.loads(base64.b64decode(message["body"]))
            found.append(Batch(*arguments))
        return found

    def taken(self) -> list[Batch]:
        """Read the messages, oldest first, and remove them."""
        found = self.batches()
        self.client.delete(CONSUMER_QUEUE)
        return found


@pytest.fixture
def queue(redis_url: str) -> Iterator[Queue]:
    """Give this process's queue, empty and without a worker."""
    queue = Queue(redis_url)
    queue.client.flushdb()
    yield queue
    queue.client.flushdb()
    queue.client.close()


@pytest.fixture(autouse=True)
def _one_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every consumer is published to alike: these tests look at one."""
    monkeypatch.setattr("api.relay.CONSUMERS", {FEE_SUMMARIES: APPLY_TO_FEE_SUMMARIES})


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """Give a Redis-compatible server that may be stopped and broken."""
    with EmbeddedValkey(tmp_path / "valkey") as valkey:
        yield valkey


def place_many(database: Database, count: int) -> None:
    """Place orders with plain SQL, three hours apart."""
    database.rows("INSERT INTO calendar (name) VALUES ('default') ON CONFLICT DO NOTHING")
    database.rows(
        """
        INSERT INTO orders (datetime, clear_until, totalfee, service_ids, service_names, calendar_id)
        SELECT at, at + interval '3 hours', 10, '{123}', '{Inspection}', (SELECT id FROM calendar)
        FROM (
            SELECT coalesce(max(clear_until), '2030-01-01Z') + n * interval '3 hours' AS at
            FROM orders RIGHT JOIN generate_series(0, $1 - 1) AS n ON true GROUP BY n
        ) AS free
        """,
        count,
    )


async def relay_all(relay: Relay) -> int:
    """Relay until there is nothing left to do now."""
    moved = 0
    while now := await relay.relay_once():
        moved += now
    return moved


async def put_cursor(position: int) -> None:
    """Put the fee summaries' cursor somewhere else, as a restore of the database does."""
    async with transaction():
        await move_cursor(FEE_SUMMARIES, position)


def test_changes_are_assigned_and_published_in_order(
    run: Run, queue: Queue, setting: Callable[..., None]
) -> None:
    """In batches, each of which continues the one before it."""
    setting(relay_batch=2)
    relay = Relay()
    for day in range(5):
        run(place(later(days=day)))
    assert run(relay.relay_once()) == 10  # each was assigned, and published
    assert run(relay.relay_once()) == 0
    assert [(batch.first, batch.last) for batch in queue.batches()] == [(1, 2), (3, 4), (5, 5)]
    run(place(later(days=9)))
    run(relay.relay_once())
    assert [(batch.first, batch.last) for batch in queue.batches()][3:] == [(6, 6)]
    for batch in queue.taken():
        notifications = json.loads(batch.notifications)
        assert [int(n["sequence"]) for n in notifications] == list(range(batch.first, batch.last + 1))
        assert notifications[-1]["id"] == batch.last_event_id
        assert run(apply_changes(batch)) == len(notifications)


def test_a_stopped_worker_can_not_fill_redis(
    run: Run, queue: Queue, database: Database, setting: Callable[..., None]
) -> None:
    """3,000 changes wait, and Redis holds two windows at most, however often they are published again."""
    setting(relay_batch=10, relay_window=50, republish_after=0.05)
    place_many(database, 3_000)
    relay = Relay()
    longest = 0
    for _ in range(40):
        run(relay.relay_once())
        longest = max(longest, len(queue))
        time.sleep(0.02)
    print(f"at most {longest} messages waited")
    # The window is five messages. It is published again while the cursor stands still, but not on and on.
    assert 5 <= longest <= 10
    assert database.value("SELECT last_position FROM change_log") == 3_000

    deadline = time.monotonic() + 20
    while run(applied()) < 3_000 and time.monotonic() < deadline:
        for batch in queue.taken():
            run(apply_changes(batch))
        run(relay.relay_once())
        assert len(queue) <= 10
    assert run(applied()) == 3_000
    assert database.wrong_summaries() == []


def test_changes_of_one_at_a_time_can_not_fill_redis_either(
    run: Run, queue: Queue, setting: Callable[..., None]
) -> None:
    """The window counts changes; the queue is bounded in messages too."""
    setting(relay_batch=10, relay_window=50, republish_after=0.05)
    relay = Relay()
    for day in range(60):
        run(place(later(days=day)))
        run(relay.relay_once())
    assert len(queue) <= 10


def test_what_is_lost_is_published_again_when_the_cursor_stands_still(
    run: Run, queue: Queue, database: Database, setting: Callable[..., None]
) -> None:
    """And not once more when it has arrived."""
    setting(republish_after=60)
    relay = Relay()
    for day in range(3):
        run(place(later(days=day)))
    run(relay_all(relay))
    assert len(queue.taken()) == 1  # lost: nobody applies them
    assert run(relay.relay_once()) == 0
    setting(republish_after=0.01)
    time.sleep(0.02)
    assert run(relay.relay_once()) == 3
    (again,) = queue.taken()
    assert run(apply_changes(again)) == 3
    time.sleep(0.02)
    assert run(relay.relay_once()) == 0
    assert len(queue) == 0
    assert database.wrong_summaries() == []


def test_a_cursor_that_went_back_is_published_to_again_at_once(run: Run, queue: Queue) -> None:
    """A restored database, or summaries that are rebuilt."""
    relay = Relay()
    for day in range(4):
        run(place(later(days=day)))
    run(relay_all(relay))
    for batch in queue.taken():
        run(apply_changes(batch))
    run(relay_all(relay))
    assert len(queue) == 0
    run(put_cursor(1))
    assert run(relay_all(relay)) == 3
    assert [(batch.first, batch.last) for batch in queue.batches()] == [(2, 4)]


def test_a_new_relay_begins_at_the_cursor(run: Run, queue: Queue) -> None:
    """What the one before it had published is only remembered, not stored."""
    for day in range(4):
        run(place(later(days=day)))
    run(relay_all(Relay()))
    queue.taken()
    run(put_cursor(3))
    run(relay_all(Relay()))
    assert [(batch.first, batch.last) for batch in queue.batches()] == [(4, 4)]


def test_a_cursor_that_another_relay_moved_is_followed(run: Run, queue: Queue) -> None:
    """What is applied already is not published."""
    relay = Relay()
    run(place(later(days=0)))
    run(relay_all(relay))
    queue.taken()
    run(place(later(days=1)))
    assert run(apply_every_change()) == 2
    run(place(later(days=2)))
    run(relay_all(relay))
    assert [(batch.first, batch.last) for batch in queue.batches()] == [(3, 3)]


def assigned(database: Database) -> int:
    """Count the positions given so far."""
    return int(database.value("SELECT last_position FROM change_log"))


def is_assigned(database: Database, position: int) -> bool:
    """Tell whether this is the last position given."""
    return assigned(database) == position


@pytest.mark.xdist_group("faults")
def test_while_redis_is_away_positions_are_assigned_and_everything_is_published_later(
    run: Run, database: Database, own_valkey: EmbeddedValkey, postgres_url: str
) -> None:
    """The log and whoever reads it do not depend on Redis."""
    own_valkey.kill()
    with ServiceProcess("api.relay", database=postgres_url, redis=own_valkey.url) as relay:
        run(place(later(days=0)))
        wait_until(lambda: assigned(database) == 1, "assigned without Redis")
        run(place(later(days=1)))
        wait_until(lambda: assigned(database) == 2, "assigned without Redis, again")
        wait_until(lambda: "queue_unavailable" in relay.log, "noticed")
        own_valkey.start()
        queue = Queue(own_valkey.url)
        wait_until(lambda: bool(len(queue)), "published")
        wait_until(lambda: run(_apply(queue)) == 2, "applied")
        assert relay.log.count("queue_unavailable") == 1  # once, and not with every look
        assert "queue_available_again" in relay.log


@pytest.mark.xdist_group("faults")
def test_a_redis_that_refuses_or_hangs_neither_ends_the_relay_nor_blocks_it_for_ever(
    run: Run, database: Database, own_valkey: EmbeddedValkey, postgres_url: str
) -> None:
    """Out of memory, then stopped with SIGSTOP; also a stop is heard within ten seconds."""
    queue = Queue(own_valkey.url)
    with ServiceProcess("api.relay", database=postgres_url, redis=own_valkey.url) as relay:
        run(place(later(days=0)))
        wait_until(lambda: run(_apply(queue)) == 1, "applied")

        queue.client.config_set("maxmemory", "1")
        run(place(later(days=1)))
        wait_until(lambda: "queue_unavailable" in relay.log, "Redis refuses to store")
        queue.client.config_set("maxmemory", "0")
        wait_until(lambda: run(_apply(queue)) == 2, "applied")

        assert own_valkey.process is not None
        os.kill(own_valkey.process.pid, signal.SIGSTOP)
        try:
            before = time.monotonic()
            for day in (2, 3):
                run(place(later(days=day)))
                wait_until(partial(is_assigned, database, day + 1), "assigned while Redis hangs")
            print(f"twice assigned while Redis hung: {time.monotonic() - before:.1f} s")
            before = time.monotonic()
            relay.stop()
            print(f"stopped while Redis hung: {time.monotonic() - before:.1f} s")
        finally:
            os.kill(own_valkey.process.pid, signal.SIGCONT)
        relay.start()
        wait_until(lambda: run(_apply(queue)) == 4, "applied")
        assert database.wrong_summaries() == []


@pytest.mark.xdist_group("faults")
def test_a_standby_relay_takes_over_when_the_leading_one_is_killed(
    run: Run, database: Database, redis_url: str, queue: Queue, postgres_url: str
) -> None:
    """One leads, and the next one begins as soon as it is gone."""
    with ExitStack() as processes:

        def start_relay() -> ServiceProcess:
            process = ServiceProcess("api.relay", database=postgres_url, redis=redis_url)
            return processes.enter_context(process)

        leading = start_relay()
        wait_until(lambda: "leading" in leading.log, "the first one leads")
        standby = start_relay()
        wait_until(lambda: "started" in standby.log, "the second one is there")
        run(place(later(days=0)))
        wait_until(lambda: run(_apply(queue)) == 1, "applied")
        assert "leading" not in standby.log

        leading.kill()
        run(place(later(days=1)))
        wait_until(lambda: run(_apply(queue)) == 2, "applied after the take-over")
        assert "leading" in standby.log
        assert database.wrong_summaries() == []


async def _apply(queue: Queue) -> int:
    """Do the worker's work on what waits; return the position reached."""
    for batch in queue.taken():
        await apply_changes(batch)
    return await applied()
