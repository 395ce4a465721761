"""The relay's part in webhooks: requesting attempts, and removing old deliveries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import redis

from api.relay.main import Relay
from api.relay.retention import OLD_DELIVERIES, delete_old_deliveries
from api.relay.scheduler import attempts_are_due
from shared.task_queue import ATTEMPTS_QUEUE
from tests.builders import later
from tests.drivers import wait_until
from tests.webhook_receiver import Answer, Receiver
from tests.webhook_steps import client, deliver, deliveries, fan_out, make_due, missed, subscribe
from worker.webhooks.attempts import attempt_due

if TYPE_CHECKING:
    from tests.drivers import Api, Database

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def queue(redis_url: str) -> Iterator[redis.Redis]:
    """This process's queue, empty and without a worker."""
    with redis.Redis.from_url(redis_url, socket_timeout=5) as queue:
        queue.flushdb()
        yield queue
        queue.flushdb()


def test_webhook_attempts_are_due_until_a_worker_starts_them(
    api: Api, receiver: Receiver, run: Run, database: Database
) -> None:
    """Not without deliveries, not during an attempt, not under a lease, not before the next delay is over."""

    def due() -> bool:
        return bool(run(attempts_are_due()))

    receiver.answer = lambda _: Answer(500, after=0.3)
    subscribe(api, receiver.url)
    assert not due()
    api.placed_order()
    run(fan_out())
    assert due()

    async def check_meanwhile() -> bool:
        async with client() as sender:
            task = asyncio.create_task(attempt_due(sender))
            await asyncio.sleep(0.15)
            are_due = await attempts_are_due()
            await task
            return are_due

    assert run(check_meanwhile()) is False
    assert not due(), "the next attempt is later"
    make_due(database)
    # PostgreSQL needs a moment to see that the connection with the lock is gone.
    wait_until(due, "the next attempt is due")
    database.rows("UPDATE webhook SET leased_until = now() + interval '1 minute'")
    assert not due()


def test_the_relay_requests_attempts_once_and_again_when_the_request_was_lost(
    api: Api, run: Run, queue: redis.Redis
) -> None:
    """A stopped worker does not fill the queue; a wiped Redis stops no delivery."""
    subscribe(api, "https://orders.example/")
    api.placed_order()
    run(fan_out())
    relay = Relay()
    for _ in range(3):
        run(relay.request_attempts_once())
    assert queue.llen(ATTEMPTS_QUEUE) == 1
    queue.flushdb()
    run(relay.request_attempts_once())
    assert queue.llen(ATTEMPTS_QUEUE) == 1


def test_deliveries_are_removed_with_their_changes_and_the_list_names_its_first_position(
    api: Api, receiver: Receiver, run: Run, database: Database
) -> None:
    """Acknowledged or not; those of deleted webhooks too."""
    receiver.answer = lambda request: Answer(204 if request.position % 2 else 500)
    webhook = subscribe(api, receiver.url)
    deleted = subscribe(api, receiver.url)
    for number in range(6):
        api.placed_order(at=later(hours=3 * number))
    run(deliver())
    assert run(delete_old_deliveries()) == 0
    database.rows("DELETE FROM order_change WHERE position <= 3")
    database.rows("UPDATE change_log SET first_position = 4")
    api.client.delete(f"/webhooks/{deleted['id']}")
    database.rows("UPDATE webhook SET deleted_at = deleted_at - interval '2 hours'")
    assert run(delete_old_deliveries()) == 3 + 6
    assert [d["position"] for d in deliveries(api, webhook)] == [4, 5, 6]
    assert missed(api, webhook) == {4: "retrying", 6: "retrying"}
    as_of = api.client.get(f"/webhooks/{webhook['id']}/missed").json()["as_of"]
    assert as_of == {"after": 3, "position": 6, "acknowledged": 1}
    assert database.value("SELECT count(*) FROM webhook") == 1
    refused = api.client.post(f"/webhooks/{webhook['id']}/replay", json={"after": 2})
    assert (refused.status_code, refused.json()["type"]) == (410, "/problems/position-expired")
    assert (refused.json()["first_position"], refused.json()["latest_position"]) == (4, 6)
    assert api.client.post(f"/webhooks/{webhook['id']}/replay", json={"after": 3}).json() == {"deliveries": 3}


def test_looking_for_old_deliveries_reads_none_of_those_that_are_kept(api: Api, database: Database) -> None:
    """It happens each minute, and there may be millions of them."""
    webhook = subscribe(api, "https://orders.example/")
    database.rows(
        "INSERT INTO webhook_delivery (webhook_id, position, event_id, type, state, acknowledged_at)"
        f" SELECT {webhook['id']}, n, uuidv7(), 'order.created', 'delivered', now()"
        " FROM generate_series(1, 20000) AS n"
    )
    database.rows("ANALYZE webhook_delivery")
    for deletes in (0, 1):
        if deletes:
            api.client.delete(f"/webhooks/{webhook['id']}")
        plan = "\n".join(row["QUERY PLAN"] for row in database.rows(f"EXPLAIN {OLD_DELIVERIES}"))
        assert "Seq Scan on webhook_delivery" not in plan
