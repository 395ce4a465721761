"""Proving the fee summaries: every row that is wrong is named, with its orders."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from api.relay import Relay
from shared.change_log import changes_after
from shared.changes import batch_of
from shared.task_queue import CONSUMER_QUEUE, PROVE_FEE_SUMMARIES
from tests.builders import later
from tests.drivers import wait_until
from tests.fee_summary_history import History
from tests.fee_summary_steps import command, differences
from tests.steps import applied, apply_every_change, assign_all, place
from worker.fee_summaries import apply_changes
from worker.fee_summary_proof import prove
from worker.fee_summary_rebuild import rebuild

if TYPE_CHECKING:
    from tests.drivers import Api, Database, Pipeline

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


@pytest.mark.parametrize("seed", [31, 32])
def test_at_every_position_the_summaries_are_proved_equal_to_the_orders(run: Run, seed: int) -> None:
    """With changes waiting that have a position, and others that have none."""
    history = History(seed)
    for number in range(40):
        run(history.write(history.chance.randint(1, 3)))
        if number % 3:
            run(assign_all())
        # Summed up to somewhere: some changes have a position and are not applied, others have none.
        position = run(applied())
        changes = run(changes_after(position, history.chance.randint(1, 6)))
        if changes:
            run(apply_changes(batch_of(changes)))
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
def test_a_corrupted_row_is_named_with_its_orders_and_healed_by_a_rebuild(
    run: Run, api: Api, database: Database, corruption: str, wrong: int
) -> None:
    """Whatever is wrong: a count, a share, a day, a row too many or too few, all of it."""
    orders = [run(place(later(days=day), fee="100.01", services=(123, 456))) for day in range(3)]
    run(apply_every_change())
    assert differences(run) == []
    before = api.client.get("/fee-summaries?by=service")
    database.rows(corruption)
    found = differences(run)
    assert len(found) == wrong
    for one in found:
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


def test_the_commands_say_what_they_found_and_did(run: Run, database: Database, postgres_url: str) -> None:
    """By their words and their exit statuses."""
    order_id = run(place(later(days=1)))
    run(apply_every_change())
    database.rows("UPDATE fee_summary SET orders = 2 WHERE service_id = 0")
    row = "2030-06-02 calendar default, whole orders at 100.00:"
    shown = command("worker.fee_summary_proof", postgres_url)
    assert (shown.returncode, shown.stdout) == (
        1,
        f"{row} the summary says 2 orders (200.00), there are 1 (100.00): {order_id}\n",
    )
    assert "1 fee summaries are not what the orders say" in shown.stderr
    assert "make rebuild" in shown.stderr
    rebuilt = command("worker.fee_summary_rebuild", postgres_url)
    assert (rebuilt.returncode, rebuilt.stderr) == (0, "")
    assert "rebuilt from 1 orders, in days of UTC, at position 1" in rebuilt.stdout
    shown = command("worker.fee_summary_proof", postgres_url)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "every fee summary is what the orders say, to the cent: 1 orders at position 1" in shown.stdout


def test_a_proof_that_can_not_be_made_has_a_status_of_its_own(new_database_url: str) -> None:
    """It is neither equal nor different."""
    away = new_database_url.replace("own_", "no_such_")
    for module, said in (
        ("worker.fee_summary_proof", "verify: "),
        ("worker.fee_summary_rebuild", "rebuild: "),
    ):
        shown = command(module, away)
        assert shown.returncode == 2, shown.stderr
        assert shown.stderr.splitlines()[-1].startswith(said)
        assert "Traceback" not in shown.stderr


def test_the_relay_has_the_summaries_proved_once_a_day(run: Run, database: Database) -> None:
    """And again after an hour if nobody did it."""
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
        assert run(relay.ask_for_proof_once()) is is_due
        assert not run(relay.ask_for_proof_once())


@pytest.mark.xdist_group("pipeline")
def test_the_worker_proves_the_summaries_when_it_is_asked(pipeline: Pipeline) -> None:
    """By a task, as the relay asks."""
    pipeline.database.rows("UPDATE fee_summary_proof SET finished_at = NULL")
    pipeline.api.placed_order(at=later(days=1))
    pipeline.wait_until_summed()
    assert pipeline.api.client.get("/fee-summaries/proof").json()["time"] is None
    client = Celery(broker=pipeline.redis_url)
    client.send_task(PROVE_FEE_SUMMARIES, queue=CONSUMER_QUEUE)
    client.close()
    wait_until(
        lambda: pipeline.api.client.get("/fee-summaries/proof").json()["time"] is not None, "it is proved"
    )
    proof = pipeline.api.client.get("/fee-summaries/proof").json()
    assert (proof["position"], proof["orders"], proof["differing"]) == (1, 1, 0)


def test_metrics_tell_where_the_summaries_are_and_what_the_last_proof_found(
    run: Run, api: Api, database: Database
) -> None:
    """Before the first proof there are no figures of one."""
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
        lines = [line.split(" ") for line in answer.text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    assert gauges() == {"fee_summaries_position": 2, "fee_summaries_behind_changes": 1}
    database.rows("UPDATE fee_summary SET orders = 7 WHERE day = '2030-06-02' AND service_id = 0")
    run(prove())
    found = gauges()
    assert (found["fee_summary_proof_differing_rows"], found["fee_summary_proof_orders"]) == (1, 2)
    assert 0 <= found["fee_summary_proof_age_seconds"] < 60
