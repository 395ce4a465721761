"""Changes that webhooks missed, with the reason, and their replays in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from api.webhooks import replays
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


def missed_pages(api: Api, webhook: dict[str, Any], limit: int) -> Iterator[dict[str, Any]]:
    """Read what a webhook missed, one page each time the next one is asked for."""
    following: str | None = f"/webhooks/{webhook['id']}/missed?limit={limit}"
    while following:
        page: dict[str, Any] = api.client.get(following).json()
        yield page
        following = page["next"]


def assert_pages_account_for_every_change(pages: list[dict[str, Any]]) -> None:
    """As the contract says: each page for its own range, and the ranges without a gap."""
    for page, following in pairwise(pages):
        assert following["as_of"]["after"] == page["as_of"]["position"]
    for page in pages:
        as_of, items = page["as_of"], page["items"]
        assert as_of["acknowledged"] + len(items) == as_of["position"] - as_of["after"], page
        assert all(as_of["after"] < item["position"] <= as_of["position"] for item in items), page


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
    monkeypatch.setattr(replays, "REPLAYED_AT_ONCE", 2)
    webhook = subscribe(api, "https://orders.example/")
    for number in range(5):
        api.placed_order(at=later(hours=3 * number))
    run(fan_out())
    path = f"/webhooks/{webhook['id']}"
    for enabled in (False, True):
        api.client.patch(path, json={"enabled": enabled})
    sizes = [run(replays.replay(int(webhook["id"]), Replay())) for _ in range(4)]
    assert sizes == [2, 2, 1, 0]
    with pytest.raises(TooMuchToReplayError) as refused:
        run(replays.replay(int(webhook["id"]), Replay(after=2)))
    assert refused.value.first == 3
    assert run(replays.replay(int(webhook["id"]), Replay(after=3))) == 2


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


@pytest.mark.parametrize("seed", seeds(21, 2))
def test_pages_of_missed_changes_add_up_whatever_happens_between_them(
    api: Api, receiver: Receiver, run: Run, database: Database, seed: int
) -> None:
    """Changes, acknowledgements, replays and disabling come between two pages."""
    rng = random.Random(seed)
    receiver.answer = lambda _: Answer(rng.choice((200, 500)))
    webhook = subscribe(api, receiver.url, calendars=["a"])
    path = f"/webhooks/{webhook['id']}"
    placed = 0

    def place(count: int) -> None:
        nonlocal placed
        for _ in range(count):
            api.placed_order(at=later(hours=3 * placed), calendar=rng.choice("aab"))
            placed += 1

    place(20)
    run(deliver())
    for _ in range(4):
        pages = []
        for page in missed_pages(api, webhook, rng.randint(1, 7)):
            pages.append(page)
            match rng.randrange(6):
                case 0:
                    place(rng.randint(1, 3))
                    run(assign_all())
                case 1 | 2:
                    make_due(database)
                    run(deliver())
                case 3:
                    enabled = rng.random() < 0.8
                    assert api.client.patch(path, json={"enabled": enabled}).is_success
                case 4:
                    api.client.post(path + "/replay", json=rng.choice(({}, {"after": 0})))
                case _:
                    pass
        print(f"seed {seed}: {len(pages)} pages up to {pages[-1]['as_of']['position']}")
        assert_pages_account_for_every_change(pages)
        assert pages[0]["as_of"]["after"] == 0


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
        pages = list(missed_pages(api, webhook, rng.randint(1, 60)))
        assert sum(page["as_of"]["acknowledged"] for page in pages) == len(delivered)
        assert [item["position"] for page in pages for item in page["items"]] == list(listed)
        assert_pages_account_for_every_change(pages)

    receiver.answer = lambda _: OK
    api.client.patch(path, json={"enabled": True})
    run(fan_out())
    api.client.post(path + "/replay", json={})
    make_due(database)
    run(deliver())
    assert set(missed(api, webhook).values()) <= {"filtered"}
