"""A reader in a loop during writes, kills, rebuilds and proofs: every answer is right for its position."""

from __future__ import annotations

import json
import time
from datetime import datetime
from decimal import Decimal
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from tests.builders import later
from tests.fee_summary_model import CountedOrder, Query, report, shown_figures, shown_row
from tests.fee_summary_steps import pages
from tests.processes import call_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.drivers import Database, Pipeline

SECONDS = 2.0
TWO_KILLS = 80
"""Writes until the worker was killed twice."""

QUERIES = (Query(by=("service",)), Query(group_by="month", by=("calendar",)), Query(group_by="year"))


def states_of_log(database: Database) -> list[dict[int, CountedOrder]]:
    """Fold the change log: the orders after each position."""
    states: list[dict[int, CountedOrder]] = [{}]
    for change in database.rows("SELECT order_id, order_state FROM order_change ORDER BY position"):
        state = {order_id: order for order_id, order in states[-1].items() if order_id != change["order_id"]}
        if change["order_state"] is not None:
            order = json.loads(change["order_state"], parse_float=Decimal)
            state[change["order_id"]] = CountedOrder(
                change["order_id"],
                datetime.fromisoformat(order["datetime"]),
                order["totalfee"],
                tuple(int(service["id"]) for service in order["services"]),
                order["calendar"],
            )
        states.append(state)
    return states


def write_for_a_while(pipeline: Pipeline, enough: Callable[[], bool]) -> int:
    """Create, change and delete orders, and kill the worker now and then; return the number of writes."""
    orders: list[dict[str, Any]] = []
    until = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < until or number < TWO_KILLS or not enough():
        number += 1
        match number % 5:
            case 0 if orders:
                pipeline.api.client.delete(f"/orders/{orders.pop(0)['id']}")
            case 1 if orders:
                pipeline.api.client.patch(f"/orders/{orders[-1]['id']}", json={"totalfee": number})
            case _:
                services = ((123,), (123, 456), (123, 456, 789))[number % 3]
                at, calendar = later(hours=3 * number), "ab"[number % 2]
                fee = number + 0.01
                orders.append(pipeline.api.placed_order(at=at, fee=fee, services=services, calendar=calendar))
        if number % (TWO_KILLS // 2) == 0:
            pipeline.worker.kill()
            pipeline.worker.start()
        time.sleep(0.005)
    return number


def check_answers(answers: list[tuple[Query, dict[str, Any]]], states: list[dict[int, CountedOrder]]) -> None:
    """Check each answer against the change log up to its position, and that positions never go back."""
    positions = [page["as_of"]["position"] for _, page in answers]
    assert positions == sorted(positions)
    assert len(set(positions)) > 3
    for query, page in answers:
        rows, totals = report(states[page["as_of"]["position"]].values(), query)
        assert shown_figures(page["totals"]) == totals
        for item in page["items"]:
            assert shown_figures(item) == rows[shown_row(item)]


def test_a_reader_of_summaries_never_sees_a_total_that_is_wrong_for_its_position(pipeline: Pipeline) -> None:
    """While orders are written, the worker is killed and the summaries are rebuilt and proved."""
    url = pipeline.database.url
    stop = Event()
    answers: list[tuple[Query, dict[str, Any]]] = []
    rebuilds: list[str] = []
    failed: list[str] = []

    def read() -> None:
        while not stop.is_set():
            for query in QUERIES:
                answers.extend((query, page) for page in pages(pipeline.api, query, limit="100"))
            stop.wait(0.01)

    def rebuild_and_verify() -> None:
        while not stop.is_set():
            for command in ("rebuild", "verify"):
                done = call_command("oms", command, database=url)
                (failed if done.returncode else rebuilds).append(done.stdout + done.stderr)

    threads = [Thread(target=read), Thread(target=rebuild_and_verify)]
    for thread in threads:
        thread.start()
    try:
        # Each of both commands twice: that they succeeded is checked below.
        writes = write_for_a_while(pipeline, lambda: len(rebuilds) + len(failed) >= 4)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []
    position = pipeline.wait_until_summed()
    states = states_of_log(pipeline.database)
    assert len(states) == position + 1

    check_answers(answers, states)
    assert writes > len(states) / 2
    assert call_command("oms", "verify", "summaries", database=url).returncode == 0
