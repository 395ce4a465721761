"""Time limits of every task of the worker."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from shared.database.statements import execute, fetch_value
from shared.database.transaction import transaction
from worker.child_loop import ChildLoop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.drivers import Database


@pytest.fixture
def loop(database: Database) -> Iterator[ChildLoop]:  # noqa: ARG001 (clean first)
    """The loop of a child; SIGALRM raises what Celery's signal does when a task exceeds its time limit."""

    def expire(*_: object) -> None:
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGALRM, expire)
    loop = ChildLoop()
    yield loop
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    loop.close()


def test_a_task_that_exceeded_its_time_limit_ends_before_the_next_begins(loop: ChildLoop) -> None:
    """It holds the child's only connection, and with it perhaps a cursor that others wait for."""
    went_on = []

    async def too_long() -> None:
        async with transaction():
            await execute("SELECT pg_advisory_xact_lock(1)")
            await asyncio.sleep(0.3)
            went_on.append("after the limit")

    async def next_task() -> bool:
        await asyncio.sleep(0.4)
        return await fetch_value(bool, "SELECT pg_try_advisory_lock(1)")

    signal.setitimer(signal.ITIMER_REAL, 0.15)
    with pytest.raises(SoftTimeLimitExceeded):
        loop.run(too_long())
    assert loop.run(next_task())
    assert went_on == []
