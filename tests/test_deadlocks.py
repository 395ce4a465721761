"""SQL by hand that takes locks in another order than commands: nobody is answered 5xx."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from shared.database.locks import CALENDAR_LOCK
from tests.builders import later, text_of
from tests.serving import serving

if TYPE_CHECKING:
    from tests.drivers import Api, Database


def test_a_move_that_deadlocks_with_sql_by_hand_is_run_again(
    api: Api, database: Database, postgres_url: str, redis_url: str
) -> None:
    """The move has locked its order and waits for the calendar, and the operator the other way round."""
    api.placed_order(id=5)
    calendar_id = database.value("SELECT id FROM calendar")

    async def move_during_a_deadlock(patient: Api) -> int:
        operator = await asyncpg.connect(postgres_url)
        await operator.execute("SET deadlock_timeout = '20s'")  # so that the move is the one that gives way
        async with operator.transaction():
            await operator.execute("SELECT pg_advisory_xact_lock($1, $2)", CALENDAR_LOCK, calendar_id)
            change = {"datetime": text_of(later(days=1))}
            moving = asyncio.create_task(asyncio.to_thread(patient.client.patch, "/orders/5", json=change))
            await asyncio.sleep(0.3)
            await operator.execute("UPDATE orders SET totalfee = 7, version = version + 1 WHERE id = 5")
        await operator.close()
        return (await moving).status_code

    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = database.value(deadlocks)
    with serving(database=postgres_url, redis=redis_url, OMS_LOCK_WAIT="5") as (patient, _):
        assert asyncio.run(move_during_a_deadlock(patient)) == 200
    database.rows("SELECT pg_stat_force_next_flush()")
    assert database.value(deadlocks) == before + 1
    (order,) = database.rows("SELECT totalfee, datetime, version FROM orders")
    assert order == {"totalfee": 7, "datetime": later(days=1), "version": 3}
