"""Webhooks through relay, queue and a real worker, which is killed, with Redis wiped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis

from tests.builders import later
from tests.drivers import wait_until
from tests.webhook_receiver import OK, Answer, Receiver
from tests.webhook_steps import deliveries, missed, subscribe

if TYPE_CHECKING:
    from tests.drivers import Pipeline


def test_an_order_placed_over_http_is_posted_to_a_webhook(pipeline: Pipeline, receiver: Receiver) -> None:
    """Within a second or so, and once more when an attempt failed."""
    answers = iter([Answer(500)])
    receiver.answer = lambda _: next(answers, OK)
    webhook = subscribe(pipeline.api, receiver.url)
    pipeline.api.placed_order(id="7")
    wait_until(lambda: len(receiver.received) == 1, "it was attempted")
    wait_until(lambda: missed(pipeline.api, webhook) == {1: "retrying"}, "the failure is listed")
    pipeline.database.rows("UPDATE webhook_delivery SET next_attempt_at = now()")
    wait_until(lambda: missed(pipeline.api, webhook) == {}, "it was acknowledged")
    assert len(receiver.received) == 2
    assert len(set(receiver.ids)) == 1
    assert receiver.received[1].is_signed_with(webhook["secret"])


def test_a_worker_killed_during_an_attempt_and_a_wiped_redis_lose_no_delivery(
    pipeline: Pipeline, receiver: Receiver
) -> None:
    """The interrupted attempt is repeated with the same id when its lease is over."""
    receiver.answer = lambda _: Answer(after=60)
    webhook = subscribe(pipeline.api, receiver.url)
    for number in range(4):
        pipeline.api.placed_order(at=later(hours=3 * number))
    wait_until(lambda: bool(receiver.received), "an attempt is under way")
    pipeline.worker.kill()
    redis.Redis.from_url(pipeline.redis_url, socket_timeout=5).flushdb()
    receiver.answer = lambda _: OK
    pipeline.worker.start()
    assert set(missed(pipeline.api, webhook)) == {1, 2, 3, 4}
    # Instead of the 20 s that a lease lasts.
    pipeline.database.rows("UPDATE webhook SET leased_until = now() - interval '1 s'")
    wait_until(lambda: missed(pipeline.api, webhook) == {}, "everything was acknowledged")
    assert receiver.positions == [1, 1, 2, 3, 4]
    assert receiver.ids[0] == receiver.ids[1]
    listed = deliveries(pipeline.api, webhook)
    assert {d["status"] for d in listed} == {"delivered"}
    assert [(len(d["interrupted"]), len(d["attempts"])) for d in listed] == [(1, 1), (0, 1), (0, 1), (0, 1)]
