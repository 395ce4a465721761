"""Fee summaries: every change counted exactly once, whatever the queue does to the messages."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import redis
from celery import Celery

from api.orders.bodies import OrderPatch
from api.orders.updates import delete_order, update_order
from shared.change_log import FEE_SUMMARIES, lock_cursor
from shared.database.statements import execute, fetch_value, fetch_values
from shared.database.transaction import transaction
from shared.task_queue import APPLY_TO_FEE_SUMMARIES, APPLY_TO_WEBHOOK_DELIVERIES, CONSUMER_QUEUE
from tests.builders import later
from tests.drivers import WAITING_FOR_LOCKS, wait_until
from tests.model import fee_shares
from tests.processes import ServiceProcess
from tests.steps import ANYONE, applied, apply_every_change, assign_all, place
from worker.batches import apply_up_to
from worker.fee_summaries.consumer import _ADD_CHANGES, _add_batch, _use_indexes, apply_changes

if TYPE_CHECKING:
    from tests.drivers import Database

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


async def six_changes() -> tuple[int, int, int]:
    """Make six changes: creates, an update with a move, a deletion; return three positions to apply up to."""
    orders = [
        await place(later(days=day), fee="100.01", services=(123, 456, 789), calendar=calendar)
        for day, calendar in ((0, "a"), (1, "a"), (2, "b"))
    ]
    moved = {"datetime": later(days=5).isoformat(), "calendar": "b", "totalfee": Decimal("0.05")}
    await update_order(orders[0], OrderPatch.model_validate(moved, strict=True), ANYONE)
    await delete_order(orders[1], ANYONE)
    await update_order(orders[2], OrderPatch.model_validate({"services": [{"id": 789}]}, strict=True), ANYONE)
    assert await assign_all() == 6
    return 2, 4, 6


def test_a_message_that_is_delivered_twice_is_counted_once(run: Run, database: Database) -> None:
    """The queue delivers at least once."""
    positions = run(six_changes())
    assert [run(apply_changes(position)) for position in positions] == [2, 2, 2]
    before = database.rows("SELECT * FROM fee_summary ORDER BY id")
    assert [run(apply_changes(position)) for position in positions] == [0, 0, 0]
    assert database.rows("SELECT * FROM fee_summary ORDER BY id") == before
    assert database.wrong_summaries() == []


def test_changes_are_applied_from_the_cursor_on_whatever_was_announced_before(
    run: Run, database: Database
) -> None:
    """They were published again in other portions."""
    run(six_changes())
    assert [run(apply_changes(position)) for position in (3, 2, 5, 6)] == [3, 0, 2, 1]
    assert database.wrong_summaries() == []


def test_a_message_makes_up_for_those_before_it_that_were_lost(run: Run, database: Database) -> None:
    """Nothing is left out, and those that are only late have no effect."""
    first, second, third = run(six_changes())
    assert run(apply_changes(third)) == 6
    assert [run(apply_changes(late)) for late in (first, second)] == [0, 0]
    assert database.wrong_summaries() == []


def test_one_transaction_applies_one_batch_however_many_changes_wait(
    run: Run, database: Database, setting: Callable[..., None]
) -> None:
    """And one message, as many batches as there are."""
    setting(relay_batch=4)
    run(six_changes())
    assert [run(apply_changes(10**18)) for _ in range(3)] == [4, 2, 0]
    for day in range(40, 46):
        run(place(later(days=day)))
    run(assign_all())
    assert run(apply_up_to(10**18, apply_changes)) == 6
    assert run(applied()) == 12
    assert database.wrong_summaries() == []


@pytest.mark.parametrize("forged", [-1, -(10**18), 0, 7, 2**63, 10**18, 10**400])
def test_a_message_can_only_apply_what_this_log_has(run: Run, database: Database, forged: int) -> None:
    """It was forged, or the database was replaced and the queue has positions of the previous one."""
    run(six_changes())
    expected = 6 if forged > 6 else 0
    assert run(apply_changes(forged)) == expected
    assert run(apply_changes(forged)) == 0
    assert run(applied()) == expected
    assert run(apply_every_change()) == 6
    assert database.wrong_summaries() == []


def test_no_position_is_applied_before_its_assignment_is_committed(
    run: Run, database: Database, postgres_url: str
) -> None:
    """Nor skipped: a message may announce it too early."""

    async def announce_too_early() -> list[int]:
        await six_changes()
        await place(later(days=30))
        other = await asyncpg.connect(postgres_url)
        try:
            async with other.transaction():
                await other.execute("UPDATE change_log SET last_position = 7")
                await other.execute("UPDATE order_change SET position = 7 WHERE position IS NULL")
                early = [await apply_changes(last) for last in (7, 10**18)]
        finally:
            await other.close()
        return [*early, await apply_changes(7)]

    assert run(announce_too_early()) == [6, 0, 1]
    assert run(applied()) == 7
    assert database.wrong_summaries() == []


def test_messages_that_are_no_position_are_dropped_and_change_nothing(
    run: Run, database: Database, postgres_url: str, redis_url: str
) -> None:
    """Anyone who can write to Redis can send them. Among them is one with a notification of its own."""
    run(six_changes())
    order = {
        "calendar": "a",
        "datetime": "2030-01-01T00:00:00Z",
        "totalfee": 1e6,
        "services": [{"id": "123"}],
    }
    notification = json.dumps([{"sequence": "7", "data": {"order": order, "previous": None}}])
    unreadable: list[tuple[object, ...]] = [
        (1, 7, "019abf8e-6f0c-7f3a-9d2b-5b1f0e6c2a11", notification),
        (),
        (None,),
        ("6",),
        (6.0,),
        ([6],),
        ({"last": 6},),
        (1, 6),
        ("x" * 100_000,),
    ]
    with redis.Redis.from_url(redis_url) as queue, Celery(broker=redis_url) as client:
        queue.flushdb()
        with ServiceProcess("worker.main", database=postgres_url, redis=redis_url) as worker:
            for task in (APPLY_TO_FEE_SUMMARIES, APPLY_TO_WEBHOOK_DELIVERIES):
                for arguments in unreadable:
                    client.send_task(task, arguments, queue=CONSUMER_QUEUE)
                client.send_task(task, (), {"last": 6}, queue=CONSUMER_QUEUE)
            dropped = 2 * (len(unreadable) + 1)
            wait_until(lambda: worker.log.count("message_dropped") == dropped, "all are dropped")
            assert len(worker.log) < 500 * dropped
            assert run(applied()) == 0
            client.send_task(APPLY_TO_FEE_SUMMARIES, (10**18,), queue=CONSUMER_QUEUE)
            wait_until(lambda: run(applied()) == 6, "the changes are applied")
    assert database.wrong_summaries() == []


def test_a_worker_that_dies_in_a_batch_writes_neither_rows_nor_cursor(
    run: Run, database: Database, postgres_url: str
) -> None:
    """Its session ends while its rows are being written."""
    first, second, _ = run(six_changes())
    run(apply_changes(first))
    before = database.rows("SELECT * FROM fee_summary ORDER BY id")

    async def killed_before_its_commit() -> None:
        # Its last step, moving the cursor, waits for a lock; then its session ends.
        blocker = await asyncpg.connect(postgres_url)
        try:
            async with blocker.transaction():
                await blocker.execute("LOCK TABLE fee_summary IN SHARE MODE")
                working = asyncio.create_task(apply_changes(second))
                while not await blocker.fetchval(f"SELECT count(*) {WAITING_FOR_LOCKS}"):
                    assert not working.done()
                    await asyncio.sleep(0.01)
                await blocker.execute(f"SELECT pg_terminate_backend(pid) {WAITING_FOR_LOCKS}")
                with pytest.raises(Exception, match=r"(?i)terminat|closed|connection"):
                    await working
        finally:
            await blocker.close()

    run(killed_before_its_commit())
    assert run(applied()) == 2
    assert database.rows("SELECT * FROM fee_summary ORDER BY id") == before
    assert run(apply_every_change()) == 6
    assert database.wrong_summaries() == []


def test_a_batch_that_fails_halfway_writes_neither_rows_nor_cursor(run: Run, database: Database) -> None:
    """Some of its rows could be written, one could not."""
    first, second, _ = run(six_changes())
    run(apply_changes(first))
    before = database.rows("SELECT * FROM fee_summary ORDER BY id")
    database.rows("ALTER TABLE fee_summary ADD CONSTRAINT broken CHECK (calendar_id < 2) NOT VALID")
    try:
        with pytest.raises(asyncpg.CheckViolationError):
            run(apply_changes(second))
    finally:
        database.rows("ALTER TABLE fee_summary DROP CONSTRAINT broken")
    assert run(applied()) == 2
    assert database.rows("SELECT * FROM fee_summary ORDER BY id") == before


def test_concurrent_batches_are_applied_one_after_the_other(run: Run, database: Database) -> None:
    """Six concurrent deliveries of three messages: the lock on the cursor serialises them."""
    positions = run(six_changes())

    async def at_once() -> int:
        return sum(await asyncio.gather(*(apply_changes(position) for position in [*positions, *positions])))

    assert run(at_once()) == 6
    assert database.wrong_summaries() == []


@pytest.mark.parametrize("seed", [11, 12, 13, 14])
def test_summaries_become_exact_although_messages_are_reordered_repeated_or_lost(
    run: Run, database: Database, seed: int
) -> None:
    """As long as they are published again from the cursor on."""
    print(f"seed {seed}")
    rng = random.Random(seed)

    async def write() -> None:
        orders: list[int] = []
        for number in range(60):
            what = rng.random()
            if what < 0.6 or not orders:
                calendar, fee = rng.choice("abc"), Decimal(rng.randrange(10_000)) / 100
                services = rng.sample((123, 456, 789), rng.randint(1, 3))
                at = later(hours=5 * number)
                orders.append(await place(at, fee=str(fee), services=tuple(services), calendar=calendar))
            elif what < 0.85:
                change = {"totalfee": rng.randrange(100), "datetime": later(hours=-5 * number).isoformat()}
                await update_order(rng.choice(orders), OrderPatch.model_validate(change, strict=True), ANYONE)
            else:
                await delete_order(orders.pop(rng.randrange(len(orders))), ANYONE)
        await assign_all()

    async def deliver_badly() -> int:
        """Publish from the cursor, again and again; lose, repeat and shuffle what was published."""
        waiting: list[int] = []
        rounds = 0
        while await applied() < 60:
            rounds += 1
            position = await applied()
            while position < 60:
                position = min(60, position + rng.randint(1, 9))
                waiting += [position] * rng.choice((0, 1, 1, 1, 2, 3))
            rng.shuffle(waiting)
            for _ in range(rng.randint(0, len(waiting))):
                await apply_changes(waiting.pop())
        for late in waiting:
            assert await apply_changes(late) == 0
        return rounds

    run(write())
    print(f"published {run(deliver_badly())} times")
    assert database.wrong_summaries() == []


def test_shares_of_a_fee_are_equal_to_the_cent_and_the_first_services_get_the_odd_cents(
    database: Database,
) -> None:
    """PostgreSQL's division against the model's, which distributes single cents."""
    seed = 7
    print(f"seed {seed}")
    rng = random.Random(seed)
    cases = [(0, 1), (1, 2), (1, 50), (99, 50), (10_001, 3), (999_999_999_999, 1), (999_999_999_999, 7)]
    cases += [(rng.randrange(10 ** rng.randint(1, 12)), rng.randint(1, 50)) for _ in range(400)]
    for cents, count in cases:
        fee = Decimal(cents) / 100
        ids = sorted(rng.sample(range(1, 10**12), count))
        whole, *shares = [
            (row["service_id"], row["share"])
            for row in database.rows("SELECT * FROM fee_shares($1, $2) ORDER BY service_id", fee, ids)
        ]
        amounts = [share for _, share in shares]
        assert whole == (0, fee)
        assert sum(amounts) == fee
        assert amounts == sorted(amounts, reverse=True)
        assert max(amounts) - min(amounts) <= Decimal("0.01")
        assert dict(shares) == fee_shares(fee, ids), (fee, count)


def test_a_batch_reads_only_the_summary_rows_that_it_changes(run: Run, database: Database) -> None:
    """And no calendar, so the cost of a change grows neither with the history nor with the calendars."""
    run(six_changes())
    database.rows(
        """
        INSERT INTO fee_summary (generation, day, calendar_id, service_id, share, orders)
        SELECT generation, date '2035-01-01' + n / 100, 1, n % 10, n / 100.0, 1
        FROM fee_summary_state, generate_series(1, 50000) AS n
        """
    )
    database.rows("ANALYZE fee_summary")

    async def rows_read_in_passing() -> int:
        # Includes reads of earlier transactions of this connection that PostgreSQL has not reported yet.
        return await fetch_value(
            int,
            "SELECT sum(seq_tup_read + CASE relname WHEN 'calendar' THEN idx_tup_fetch ELSE 0 END)::bigint "
            "FROM pg_stat_xact_user_tables WHERE relname IN ('fee_summary', 'calendar')",
        )

    async def sum_up_and_count() -> int:
        async with transaction():
            before = await rows_read_in_passing()
            await _add_batch(0, 6)
            return await rows_read_in_passing() - before

    try:
        read = run(sum_up_and_count())
    finally:
        database.rows("TRUNCATE fee_summary")
        database.rows("ANALYZE fee_summary")
    assert read == 0


def test_a_plan_that_was_made_for_no_summaries_looks_each_row_up_in_the_index(
    run: Run, database: Database
) -> None:
    """It is kept, and would otherwise compare each row of a batch with every row that there is since."""
    database.rows("VACUUM ANALYZE fee_summary")

    async def plan() -> list[str]:
        async with transaction():
            await _use_indexes()
            await execute(f"PREPARE kept (text, int, bigint, bigint) AS {_ADD_CHANGES}")
            lines = await fetch_values(str, "EXPLAIN EXECUTE kept ('UTC', 1, 0, 500)")
            await execute("DEALLOCATE kept")
            return lines

    lines = run(plan())
    found = next(number for number, line in enumerate(lines) if "Index Scan using fee_summary_key" in line)
    assert "(share = delta.share)" in lines[found + 1], "\n".join(lines)


def test_the_cursor_is_locked_until_the_batch_is_committed(run: Run, postgres_url: str) -> None:
    """No other session can move it meanwhile."""
    first, _, _ = run(six_changes())

    async def second_waits_for_first() -> None:
        async with transaction():
            assert await lock_cursor(FEE_SUMMARIES) == 0
            other = await asyncpg.connect(postgres_url)
            try:
                with pytest.raises(asyncpg.LockNotAvailableError):
                    await other.fetch("SELECT FROM consumer_cursor FOR UPDATE NOWAIT")
            finally:
                await other.close()
        assert await apply_changes(first) == 2

    run(second_waits_for_first())
