"""Rebuilding the fee summaries while orders are written, summed and read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from api.relay.retention import trim_log
from shared.database.statements import execute
from shared.progress import Progress
from tests.builders import later
from tests.fee_summary_history import History
from tests.fee_summary_steps import differences
from tests.processes import call_command
from tests.steps import apply_every_change, place
from worker.fee_summaries.consumer import ChangesDeletedError, Generation, add_logged_changes
from worker.fee_summaries.rebuild import RebuildSupersededError, _begin_generation, _swap_if_close, rebuild

if TYPE_CHECKING:
    from tests.drivers import Database

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


def test_a_rebuild_includes_changes_made_while_it_runs(
    run: Run, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orders are written and summed all the time."""
    # In small steps, so that every path is taken with a short history.
    monkeypatch.setattr("worker.fee_summaries.rebuild.FEW_CHANGES", 2)
    monkeypatch.setattr("worker.fee_summaries.rebuild.ADDED_AT_ONCE", 3)
    monkeypatch.setattr("worker.fee_summaries.rebuild.REMOVED_AT_ONCE", 4)
    history = History(33)
    run(history.write(30))
    run(apply_every_change())
    run(history.write(3))

    added: list[int] = []

    async def noting(new: Generation, after: int, last: int) -> None:
        added.append(last - after)
        await add_logged_changes(new, after, last)

    monkeypatch.setattr("worker.fee_summaries.rebuild.add_logged_changes", noting)

    async def rebuild_with_writes() -> None:
        writing = True

        async def write() -> None:
            while writing:
                await history.write(5)
                await apply_every_change(at_once=4)

        writer = asyncio.create_task(write())
        # Until something was summed between a rebuild's snapshot and its end, or the writer failed.
        while not any(added) and not writer.done():
            await rebuild()
        writing = False
        await writer

    run(rebuild_with_writes())
    assert differences(run) == []
    assert database.wrong_summaries() == []
    assert database.value("SELECT count(DISTINCT generation) FROM fee_summary") == 1


def test_a_rebuild_ends_without_effect_when_another_began_later(run: Run, database: Database) -> None:
    """Rows that another one may have removed never become the current ones."""
    for day in range(3):
        run(place(later(days=day)))
    position = run(apply_every_change())
    earlier = run(_begin_generation())
    # Some of its rows are written when the other begins, which removes them.
    partial = """
        INSERT INTO fee_summary (generation, day, calendar_id, service_id, share, orders)
        SELECT $1, day, calendar_id, service_id, share, orders FROM fee_summary LIMIT 2
    """
    database.rows(partial, earlier.number)
    assert run(_begin_generation()).number == earlier.number + 1
    assert database.value("SELECT count(DISTINCT generation) FROM fee_summary") == 1
    database.rows(partial, earlier.number)
    with pytest.raises(RebuildSupersededError):
        run(_swap_if_close(earlier, position))
    assert differences(run) == []
    # What a killed one left is removed by the next.
    run(rebuild())
    assert database.value("SELECT count(DISTINCT generation) FROM fee_summary") == 1
    assert database.value("SELECT generation FROM fee_summary_state") == earlier.number + 2
    with pytest.raises(RebuildSupersededError):
        run(_swap_if_close(earlier, position))
    assert differences(run) == []


def test_a_rebuild_whose_remaining_changes_were_removed_changes_nothing(run: Run, database: Database) -> None:
    """Without them its figures would be wrong, unnoticed."""
    run(place())
    run(apply_every_change())

    async def rebuild_slowly() -> None:
        new = await _begin_generation()
        await place(later(days=1))
        await apply_every_change()
        await age_and_trim()
        await _swap_if_close(new, 0)

    async def age_and_trim() -> None:
        await execute("UPDATE order_change SET recorded_at = recorded_at - interval '91 days'")
        assert await trim_log() == 2

    with pytest.raises(ChangesDeletedError):
        run(rebuild_slowly())
    assert differences(run) == []
    assert database.wrong_summaries() == []


def test_a_rebuild_that_another_one_replaced_leaves_no_rows_behind(
    run: Run, database: Database, postgres_url: str
) -> None:
    """The other finished while the first still counted; nothing else would remove the first one's rows."""
    run(place())
    run(apply_every_change())
    others: list[int] = []

    def take_over(_progress: Progress) -> None:
        if not others:
            # In a thread, as this one is within an event loop, which waits here.
            with ThreadPoolExecutor(1) as thread:
                done = thread.submit(call_command, "oms", "rebuild", database=postgres_url)
                others.append(done.result().returncode)

    with pytest.raises(RebuildSupersededError):
        run(rebuild(take_over))
    assert others == [0]
    assert database.value("SELECT count(DISTINCT generation) FROM fee_summary") == 1
    assert differences(run) == []
