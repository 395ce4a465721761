"""Proving the fee summaries: every wrong row is named, with its orders."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery

from api.relay.main import Relay
from shared.progress import ProgressLine
from shared.task_queue import APPLY_TO_FEE_SUMMARIES, CONSUMER_QUEUE, PROVE_FEE_SUMMARIES
from tests.builders import later
from tests.drivers import WAITING_FOR_LOCKS, wait_until
from tests.fee_summary_history import History
from tests.fee_summary_steps import differences
from tests.processes import ServiceProcess, call_command, run_on_terminal
from tests.random_rounds import seeds
from tests.steps import applied, apply_every_change, assign_all, place
from worker.fee_summaries.consumer import apply_changes
from worker.fee_summaries.proof import CursorBeyondLog, Difference, prove
from worker.fee_summaries.rebuild import rebuild

if TYPE_CHECKING:
    from tests.drivers import Api, Database, Pipeline

Run = Callable[[Coroutine[Any, Any, Any]], Any]

WAITING = f"SELECT clock_timestamp() - waitstart AS since {WAITING_FOR_LOCKS}"
"""Sessions that wait for a lock in this database."""


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


@contextmanager
def orders_held(database: Database) -> Iterator[None]:
    """Lock the orders against reads: neither proof nor rebuild can continue."""
    database.rows("BEGIN")
    try:
        database.rows("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        database.rows("ROLLBACK")


def many_orders(database: Database, orders: int) -> None:
    """Store one order of 1970 and many within a few months, on one calendar each, without changes."""
    database.rows(
        "INSERT INTO calendar (name) SELECT 'c' || n FROM generate_series(0, 19) AS n ON CONFLICT DO NOTHING"
    )
    # Without triggers, so that there are no changes to sum; nor texts, which nobody reads here.
    database.rows("SET session_replication_role = replica")
    database.rows(
        """
        INSERT INTO orders (
            datetime, clear_until, totalfee, service_ids, service_names, calendar_id, rendered,
            created_at, updated_at
        )
        SELECT
            at, at + interval '3 hours', abs(n) % 1000 / 100.0, ARRAY[123, 456], ARRAY['a', 'b'], c.id,
            'null', at, at
        FROM (
            SELECT
                n, 'c' || (n % 20) AS name,
                CASE WHEN n < 0 THEN timestamptz '1970-01-02Z' ELSE
                    timestamptz '2030-01-01Z' + (n / 20) * interval '4 hours' END AS at
            FROM generate_series(-1, $1::int - 1) AS n
        ) AS o JOIN calendar AS c ON c.name = replace(o.name, '-', '')
        """,
        orders,
    )
    database.rows("SET session_replication_role = DEFAULT")


@pytest.mark.parametrize("seed", seeds(31))
def test_at_every_position_the_summaries_are_proved_equal_to_the_orders(run: Run, seed: int) -> None:
    """While changes wait, some with a position, some without."""
    history = History(seed)
    for number in range(40):
        run(history.write(history.rng.randint(1, 3)))
        if number % 3:
            run(assign_all())
        # Summed in part: some changes have a position and are not applied, others have no position.
        run(apply_changes(run(applied()) + history.rng.randint(1, 6)))
        proof = run(prove())
        assert (proof.differing, proof.position) == (0, run(applied()))
        assert proof.orders == len(history.states[proof.position])


@pytest.mark.parametrize(
    ("corruption", "wrong"),
    [
        ("UPDATE fee_summary SET orders = orders + 1 WHERE service_id = 0 AND day = '2030-06-02'", 1),
        ("UPDATE fee_summary SET share = share + 0.01 WHERE service_id = 456 AND day = '2030-06-02'", 2),
        ("DELETE FROM fee_summary WHERE day = '2030-06-03'", 3),
        ("UPDATE fee_summary SET day = '1970-01-01' WHERE day = '2030-06-02' AND service_id = 123", 2),
        ("UPDATE fee_summary SET day = '2199-12-31' WHERE day = '2030-06-02' AND service_id = 123", 2),
        (
            """
            INSERT INTO fee_summary (generation, day, calendar_id, service_id, share, orders)
            SELECT generation, '2031-01-01', 999, 5, 1, 1 FROM fee_summary_state
            """,
            1,
        ),
        ("DELETE FROM fee_summary", 9),
    ],
)
def test_a_corrupted_summary_row_is_named_with_its_orders_and_repaired_by_a_rebuild(
    run: Run, api: Api, database: Database, corruption: str, wrong: int
) -> None:
    """A wrong count, share or day, an extra or missing row, or all rows."""
    orders = [run(place(later(days=day), fee="100.01", services=(123, 456))) for day in range(3)]
    run(apply_every_change())
    assert differences(run) == []
    before = api.client.get("/fee-summaries?by=service")
    database.rows(corruption)
    named = differences(run)
    assert len(named) == wrong
    for one in named:
        if one.expected:
            assert one.order_ids == (orders[one.day.day - 1],)
            assert str(one.order_ids[0]) in str(one)
        assert one.kept != one.expected
    assert database.rows("SELECT differing FROM fee_summary_proof") == [{"differing": wrong}]
    rebuilt = run(rebuild())
    assert (rebuilt.position, rebuilt.orders, rebuilt.time_zone) == (3, 3, "UTC")
    assert differences(run) == []
    after = api.client.get("/fee-summaries?by=service", headers={"If-None-Match": before.headers["etag"]})
    assert (after.status_code, after.text) == (200, before.text)
    assert database.wrong_summaries() == []
    assert database.value("SELECT count(DISTINCT generation) FROM fee_summary") == 1
    proof = api.client.get("/fee-summaries/proof").json()
    assert (proof["position"], proof["orders"], proof["differing"]) == (3, 3, 0)


def test_a_wrong_cursor_of_the_summaries_is_detected_and_repaired(
    run: Run, api: Api, database: Database
) -> None:
    """The next changes would be taken for repeats, and never be counted."""
    for day in range(3):
        run(place(later(days=day)))
    run(apply_every_change())
    cursor = "UPDATE consumer_cursor SET position = $1 WHERE consumer = 'fee_summaries'"
    for wrong, position in ((5, 3), (2, 2)):
        database.rows(cursor, wrong)
        reported: list[Difference | CursorBeyondLog] = []
        assert run(prove(report=reported.append)).differing == len(reported)
        if wrong > position:
            assert reported == [CursorBeyondLog(5, 3)]
            assert str(reported[0]) == "the summaries' cursor is at position 5, and the change log ends at 3"
        else:
            assert len(reported) > 1
        assert run(rebuild()).position == position
        assert differences(run) == []
        run(place(later(days=10 + wrong)))
        run(apply_every_change())
        assert differences(run) == []
        database.rows("DELETE FROM orders WHERE datetime = $1", later(days=10 + wrong))
        run(apply_every_change())
    assert api.fee_summaries(group_by="year")["totals"]["orders"] == 3


@pytest.mark.parametrize("work", [prove, rebuild])
def test_a_proof_shows_its_progress_however_orders_are_distributed_over_time(
    run: Run, database: Database, capsys: pytest.CaptureFixture[str], work: Callable[..., Any]
) -> None:
    """One in 1970, then 6,000 within a few months: they are never read all at once."""
    many_orders(database, 6_000)
    run(work(ProgressLine("proof", pause=0, is_shown=True)))
    lines = capsys.readouterr().err.splitlines()
    matches = [
        re.fullmatch(r"proof: ([\d,]+) of 6,001 orders counted, about (\d+) s left", line) for line in lines
    ]
    counted = [int(one[1].replace(",", "")) for one in matches if one]
    assert len(counted) >= 3
    assert counted == sorted(set(counted))
    assert (counted[-1], matches[-1] and matches[-1][2]) == (6_001, "0")


COMMANDS = (("verify", "summaries"), ("rebuild",))


def test_proof_and_rebuild_show_progress_after_one_second_on_a_terminal(
    run: Run, database: Database, postgres_url: str
) -> None:
    """Here a lock on the orders holds them up, and the estimate includes the wait."""
    many_orders(database, 6_000)
    run(rebuild())
    with ThreadPoolExecutor(2) as threads:
        with orders_held(database):
            working = [
                threads.submit(run_on_terminal, *command, database=postgres_url) for command in COMMANDS
            ]
            longer = timedelta(seconds=1.1)
            wait_until(
                lambda: sum(row["since"] > longer for row in database.rows(WAITING) if row["since"]) == 2,
                "both have waited",
            )
        for (name, *_), done in zip(COMMANDS, working, strict=True):
            shown = done.result()
            assert shown.returncode == 0
            first = shown.stderr.splitlines()[0]
            match = re.fullmatch(rf"{name}: ([\d,]+) of 6,001 orders counted, about (\d+) s left", first)
            assert match
            assert 0 < int(match[1].replace(",", "")) < 6_001
            assert int(match[2]) > 0


def test_proof_and_rebuild_report_their_result_and_exit_status(
    run: Run, database: Database, postgres_url: str
) -> None:
    """A proof before and after a rebuild."""
    order_id = run(place(later(days=1)))
    run(apply_every_change())
    database.rows("UPDATE fee_summary SET orders = 2 WHERE service_id = 0")
    row = "2030-06-02 calendar default, whole orders at 100.00:"
    shown = call_command("oms", "verify", "summaries", database=postgres_url)
    assert (shown.returncode, shown.stdout) == (
        1,
        f"{row} the summary counts 2 orders (200.00), there are 1 (100.00): {order_id}\n",
    )
    assert "1 fee summaries do not match the orders" in shown.stderr
    assert "make rebuild" in shown.stderr
    rebuilt = call_command("oms", "rebuild", database=postgres_url)
    assert (rebuilt.returncode, rebuilt.stderr) == (0, "")
    assert "rebuilt from 1 orders, in days of UTC, at position 1" in rebuilt.stdout
    shown = call_command("oms", "verify", "summaries", database=postgres_url)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "every fee summary matches the orders, to the cent: 1 orders at position 1" in shown.stdout


def test_a_proof_or_rebuild_that_could_not_be_done_exits_with_status_2(new_database_url: str) -> None:
    """Status 2 states neither that the summaries are right nor that they are wrong."""
    missing = new_database_url.replace("own_", "no_such_")
    for command, prefix in (
        ("verify", "verify: "),
        ("rebuild", "rebuild: "),
    ):
        shown = call_command("oms", command, database=missing)
        assert shown.returncode == 2, shown.stderr
        assert shown.stderr.splitlines()[-1].startswith(prefix)
        assert "Traceback" not in shown.stderr


def test_the_relay_requests_a_proof_once_a_day(run: Run, database: Database) -> None:
    """And again after an hour if no proof was made."""
    relay = Relay()
    hour, day, tick = timedelta(hours=1), timedelta(days=1), timedelta(minutes=1)
    due = "UPDATE fee_summary_proof SET asked_at = now() - $1::interval, finished_at = now() - $2::interval"
    for asked, finished, is_due in (
        (hour - tick, None, False),
        (hour + tick, None, True),
        (day + hour, day - tick, False),
        (day + hour, day + tick, True),
        (tick, day + tick, False),
    ):
        database.rows(due, asked, finished)
        assert run(relay.request_proof_once()) is is_due
        assert not run(relay.request_proof_once())


def test_a_proof_requested_many_times_runs_once_and_does_not_block_the_consumer(
    run: Run, database: Database, postgres_url: str, redis_url: str
) -> None:
    """A worker that was stopped for days receives one request for each hour; it may have one child."""
    with redis.Redis.from_url(redis_url) as queue, Celery(broker=redis_url) as client:
        queue.flushdb()
        database.rows("UPDATE fee_summary_proof SET asked_at = now(), finished_at = NULL")
        run(place(later(days=1)))
        run(assign_all())
        with ServiceProcess(
            "worker.main", database=postgres_url, redis=redis_url, OMS_WORKER_PROCESSES="1"
        ) as worker:
            with orders_held(database):
                for _ in range(5):
                    client.send_task(PROVE_FEE_SUMMARIES, queue=CONSUMER_QUEUE)
                wait_until(
                    lambda: queue.llen(CONSUMER_QUEUE) == 0 and len(database.rows(WAITING)) > 0,
                    "the proofs have begun",
                )
                client.send_task(APPLY_TO_FEE_SUMMARIES, (1,), queue=CONSUMER_QUEUE)
                wait_until(lambda: run(applied()) == 1, "the change is summed")
            wait_until(lambda: "fee_summaries_proved" in worker.log, "the summaries are proved")
            wait_until(lambda: worker.log.count("proof_not_needed") == 4, "the other requests are handled")
            assert worker.log.count("fee_summaries_proved") == 1


def test_the_worker_runs_a_proof_when_requested(pipeline: Pipeline) -> None:
    """By a task, as the relay sends it."""
    pipeline.database.rows("UPDATE fee_summary_proof SET finished_at = NULL")
    pipeline.api.placed_order(at=later(days=1))
    pipeline.wait_until_summed()
    pipeline.database.rows("UPDATE fee_summary SET orders = 2 WHERE service_id = 0")
    assert pipeline.api.client.get("/fee-summaries/proof").json()["time"] is None
    client = Celery(broker=pipeline.redis_url)
    client.send_task(PROVE_FEE_SUMMARIES, queue=CONSUMER_QUEUE)
    client.close()
    wait_until(
        lambda: pipeline.api.client.get("/fee-summaries/proof").json()["time"] is not None,
        "the summaries are proved",
    )
    proof = pipeline.api.client.get("/fee-summaries/proof").json()
    assert (proof["position"], proof["orders"], proof["differing"]) == (1, 1, 1)
    # Differences are in the log: what a task prints is not read.
    wait_until(lambda: "error    ] fee_summaries_proved" in pipeline.worker.log, "the result is logged")
    assert "error    ] fee_summary_differs" in pipeline.worker.log
    assert "whole orders at 100.00: the summary counts 2 orders (200.00), there are 1" in pipeline.worker.log


def test_metrics_show_the_summaries_position_and_the_last_proofs_result(
    run: Run, api: Api, database: Database
) -> None:
    """Before the first proof its metrics are absent."""
    database.rows(
        "UPDATE fee_summary_proof SET finished_at = NULL, differing = NULL, orders = NULL, seconds = NULL"
    )
    run(place(later(days=1)))
    run(place(later(days=2)))
    run(apply_every_change())
    run(place(later(days=3)))
    run(assign_all())

    def gauges() -> dict[str, float]:
        answer = api.client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = [line.split(" ") for line in answer.text.splitlines() if line.startswith("fee_summar")]
        values = {name: float(value) for name, value in lines}
        del values["fee_summaries_waiting_requests"]  # of the process; the tests of waiting check it
        return values

    assert gauges() == {"fee_summaries_position": 2, "fee_summaries_behind_changes": 1}
    database.rows("UPDATE fee_summary SET orders = 7 WHERE day = '2030-06-02' AND service_id = 0")
    run(prove())
    values = gauges()
    assert (values["fee_summary_proof_differing_rows"], values["fee_summary_proof_orders"]) == (1, 2)
    assert 0 <= values["fee_summary_proof_age_seconds"] < 60
