"""Changes that webhooks missed, with the reason, and their replays in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from api.webhooks import commands
from api.webhooks.bodies import Replay
from api.webhooks.errors import TooMuchToReplayError
from tests.builders import later
from tests.random_rounds import seeds
from tests.steps import assign_all
from tests.webhook_receiver import OK, Answer, Receiver
from tests.webhook_steps import client, deliver, deliveries, fan_out, make_due, missed, subscribe
from worker.webhooks.attempts import attempt_due

if TYPE_CHECKING:
    from tests.drivers import Api, Database

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def test_missed_changes_are_replayed_in_order(
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


def test_a_replay_from_a_position_includes_acknowledged_and_earlier_changes(
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


def test_a_replay_is_limited_in_size_and_the_next_one_continues(
    api: Api, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest stays missed, and the answer says from which position a replay can begin."""
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


def test_a_replay_during_an_attempt_is_delivered_again_after_it(
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


def test_a_change_without_a_delivery_yet_is_listed_as_pending(api: Api, receiver: Receiver, run: Run) -> None:
    webhook = subscribe(api, receiver.url, calendars=["a"])
    api.placed_order(calendar="a")
    api.placed_order(calendar="b")
    run(assign_all())
    assert missed(api, webhook) == {1: "pending", 2: "filtered"}
    api.client.patch(f"/webhooks/{webhook['id']}", json={"enabled": False})
    assert missed(api, webhook) == {1: "disabled", 2: "filtered"}


@pytest.mark.parametrize("seed", seeds(1, 2))
def test_every_matching_change_is_either_acknowledged_or_listed_as_missed(  # noqa: C901, PLR0915 (one story)
    api: Api, receiver: Receiver, run: Run, database: Database, seed: int
) -> None:
    """Through answers, disabling, enabling, replays and interruptions, and at every moment."""
    rng = random.Random(seed)
    acknowledged: set[int] = set()

    def answer(request: Any) -> Answer:
        status = rng.choice((200, 200, 204, 301, 400, 500, 503) if rng.random() < 0.98 else (410,))
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
            await asyncio.sleep(rng.random() * 0.03)
            task.cancel()
            await asyncio.wait({task})

    for step in range(60):
        match rng.randrange(9):
            case 0 | 1 | 2:
                order = api.placed_order(at=later(hours=3 * step), calendar=rng.choice("ab"))
                orders.append(order["id"])
            case 3 if orders:
                api.client.delete(f"/orders/{orders.pop(rng.randrange(len(orders)))}")
            case 4:
                run(deliver())
            case 5:
                make_due(database)
                run(deliver())
            case 6:
                run(fan_out(at_once=2))
                run(cut_off())
            case 7:
                api.client.patch(path, json={"enabled": rng.random() < 0.8})
            case _:
                api.client.post(path + "/replay", json=rng.choice(({}, {})))
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
