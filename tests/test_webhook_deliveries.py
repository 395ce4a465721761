"""Deliveries to webhooks: what is sent, again and again, until it is acknowledged or given up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from api.webhooks import commands
from api.webhooks.bodies import Replay
from api.webhooks.errors import TooMuchToReplayError
from shared.change_log import changes_after
from tests.builders import later
from tests.processes import free_port
from tests.steps import assign_all
from tests.webhook_receiver import OK, Answer, Receiver
from tests.webhook_steps import client, deliver, deliveries, fan_out, make_due, missed, subscribe
from worker.webhook_deliveries import attempt_due
from worker.webhook_schedule import STEPS_SECONDS

if TYPE_CHECKING:
    from tests.drivers import Api, Database

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Give an endpoint that acknowledges everything."""
    with Receiver() as endpoint:
        yield endpoint


def test_a_change_arrives_signed_as_the_bytes_of_the_feed(api: Api, receiver: Receiver, run: Run) -> None:
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


def test_a_webhook_gets_what_it_asks_for_and_nothing_from_before_it_was_made(
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


def test_an_order_that_leaves_a_calendar_concerns_it(api: Api, receiver: Receiver, run: Run) -> None:
    subscribe(api, receiver.url, calendars=["a"])
    api.placed_order(id="2", calendar="a")
    api.client.patch("/orders/2", json={"calendar": "b"})
    api.client.patch("/orders/2", json={"totalfee": 1})
    run(deliver())
    assert receiver.positions == [1, 2]


def test_a_failed_attempt_is_repeated_on_schedule_with_the_same_id_until_it_is_exhausted(
    api: Api, receiver: Receiver, run: Run, database: Database
) -> None:
    receiver.answer = lambda _: Answer(500, body=b"no room")
    webhook = subscribe(api, receiver.url)
    api.placed_order()
    for number in range(1, len(STEPS_SECONDS) + 1):
        before = datetime.now(UTC)
        assert run(deliver()) == 1
        assert run(deliver()) == 0, "nothing is due before its time"
        (delivery,) = deliveries(api, webhook)
        assert len(delivery["attempts"]) == number
        if number < len(STEPS_SECONDS):
            assert delivery["status"] == "retrying"
            pause = datetime.fromisoformat(delivery["next_attempt_at"]) - before
            assert STEPS_SECONDS[number] <= pause.total_seconds() <= STEPS_SECONDS[number] * 1.1 + 5
            make_due(database)
    (delivery,) = deliveries(api, webhook)
    assert (delivery["status"], delivery["next_attempt_at"]) == ("exhausted", None)
    assert len(set(receiver.ids)) == 1
    assert {(a["status"], a["answer"], a["error"]) for a in delivery["attempts"]} == {
        (500, "no room", "answered 500")
    }
    assert missed(api, webhook) == {1: "exhausted"}


def test_retry_after_is_honoured_within_twice_the_step(
    api: Api, receiver: Receiver, run: Run, database: Database
) -> None:
    receiver.answer = lambda _: Answer(503, {"Retry-After": "8"})
    webhook = subscribe(api, receiver.url)
    api.placed_order()
    before = datetime.now(UTC)
    run(deliver())
    (delivery,) = deliveries(api, webhook)
    asked = datetime.fromisoformat(delivery["next_attempt_at"]) - before
    assert timedelta(seconds=8) <= asked <= timedelta(seconds=13)
    receiver.answer = lambda _: Answer(429, {"Retry-After": "86400"})
    make_due(database)
    before = datetime.now(UTC)
    run(deliver())
    (delivery,) = deliveries(api, webhook)
    asked = datetime.fromisoformat(delivery["next_attempt_at"]) - before
    assert timedelta(seconds=600) <= asked <= timedelta(seconds=605)


def test_a_redirect_is_a_failure_and_is_not_followed(api: Api, receiver: Receiver, run: Run) -> None:
    with Receiver() as elsewhere:
        receiver.answer = lambda _: Answer(307, {"Location": elsewhere.url})
        webhook = subscribe(api, receiver.url)
        api.placed_order()
        run(deliver())
        assert elsewhere.received == []
    (delivery,) = deliveries(api, webhook, status="retrying")
    assert delivery["attempts"][0]["error"] == "answered 307: redirects are not followed"


def test_gone_disables_and_whoever_asked_is_told(api: Api, receiver: Receiver, run: Run) -> None:
    with Receiver() as operators:
        watching = subscribe(api, operators.url, types=["webhook.disabled"])
        receiver.answer = lambda _: Answer(410)
        webhook = subscribe(api, receiver.url)
        api.placed_order(at=later())
        api.placed_order(at=later(hours=3))
        run(deliver())
        run(deliver())
        assert len(receiver.received) == 1
        (told,) = operators.received
        assert told.is_signed_with(watching["secret"])
        assert told.event["type"] == "webhook.disabled"
        assert told.event["data"] == {"webhook": webhook["id"], "url": receiver.url, "reason": "gone"}
    shown = api.client.get(f"/webhooks/{webhook['id']}").json()
    assert (shown["enabled"], shown["disabled"]["reason"]) == (False, "gone")
    api.placed_order(at=later(hours=6))
    run(deliver())
    assert missed(api, webhook) == {1: "disabled", 2: "disabled", 3: "disabled"}


def test_five_days_of_nothing_but_failures_disable(
    api: Api, receiver: Receiver, run: Run, database: Database
) -> None:
    receiver.answer = lambda _: Answer(500)
    webhook = subscribe(api, receiver.url)

    def fail_once(failing_for: str, last_failure: str) -> dict[str, Any]:
        database.rows(
            f"""
            UPDATE webhook SET failing_since = now() - interval '{failing_for}',
                last_failure_at = now() - interval '{last_failure}'
            """
        )
        make_due(database)
        assert run(deliver()) == 1
        shown: dict[str, Any] = api.client.get(f"/webhooks/{webhook['id']}").json()
        return shown

    api.placed_order()
    assert fail_once("4 days 23 hours", "1 day")["enabled"]
    silent = fail_once("6 days", "3 days")
    assert silent["enabled"], "with nothing to send in between nothing was learnt"
    assert datetime.now(UTC) - datetime.fromisoformat(silent["failing_since"]) < timedelta(minutes=1)
    given_up = fail_once("5 days 1 minute", "1 day")
    assert given_up["disabled"]["reason"] == "failing"
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


def test_a_slow_endpoint_and_a_dead_one_delay_nobody_else(api: Api, receiver: Receiver, run: Run) -> None:
    with Receiver() as slow:
        slow.answer = lambda _: Answer(after=30)
        subscribe(api, slow.url)
        subscribe(api, f"http://127.0.0.1:{free_port()}/nobody")
        subscribe(api, receiver.url)
        for number in range(5):
            api.placed_order(at=later(hours=3 * number))
        assert run(deliver(seconds=1.5)) >= 7
        assert receiver.positions == [1, 2, 3, 4, 5]
        assert slow.received, "it was tried"
        assert receiver.received[-1].at - slow.received[0].at < 1.5, "nobody waited for its time limit"


def test_dead_endpoints_take_half_of_the_room_at_most(
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


def test_one_webhook_gets_one_request_at_a_time_in_order(api: Api, receiver: Receiver, run: Run) -> None:
    receiver.answer = lambda _: Answer(after=0.02)
    subscribe(api, receiver.url)
    for number in range(8):
        api.placed_order(at=later(hours=3 * number))

    async def both() -> list[int]:
        await fan_out()
        async with client() as one, client() as other:
            return list(await asyncio.gather(attempt_due(one), attempt_due(other)))

    assert sorted(run(both())) == [0, 8], "a second task leaves it to the first"
    assert receiver.positions == [1, 2, 3, 4, 5, 6, 7, 8]


def test_an_attempt_that_is_cut_off_is_made_again_with_the_same_id(
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
    assert run(deliver()) == 0, "under a lease: whoever has it may still be at work"
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


def test_what_was_missed_is_replayed_in_order(
    api: Api, receiver: Receiver, run: Run, database: Database
) -> None:
    receiver.answer = lambda _: Answer(500)
    webhook = subscribe(api, receiver.url)
    for number in range(6):
        api.placed_order(at=later(hours=3 * number))
    run(deliver())
    database.rows(
        "UPDATE webhook_delivery SET state = 'exhausted', next_attempt_at = NULL WHERE position < 4"
    )
    api.client.patch(f"/webhooks/{webhook['id']}", json={"enabled": False})
    api.placed_order(at=later(hours=18))
    run(deliver())
    assert missed(api, webhook) == dict.fromkeys((1, 2, 3), "exhausted") | dict.fromkeys(
        (4, 5, 6, 7), "disabled"
    )
    assert api.client.post(f"/webhooks/{webhook['id']}/replay", json={}).status_code == 409
    api.client.patch(f"/webhooks/{webhook['id']}", json={"enabled": True})
    assert run(deliver()) == 0, "enabling replays nothing by itself"
    answer = api.client.post(f"/webhooks/{webhook['id']}/replay", json={})
    assert (answer.status_code, answer.json()) == (202, {"deliveries": 7})
    receiver.received.clear()
    receiver.answer = lambda _: OK
    run(deliver())
    assert receiver.positions == [1, 2, 3, 4, 5, 6, 7]
    assert missed(api, webhook) == {}


def test_everything_after_a_position_is_replayed_also_what_was_acknowledged_or_came_before_the_webhook(
    api: Api, receiver: Receiver, run: Run
) -> None:
    for number in range(3):
        api.placed_order(at=later(hours=3 * number))
    run(fan_out())
    webhook = subscribe(api, receiver.url)
    for number in range(3, 6):
        api.placed_order(at=later(hours=3 * number))
    run(deliver())
    assert receiver.positions == [4, 5, 6]
    ids = receiver.ids
    receiver.received.clear()
    answer = api.client.post(f"/webhooks/{webhook['id']}/replay", json={"after": 1})
    assert answer.json() == {"deliveries": 5}
    run(deliver())
    assert receiver.positions == [2, 3, 4, 5, 6]
    assert receiver.ids[2:] == ids, "with the ids they had"
    beyond = api.client.post(f"/webhooks/{webhook['id']}/replay", json={"after": 7})
    assert (beyond.status_code, beyond.json()["latest_position"]) == (410, 6)


def test_a_replay_covers_so_much_at_once_and_the_next_goes_on(
    api: Api, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left is missed as before, and an answer says from where a replay can begin."""
    monkeypatch.setattr(commands, "REPLAYED_AT_ONCE", 2)
    webhook = subscribe(api, "https://orders.example/")
    for number in range(5):
        api.placed_order(at=later(hours=3 * number))
    run(fan_out())
    path = f"/webhooks/{webhook['id']}"
    for enabled in (False, True):
        api.client.patch(path, json={"enabled": enabled})
    replays = [run(commands.replay(int(webhook["id"]), Replay())) for _ in range(4)]
    assert replays == [2, 2, 1, 0]
    with pytest.raises(TooMuchToReplayError) as refused:
        run(commands.replay(int(webhook["id"]), Replay(after=2)))
    assert refused.value.first == 3
    assert run(commands.replay(int(webhook["id"]), Replay(after=3))) == 2


def test_a_replay_during_an_attempt_is_not_answered_by_that_attempt(
    api: Api, receiver: Receiver, run: Run
) -> None:
    webhook = subscribe(api, receiver.url)
    api.placed_order()

    def replay_first(_: object) -> Answer:
        if len(receiver.received) == 1:
            api.client.post(f"/webhooks/{webhook['id']}/replay", json={"after": 0})
        return OK

    receiver.answer = replay_first
    assert run(deliver()) == 2
    assert receiver.positions == [1, 1]


def test_a_change_not_yet_fanned_out_is_listed_as_pending(api: Api, receiver: Receiver, run: Run) -> None:
    webhook = subscribe(api, receiver.url, calendars=["a"])
    api.placed_order(calendar="a")
    api.placed_order(calendar="b")
    run(assign_all())
    assert missed(api, webhook) == {1: "pending", 2: "filtered"}
    api.client.patch(f"/webhooks/{webhook['id']}", json={"enabled": False})
    assert missed(api, webhook) == {1: "disabled", 2: "filtered"}


def test_a_test_is_sent_once_and_tells_how_it_went(api: Api, receiver: Receiver, run: Run) -> None:
    receiver.answer = lambda _: Answer(500)
    webhook = subscribe(api, receiver.url)
    answer = api.client.post(f"/webhooks/{webhook['id']}/test")
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    run(deliver())
    assert receiver.received[0].is_signed_with(webhook["secret"])
    assert receiver.received[0].event["type"] == "webhook.test"
    found = api.client.get(answer.headers["location"]).json()
    assert (found["status"], found["attempts"][0]["status"]) == ("exhausted", 500)
    shown = api.client.get(f"/webhooks/{webhook['id']}").json()
    assert (shown["enabled"], shown["failing_since"]) == (True, None)
    assert missed(api, webhook) == {}


def test_both_secrets_sign_while_the_old_one_is_valid(
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


def test_a_deleted_webhook_gets_nothing_more(api: Api, receiver: Receiver, run: Run) -> None:
    webhook = subscribe(api, receiver.url)
    api.placed_order()
    run(fan_out())
    assert api.client.delete(f"/webhooks/{webhook['id']}").status_code == 204
    assert run(deliver()) == 0
    assert api.client.get(f"/webhooks/{webhook['id']}/missed").status_code == 404


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_acknowledged_and_listed_are_together_everything_that_matched(  # noqa: C901, PLR0915 (one story)
    api: Api, receiver: Receiver, run: Run, database: Database, seed: int
) -> None:
    """Whatever is answered, disabled, enabled, replayed or cut off in between, and at every moment."""
    chance = random.Random(seed)
    acknowledged: set[int] = set()

    def answer(request: Any) -> Answer:
        status = chance.choice((200, 200, 204, 301, 400, 500, 503) if chance.random() < 0.98 else (410,))
        if status < 300:
            acknowledged.add(request.position)
        return Answer(status)

    receiver.answer = answer
    api.placed_order(at=later(days=-1), calendar="a")
    run(fan_out())
    webhook = subscribe(api, receiver.url, calendars=["a"], types=["order.created", "order.deleted"])
    path = f"/webhooks/{webhook['id']}"
    orders: list[str] = []

    async def cut_off() -> None:
        async with client() as sender:
            task = asyncio.create_task(attempt_due(sender))
            await asyncio.sleep(chance.random() * 0.03)
            task.cancel()
            await asyncio.wait({task})

    for step in range(60):
        match chance.randrange(9):
            case 0 | 1 | 2:
                order = api.placed_order(at=later(hours=3 * step), calendar=chance.choice("ab"))
                orders.append(order["id"])
            case 3 if orders:
                api.client.delete(f"/orders/{orders.pop(chance.randrange(len(orders)))}")
            case 4:
                run(deliver())
            case 5:
                make_due(database)
                run(deliver())
            case 6:
                run(fan_out(at_once=2))
                run(cut_off())
            case 7:
                api.client.patch(path, json={"enabled": chance.random() < 0.8})
            case _:
                api.client.post(path + "/replay", json=chance.choice(({}, {})))
        matched = {
            change["position"]
            for change in database.rows(
                """
                SELECT position FROM order_change AS c JOIN calendar AS k ON k.id = c.calendar_id
                WHERE position > 1 AND k.name = 'a' AND type IN ('order.created', 'order.deleted')
                """
            )
        }
        listed = missed(api, webhook)
        wanted = {position for position, reason in listed.items() if reason != "filtered"}
        delivered = {d["position"] for d in deliveries(api, webhook, status="delivered")}
        assert delivered | wanted == matched, step
        assert not delivered & wanted, step
        assert delivered <= acknowledged, "nothing counts as delivered that no endpoint acknowledged"
        as_of = api.client.get(path + "/missed").json()["as_of"]
        assert as_of["acknowledged"] == len(delivered)
        assert as_of["acknowledged"] + len(listed) == as_of["position"] - as_of["after"]

    receiver.answer = lambda _: OK
    api.client.patch(path, json={"enabled": True})
    run(fan_out())
    api.client.post(path + "/replay", json={})
    make_due(database)
    run(deliver())
    assert set(missed(api, webhook).values()) <= {"filtered"}
