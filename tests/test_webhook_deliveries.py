"""Deliveries to webhooks: what is sent, to which webhooks, and with which signatures."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from shared.change_log import changes_after
from tests.builders import later
from tests.webhook_receiver import Answer, Receiver
from tests.webhook_steps import deliver, deliveries, fan_out, missed, subscribe

if TYPE_CHECKING:
    from tests.drivers import Api, Database

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def test_a_webhook_receives_the_same_bytes_as_the_feed_signed(api: Api, receiver: Receiver, run: Run) -> None:
    webhook = subscribe(api, receiver.url)
    api.placed_order(id="7")
    assert run(deliver()) == 1
    (change,) = run(changes_after(0, 10))
    (request,) = receiver.received
    assert request.body.decode() == change.notification()
    assert request.id == str(change.event_id)
    assert request.headers["content-type"].startswith("application/cloudevents+json")
    assert request.is_signed_with(webhook["secret"])
    assert run(deliver()) == 0, "what was acknowledged is not sent again"
    (delivery,) = deliveries(api, webhook)
    assert (delivery["status"], delivery["position"], delivery["order"]) == ("delivered", 1, "7")
    assert [attempt["status"] for attempt in delivery["attempts"]] == [204]


def test_a_webhook_receives_only_matching_changes_made_after_its_creation(
    api: Api, receiver: Receiver, run: Run
) -> None:
    api.placed_order(id="1")
    run(fan_out())
    webhook = subscribe(api, receiver.url, types=["order.created", "order.deleted"], calendars=["a"])
    assert webhook["after"] == 1
    api.placed_order(id="2", calendar="a")  # 2
    api.placed_order(id="3", calendar="b")  # 3: another calendar
    api.client.patch("/orders/2", json={"totalfee": 5})  # 4: another type
    api.client.patch("/orders/3", json={"calendar": "a", "datetime": "2031-01-01T00:00:00Z"})  # 5
    api.client.delete("/orders/2")  # 6
    run(deliver())
    assert receiver.positions == [2, 6]
    assert missed(api, webhook) == {3: "filtered", 4: "filtered", 5: "filtered"}


def test_a_webhook_of_a_calendar_receives_orders_that_leave_the_calendar(
    api: Api, receiver: Receiver, run: Run
) -> None:
    subscribe(api, receiver.url, calendars=["a"])
    api.placed_order(id="2", calendar="a")
    api.client.patch("/orders/2", json={"calendar": "b"})
    api.client.patch("/orders/2", json={"totalfee": 1})
    run(deliver())
    assert receiver.positions == [1, 2]


def test_a_test_notification_is_sent_once_and_its_outcome_can_be_read(
    api: Api, receiver: Receiver, run: Run
) -> None:
    receiver.answer = lambda _: Answer(500)
    webhook = subscribe(api, receiver.url)
    answer = api.client.post(f"/webhooks/{webhook['id']}/test")
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    run(deliver())
    assert receiver.received[0].is_signed_with(webhook["secret"])
    assert receiver.received[0].event["type"] == "webhook.test"
    delivery = api.client.get(answer.headers["location"]).json()
    assert (delivery["status"], delivery["attempts"][0]["status"]) == ("exhausted", 500)
    shown = api.client.get(f"/webhooks/{webhook['id']}").json()
    assert (shown["enabled"], shown["failing_since"]) == (True, None)
    assert missed(api, webhook) == {}


def test_notifications_are_signed_with_both_secrets_while_the_old_one_is_valid(
    api: Api, receiver: Receiver, run: Run, database: Database
) -> None:
    webhook = subscribe(api, receiver.url)
    rotated = api.client.post(f"/webhooks/{webhook['id']}/secret/rotation", json={}).json()
    api.placed_order(at=later())
    run(deliver())
    assert receiver.received[0].is_signed_with(webhook["secret"])
    assert receiver.received[0].is_signed_with(rotated["secret"])
    database.rows("UPDATE webhook_secret SET valid_until = now() WHERE valid_until IS NOT NULL")
    api.placed_order(at=later(hours=3))
    run(deliver())
    assert receiver.received[1].is_signed_with(rotated["secret"])
    assert len(receiver.received[1].headers["webhook-signature"].split()) == 1


def test_a_deleted_webhook_receives_nothing_more(api: Api, receiver: Receiver, run: Run) -> None:
    webhook = subscribe(api, receiver.url)
    api.placed_order()
    run(fan_out())
    assert api.client.delete(f"/webhooks/{webhook['id']}").status_code == 204
    assert run(deliver()) == 0
    assert api.client.get(f"/webhooks/{webhook['id']}/missed").status_code == 404
