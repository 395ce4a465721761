"""Attempts at deliveries: repeated until acknowledged, without delaying other webhooks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from stack.embedded_valkey import free_port
from tests.builders import later
from tests.webhook_receiver import OK, Answer, Receiver
from tests.webhook_steps import client, deliver, deliveries, fan_out, make_due, missed, subscribe
from worker.webhooks.attempts import attempt_due
from worker.webhooks.schedule import RETRY_SCHEDULE_SECONDS

if TYPE_CHECKING:
    from tests.drivers import Api, Database

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def test_a_failed_delivery_is_retried_on_schedule_with_the_same_id_until_exhausted(
    api: Api, receiver: Receiver, run: Run, database: Database
) -> None:
    receiver.answer = lambda _: Answer(500, body=b"no room")
    webhook = subscribe(api, receiver.url)
    api.placed_order()
    for number in range(1, len(RETRY_SCHEDULE_SECONDS) + 1):
        before = datetime.now(UTC)
        assert run(deliver()) == 1
        assert run(deliver()) == 0, "nothing is due before its time"
        (delivery,) = deliveries(api, webhook)
        assert len(delivery["attempts"]) == number
        if number < len(RETRY_SCHEDULE_SECONDS):
            assert delivery["status"] == "retrying"
            pause = datetime.fromisoformat(delivery["next_attempt_at"]) - before
            assert (
                RETRY_SCHEDULE_SECONDS[number]
                <= pause.total_seconds()
                <= RETRY_SCHEDULE_SECONDS[number] * 1.1 + 5
            )
            make_due(database)
    (delivery,) = deliveries(api, webhook)
    assert (delivery["status"], delivery["next_attempt_at"]) == ("exhausted", None)
    assert len(set(receiver.ids)) == 1
    assert {(a["status"], a["answer"], a["error"]) for a in delivery["attempts"]} == {
        (500, "no room", "answered 500")
    }
    assert missed(api, webhook) == {1: "exhausted"}


def test_retry_after_is_honoured_up_to_twice_the_scheduled_delay(
    api: Api, receiver: Receiver, run: Run, database: Database
) -> None:
    receiver.answer = lambda _: Answer(503, {"Retry-After": "8"})
    webhook = subscribe(api, receiver.url)
    api.placed_order()
    before = datetime.now(UTC)
    run(deliver())
    (delivery,) = deliveries(api, webhook)
    delay = datetime.fromisoformat(delivery["next_attempt_at"]) - before
    assert timedelta(seconds=8) <= delay <= timedelta(seconds=13)
    receiver.answer = lambda _: Answer(429, {"Retry-After": "86400"})
    make_due(database)
    before = datetime.now(UTC)
    run(deliver())
    (delivery,) = deliveries(api, webhook)
    delay = datetime.fromisoformat(delivery["next_attempt_at"]) - before
    assert timedelta(seconds=600) <= delay <= timedelta(seconds=605)


def test_a_redirected_delivery_is_a_failure_and_is_not_followed(
    api: Api, receiver: Receiver, run: Run
) -> None:
    with Receiver() as elsewhere:
        receiver.answer = lambda _: Answer(307, {"Location": elsewhere.url})
        webhook = subscribe(api, receiver.url)
        api.placed_order()
        run(deliver())
        assert elsewhere.received == []
    (delivery,) = deliveries(api, webhook, status="retrying")
    assert delivery["attempts"][0]["error"] == "answered 307: redirects are not followed"


def test_a_410_disables_the_webhook_and_notifies_subscribers_of_disabled_webhooks(
    api: Api, receiver: Receiver, run: Run
) -> None:
    with Receiver() as operators:
        watching = subscribe(api, operators.url, types=["webhook.disabled"])
        receiver.answer = lambda _: Answer(410)
        webhook = subscribe(api, receiver.url + "?lets=a-sender-in")
        api.placed_order(at=later())
        api.placed_order(at=later(hours=3))
        run(deliver())
        run(deliver())
        assert len(receiver.received) == 1
        (notification,) = operators.received
        assert notification.is_signed_with(watching["secret"])
        assert notification.event["type"] == "webhook.disabled"
        assert notification.event["data"] == {
            "webhook": webhook["id"],
            "url": receiver.url.removesuffix("hook"),
            "reason": "gone",
        }
    shown = api.client.get(f"/webhooks/{webhook['id']}").json()
    assert (shown["enabled"], shown["disabled"]["reason"]) == (False, "gone")
    api.placed_order(at=later(hours=6))
    run(deliver())
    assert missed(api, webhook) == {1: "disabled", 2: "disabled", 3: "disabled"}


def test_five_days_of_failures_without_a_success_disable_a_webhook(
    api: Api, receiver: Receiver, run: Run, database: Database
) -> None:
    receiver.answer = lambda _: Answer(500)
    webhook = subscribe(api, receiver.url)

    def fail_once(failing_for: str, last_failure: str) -> dict[str, Any]:
        database.rows(
            f"""
            UPDATE webhook SET failing_since = now() - interval '{failing_for}',
                last_failure_at = now() - interval '{last_failure}'
            WHERE id = {webhook["id"]}
            """
        )
        make_due(database)
        before = len(receiver.received)
        run(deliver())
        assert len(receiver.received) == before + 1
        shown: dict[str, Any] = api.client.get(f"/webhooks/{webhook['id']}").json()
        return shown

    api.placed_order()
    assert fail_once("4 days 23 hours", "1 day")["enabled"]
    silent = fail_once("6 days", "3 days")
    assert silent["enabled"], "nothing was sent in between, so the series begins again"
    assert datetime.now(UTC) - datetime.fromisoformat(silent["failing_since"]) < timedelta(minutes=1)
    with Receiver() as operators:
        subscribe(api, operators.url, types=["webhook.disabled"])
        disabled = fail_once("5 days 1 minute", "1 day")
        run(deliver())
        (notification,) = operators.received
    assert notification.event["data"] == {
        "webhook": webhook["id"],
        "url": receiver.url.removesuffix("hook"),
        "reason": "failing",
    }
    assert disabled["disabled"]["reason"] == "failing"
    assert missed(api, webhook) == {1: "disabled"}


def test_one_success_ends_a_series_of_failures(
    api: Api, receiver: Receiver, run: Run, database: Database
) -> None:
    receiver.answer = lambda _: Answer(500)
    webhook = subscribe(api, receiver.url)
    api.placed_order()
    run(deliver())
    assert api.client.get(f"/webhooks/{webhook['id']}").json()["failing_since"]
    receiver.answer = lambda _: OK
    make_due(database)
    run(deliver())
    assert api.client.get(f"/webhooks/{webhook['id']}").json()["failing_since"] is None


def test_a_slow_endpoint_and_a_dead_one_delay_no_other_webhook(
    api: Api, receiver: Receiver, run: Run
) -> None:
    with Receiver() as slow:
        slow.answer = lambda _: Answer(after=30)
        subscribe(api, slow.url)
        subscribe(api, f"http://127.0.0.1:{free_port()}/closed")
        subscribe(api, receiver.url)
        for number in range(5):
            api.placed_order(at=later(hours=3 * number))
        assert run(deliver(seconds=1.5)) >= 7
        assert receiver.positions == [1, 2, 3, 4, 5]
        assert slow.received, "it was attempted"
        assert receiver.received[-1].at - slow.received[0].at < 1.5, (
            "no other webhook waited for its time limit"
        )


def test_failing_endpoints_take_at_most_half_of_the_concurrent_requests(
    api: Api, receiver: Receiver, run: Run, database: Database, setting: Callable[..., None]
) -> None:
    setting(webhook_endpoints_at_once=2)
    with Receiver() as dead:
        dead.answer = lambda _: Answer(after=30)
        for _ in range(4):
            subscribe(api, dead.url)
        database.rows("UPDATE webhook SET failing_since = now(), last_failure_at = now()")
        subscribe(api, receiver.url)
        api.placed_order()
        run(deliver(seconds=1))
        assert receiver.received[0].at - dead.received[0].at < 0.9


def test_a_webhook_receives_one_request_at_a_time_and_in_order(
    api: Api, receiver: Receiver, run: Run
) -> None:
    receiver.answer = lambda _: Answer(after=0.02)
    subscribe(api, receiver.url)
    for number in range(8):
        api.placed_order(at=later(hours=3 * number))

    async def both() -> list[int]:
        await fan_out()
        async with client() as one, client() as other:
            return list(await asyncio.gather(attempt_due(one), attempt_due(other)))

    assert sorted(run(both())) == [0, 8], "a second task leaves the webhook to the first"
    assert receiver.positions == [1, 2, 3, 4, 5, 6, 7, 8]


def test_an_interrupted_webhook_attempt_is_repeated_with_the_same_id(
    api: Api, receiver: Receiver, run: Run, database: Database
) -> None:
    receiver.answer = lambda _: Answer(after=30)
    webhook = subscribe(api, receiver.url)
    api.placed_order()

    async def killed() -> None:
        await fan_out()
        async with client() as sender:
            task = asyncio.create_task(attempt_due(sender))
            while not receiver.received:  # noqa: ASYNC110 (another thread receives)
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait({task})

    run(killed())
    receiver.answer = lambda _: OK
    assert run(deliver()) == 0, "the lease has not expired: its worker may still be sending"
    (delivery,) = deliveries(api, webhook)
    began = delivery["under_way_since"]
    assert began >= delivery["created_at"]
    assert (delivery["attempts"], delivery["interrupted"]) == ([], [])
    make_due(database)
    (delivery,) = deliveries(api, webhook)
    assert (delivery["under_way_since"], delivery["interrupted"]) == (None, [began])
    assert run(deliver()) == 1
    assert len(set(receiver.ids)) == 1
    (delivery,) = deliveries(api, webhook)
    assert (delivery["status"], delivery["interrupted"]) == ("delivered", [began])
    assert [attempt["status"] for attempt in delivery["attempts"]] == [204]
    assert delivery["under_way_since"] is None
    assert delivery["attempts"][0]["at"] > began
