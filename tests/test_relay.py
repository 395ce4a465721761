"""The relay: positions for what is committed, and batches in order, within a window, from the cursor on."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from api.relay.main import Relay
from api.relay.publisher import EMPTY_QUEUE_SECONDS, WITHOUT_WEBHOOKS_SECONDS
from shared.change_log import FEE_SUMMARIES, WEBHOOK_DELIVERIES, move_cursor
from shared.database.transaction import transaction
from shared.task_queue import APPLY_TO_FEE_SUMMARIES, APPLY_TO_WEBHOOK_DELIVERIES
from tests.builders import later
from tests.steps import applied, apply_every_change, place
from worker.fee_summaries.consumer import apply_changes

if TYPE_CHECKING:
    from tests.drivers import Database
    from tests.task_queue import Queue

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(autouse=True)
def _one_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishing is the same for every consumer: these tests use one."""
    monkeypatch.setattr("api.relay.publisher.CONSUMERS", {FEE_SUMMARIES: APPLY_TO_FEE_SUMMARIES})


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


def place_many(database: Database, count: int) -> None:
    """Place orders with plain SQL, three hours apart."""
    database.rows("INSERT INTO calendar (name) VALUES ('default') ON CONFLICT DO NOTHING")
    database.rows(
        """
        INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
        SELECT at, 10, '{123}', '{Inspection}', (SELECT id FROM calendar)
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
    """Move the fee summaries' cursor, as a restore of the database does."""
    async with transaction():
        await move_cursor(FEE_SUMMARIES, position)


def test_changes_get_positions_and_are_published_in_order(
    run: Run, queue: Queue, setting: Callable[..., None]
) -> None:
    """In messages, each of which continues the one before it, and carries no order."""
    setting(relay_batch=2)
    relay = Relay()
    for day in range(5):
        run(place(later(days=day)))
    assert run(relay.relay_once()) == 10  # each was assigned, and published
    assert run(relay.relay_once()) == 0
    assert queue.positions() == [2, 4, 5]
    run(place(later(days=9)))
    run(relay.relay_once())
    assert queue.positions() == [2, 4, 5, 6]
    assert [run(apply_changes(position)) for position in queue.taken()] == [2, 2, 1, 1]


def test_a_stopped_worker_cannot_make_the_queue_fill_redis(
    run: Run, queue: Queue, database: Database, setting: Callable[..., None]
) -> None:
    """1,000 changes wait, and Redis holds two windows at most, however often they are published again."""
    setting(relay_batch=10, relay_window=50, republish_after=0.05)
    place_many(database, 1_000)
    relay = Relay()
    longest = 0
    for _ in range(40):
        run(relay.relay_once())
        longest = max(longest, len(queue))
        time.sleep(0.02)
    print(f"at most {longest} messages waited")
    # The window is five messages. It is published again while the cursor does not move, but not endlessly.
    assert 5 <= longest <= 10
    assert database.value("SELECT last_position FROM change_log") == 1_000

    deadline = time.monotonic() + 20
    while run(applied()) < 1_000 and time.monotonic() < deadline:
        for position in queue.taken():
            run(apply_changes(position))
        run(relay.relay_once())
        assert len(queue) <= 10
    assert run(applied()) == 1_000
    assert database.wrong_summaries() == []


def test_changes_published_one_at_a_time_cannot_fill_redis(
    run: Run, queue: Queue, setting: Callable[..., None]
) -> None:
    """The window counts changes; the queue is also limited in messages."""
    setting(relay_batch=10, relay_window=50, republish_after=0.05)
    relay = Relay()
    for day in range(60):
        run(place(later(days=day)))
        run(relay.relay_once())
    assert len(queue) <= 10


def test_lost_batches_are_published_again_when_the_cursor_does_not_move(
    run: Run, queue: Queue, database: Database, setting: Callable[..., None]
) -> None:
    """And not once more when they have arrived."""
    setting(republish_after=60)
    relay = Relay()
    for day in range(3):
        run(place(later(days=day)))
    run(relay_all(relay))
    assert run(relay.relay_once()) == 0
    assert len(queue.taken()) == 1  # lost: no worker applies them
    setting(republish_after=0.01)
    time.sleep(0.02)
    assert run(relay.relay_once()) == 3
    (again,) = queue.taken()
    assert run(apply_changes(again)) == 3
    time.sleep(0.02)
    assert run(relay.relay_once()) == 0
    assert len(queue) == 0
    assert database.wrong_summaries() == []


def test_batches_are_published_again_sooner_when_nothing_waits_in_the_queue(
    run: Run, queue: Queue, setting: Callable[..., None]
) -> None:
    """Redis was wiped, or a child was killed with its batch; each further time after a longer pause."""
    setting(republish_after=60)
    relay = Relay()
    run(place(later(days=0)))
    run(relay_all(relay))
    time.sleep(EMPTY_QUEUE_SECONDS + 0.1)
    assert run(relay.relay_once()) == 0  # it still waits for the worker
    queue.taken()
    assert run(relay.relay_once()) == 1
    queue.taken()
    begun = time.monotonic()
    while run(relay.relay_once()) == 0:
        time.sleep(0.05)
    assert time.monotonic() - begun > 1.5 * EMPTY_QUEUE_SECONDS


def test_changes_are_published_again_at_once_when_the_cursor_goes_back(run: Run, queue: Queue) -> None:
    """The database was restored, or the summaries are being rebuilt."""
    relay = Relay()
    for day in range(4):
        run(place(later(days=day)))
    run(relay_all(relay))
    for position in queue.taken():
        run(apply_changes(position))
    run(relay_all(relay))
    assert len(queue) == 0
    run(put_cursor(1))
    assert run(relay_all(relay)) == 3
    assert queue.positions() == [4]


def test_a_new_relay_publishes_from_the_cursor_onwards(run: Run, queue: Queue) -> None:
    """What the previous one had published is only remembered, not stored."""
    for day in range(4):
        run(place(later(days=day)))
    run(relay_all(Relay()))
    queue.taken()
    run(put_cursor(3))
    run(relay_all(Relay()))
    assert queue.positions() == [4]


def test_a_relay_skips_changes_that_were_applied_meanwhile(run: Run, queue: Queue) -> None:
    """Through batches that another relay published."""
    relay = Relay()
    run(place(later(days=0)))
    run(relay_all(relay))
    queue.taken()
    run(place(later(days=1)))
    assert run(apply_every_change()) == 2
    run(place(later(days=2)))
    run(relay_all(relay))
    assert queue.positions() == [3]


@pytest.fixture
def _only_deliveries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.relay.publisher.CONSUMERS", {WEBHOOK_DELIVERIES: APPLY_TO_WEBHOOK_DELIVERIES})


@pytest.mark.usefixtures("_only_deliveries")
def test_without_webhooks_their_consumer_gets_few_messages_and_misses_no_change(
    run: Run, queue: Queue, setting: Callable[..., None]
) -> None:
    """What is left waits for a moment; a whole batch does not."""
    setting(relay_batch=3)
    relay = Relay()
    run(place(later(days=0)))
    assert run(relay.relay_once()) == 2  # assigned and published
    for day in (1, 2):
        run(place(later(days=day)))
    assert run(relay.relay_once()) == 2  # assigned
    assert len(queue) == 1
    run(place(later(days=3)))
    assert run(relay.relay_once()) == 1 + 3
    run(place(later(days=4)))
    assert run(relay.relay_once()) == 1
    time.sleep(WITHOUT_WEBHOOKS_SECONDS)
    assert run(relay.relay_once()) == 1
    assert len(queue) == 3


@pytest.mark.usefixtures("_only_deliveries")
def test_with_a_webhook_its_deliveries_are_published_at_once(
    run: Run, queue: Queue, database: Database
) -> None:
    """The first change after the webhook was created, too."""
    relay = Relay()
    run(place(later(days=0)))
    run(relay.relay_once())
    database.rows(
        "INSERT INTO webhook (url, types, calendars, description, starts_after) "
        "VALUES ('', '{}', '{}', '', 0)"
    )
    for day in (1, 2):
        run(place(later(days=day)))
        assert run(relay.relay_once()) == 2
    assert len(queue) == 3
