"""Removal of old changes: only the oldest, and only those that every consumer has applied."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from api.relay.retention import trim_log
from shared.change_log import assign_positions
from shared.settings import SettingsError, settings
from tests.builders import later
from tests.steps import apply_every_change, assign_all, place, whole_log

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.drivers import Database

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


def age(database: Database, *positions: int, days: int = 91) -> None:
    """Change when changes were recorded."""
    database.rows(
        "UPDATE order_change SET recorded_at = recorded_at - $2::interval WHERE position = ANY($1)",
        list(positions),
        timedelta(days=days),
    )


def first_position(database: Database) -> int:
    """Return the first position of the log."""
    return int(database.value("SELECT first_position FROM change_log"))


def positions(run: Run) -> list[int]:
    """List the positions that are retained."""
    return [change.position for change in run(whole_log())]


def place_days(run: Run, *days: int) -> None:
    """Place an order for each day, and apply the changes."""
    for day in days:
        run(place(later(days=day)))
    run(apply_every_change())


def test_only_the_oldest_changes_are_removed_and_the_change_log_stays_dense(
    run: Run, database: Database
) -> None:
    place_days(run, *range(6))
    age(database, 1, 2, 4)  # a change of a long transaction is older than its neighbours
    assert run(trim_log()) == 2
    assert (positions(run), first_position(database)) == ([3, 4, 5, 6], 3)
    assert run(trim_log()) == 0
    place_days(run, 10)
    assert positions(run) == [3, 4, 5, 6, 7]


def test_changes_that_a_consumer_has_not_applied_are_kept(run: Run, database: Database) -> None:
    place_days(run, 0, 1)
    for day in (2, 3):
        run(place(later(days=day)))
    run(assign_all())
    age(database, 1, 2, 3, 4)
    assert run(trim_log()) == 2
    assert positions(run) == [3, 4]
    run(apply_every_change())
    assert run(trim_log()) == 2
    assert (positions(run), first_position(database)) == ([], 5)
    place_days(run, 5)
    assert positions(run) == [5]
    assert database.wrong_summaries() == []


def test_old_changes_are_removed_a_few_at_a_time(run: Run, database: Database) -> None:
    place_days(run, *range(7))
    age(database, *range(1, 7))
    assert [run(trim_log(most=4)) for _ in range(3)] == [4, 2, 0]
    assert positions(run) == [7]


def test_changes_without_a_position_are_never_removed(run: Run, database: Database) -> None:
    run(place(later()))
    database.rows("UPDATE order_change SET recorded_at = recorded_at - interval '100 days'")
    assert run(trim_log()) == 0
    assert run(assign_all()) == 1


def test_removing_changes_while_positions_are_assigned_loses_nothing(run: Run, database: Database) -> None:
    async def scenario() -> None:
        async def keep_trimming() -> int:
            trimmed = 0
            while trimmed < 40:
                trimmed += await trim_log(most=7)
                await asyncio.sleep(0)
            return trimmed

        async def keep_assigning() -> None:
            while await assign_positions(3) or not trimming.done():
                pass

        for day in range(40):
            await place(later(days=day))
        await apply_every_change()
        await asyncio.to_thread(age, database, *range(1, 41))
        for day in range(40, 80):
            await place(later(days=day))
        trimming = asyncio.create_task(keep_trimming())
        assigning = asyncio.create_task(keep_assigning())
        assert await trimming == 40
        await assigning

    run(scenario())
    assert positions(run) == list(range(41, 81))


def test_the_retention_setting_is_a_number_and_a_unit(setting: Callable[..., None]) -> None:
    assert settings().change_retention == timedelta(days=90)
    for text, duration in {
        "1d": timedelta(days=1),
        "36h": timedelta(hours=36),
        "5s": timedelta(seconds=5),
    }.items():
        setting(change_retention=text)
        assert settings().change_retention == duration
    for text in ("90", "0d", "-1d", "1.5d", "1 d", "P90D", "999999d"):
        setting(change_retention=text)
        with pytest.raises(SettingsError, match="OMS_CHANGE_RETENTION"):
            settings()
