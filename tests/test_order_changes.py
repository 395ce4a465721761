"""The feed of order changes, an order's history, and where the feed ends."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from api.http.pages import encode_cursor
from api.relay.retention import trim_log
from tests.builders import later
from tests.drivers import at_once, wait_until
from tests.steps import apply_every_change, assign_all, place, whole_log
from tests.subscribers import Feed, items_of, positions_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.drivers import Api, Database

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


def test_the_feed_returns_the_change_log_in_pages_that_never_change(api: Api, run: Run) -> None:
    for day in range(7):
        api.placed_order(at=later(days=day))
    run(assign_all())
    log = [change.notification() for change in run(whole_log())]
    assert Feed.after(api).all() == log
    pages = []
    following = "/order-changes?limit=3"
    for _ in range(3):
        pages.append((following, api.client.get(following)))
        following = pages[-1][1].json()["next"]
    assert [len(items_of(page.text)) for _, page in pages] == [3, 3, 1]
    assert following == "/order-changes?limit=3&after=7"
    assert api.client.get(following).json() == {"items": [], "next": following, "next_cursor": 7}

    api.placed_order(at=later(days=20))
    run(assign_all())
    for address, page in pages[:2]:
        assert api.client.get(address).content == page.content
        assert page.headers["Link"] == f'<{page.json()["next"]}>; rel="next"'
    assert positions_of(Feed(api, following).all()) == [8]


def test_a_filtered_feed_has_the_matching_changes_and_its_next_link_skips_the_others(
    api: Api, run: Run
) -> None:
    moved = api.placed_order(calendar="north")["id"]
    api.placed_order(calendar="south")
    api.client.patch(f"/orders/{moved}", json={"calendar": "east"})
    api.client.patch(f"/orders/{moved}", json={"totalfee": 1})
    api.client.delete(f"/orders/{moved}")
    run(assign_all())

    def positions_with(**query: str) -> list[int]:
        feed = Feed.after(api, 0, **query)
        positions = positions_of(feed.all())
        assert feed.following.startswith("/order-changes?after=5&")  # nothing is read twice
        return positions

    assert positions_with(calendar="north") == [1, 3]  # before or after the change
    assert positions_with(calendar="east") == [3, 4, 5]
    assert positions_with(calendar="south") == [2]
    assert positions_with(calendar="nowhere") == []
    assert positions_with(order=moved) == [1, 3, 4, 5]
    assert positions_with(order="999") == []
    assert positions_with(type="order.updated") == [3, 4]
    assert positions_with(type="order.updated", calendar="north", order=moved) == [3]
    assert positions_with(limit="1", order=moved) == [1, 3, 4, 5]


def test_a_waiting_request_is_answered_as_soon_as_a_change_matches(api: Api, run: Run) -> None:
    run(assign_all())
    answers: dict[str, tuple[float, Any]] = {}
    began = time.monotonic()

    def wait(query: str) -> None:
        answer = api.client.get(f"/order-changes?after=0&wait=20&{query}")
        answers[query] = time.monotonic() - began, answer.json()

    queries = ("", "calendar=north", "type=order.deleted&calendar=north")
    waiting = [threading.Thread(target=wait, args=(query,)) for query in queries]
    for thread in waiting:
        thread.start()
    wait_until(lambda: api.waiting() == len(queries), "all requests wait")
    assert answers == {}
    api.placed_order(calendar="south")
    run(assign_all())
    waiting[0].join()
    # Requests that match are answered together, by one read of the log; the others still wait.
    wait_until(lambda: api.waiting() == len(queries) - 1, "the others still wait")
    assert set(answers) == {""}
    order = api.placed_order(calendar="north")["id"]
    run(assign_all())
    waiting[1].join()
    api.client.delete(f"/orders/{order}")
    run(assign_all())
    waiting[2].join()
    assert [[item["sequence"][-1] for item in answers[query][1]["items"]] for query in queries] == [
        ["1"],
        ["2"],
        ["3"],
    ]
    assert max(seconds for seconds, _ in answers.values()) < 15
    assert answers["calendar=north"][1]["next"] == "/order-changes?after=2&wait=20&calendar=north"


def test_a_waiting_request_without_a_match_is_answered_with_the_next_position(api: Api, run: Run) -> None:
    api.placed_order()
    run(assign_all())
    began = time.monotonic()
    answer = api.client.get("/order-changes?after=1&wait=1")
    assert 0.9 < time.monotonic() - began < 5
    assert answer.json() == {"items": [], "next": "/order-changes?after=1&wait=1", "next_cursor": 1}
    without_match = api.client.get("/order-changes?calendar=nowhere&wait=1").json()
    assert without_match["next"] == "/order-changes?calendar=nowhere&wait=1&after=1"


def test_many_waiting_requests_are_all_answered(api: Api, run: Run) -> None:
    run(assign_all())
    placing = threading.Timer(0.5, api.placed_order)
    placing.start()

    async def assign_soon() -> None:
        while not await assign_all():
            time.sleep(0.05)  # noqa: ASYNC251 (nothing else runs in this loop)

    assigning = threading.Thread(target=lambda: run(assign_soon()))
    assigning.start()
    answers = at_once([lambda: api.client.get("/order-changes?wait=15")] * 40)
    assigning.join()
    assert {answer.text for answer in answers} == {answers[0].text}
    assert positions_of(items_of(answers[0].text)) == [1]


def test_a_reader_of_the_feed_misses_no_change_while_transactions_stay_open(
    api: Api, run: Run, postgres_url: str
) -> None:
    insert = """
    INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
    VALUES ($1::timestamptz, 10, '{123}', '{Inspection}',
        (SELECT id FROM calendar))
    """

    async def scenario() -> list[str]:
        await place(later(days=-1))
        feed, early = Feed.after(api, limit=3), Feed.after(api)
        seen: list[str] = []
        slow = [await asyncpg.connect(postgres_url) for _ in range(3)]
        try:
            for round_ in range(3):
                writing = [connection.transaction() for connection in slow]
                for number, (connection, transaction) in enumerate(zip(slow, writing, strict=True)):
                    await transaction.start()
                    await connection.execute(insert, later(days=10 * round_ + number))
                await place(later(days=10 * round_ + 5))
                await assign_all()
                seen += feed.all()
                for number, transaction in enumerate(reversed(writing)):
                    await transaction.commit()
                    await place(later(days=10 * round_ + 6 + number))
                    await assign_all()
                    seen += feed.all()
                    assert Feed.after(api).all() == seen  # from the start or in steps: the same
        finally:
            for connection in slow:
                await connection.close()
        assert early.all() == seen
        return seen

    seen = run(scenario())
    assert positions_of(seen) == list(range(1, 23))


def test_replaying_the_feed_reproduces_all_orders_byte_for_byte(api: Api, run: Run) -> None:
    for day in range(12):
        order = api.placed_order(
            at=later(days=day), fee=day / 8 * 2, services=(123, 456), calendar=f"c{day % 3}"
        )
        if day % 2:
            api.client.patch(f"/orders/{order['id']}", json={"totalfee": 0.1, "calendar": "moved"})
        if day % 4 == 3:
            api.client.delete(f"/orders/{order['id']}")
    run(assign_all())
    orders: dict[str, str] = {}
    for notification in Feed.after(api, limit=5).all():
        event = json.loads(notification)
        text = notification[notification.index('"data":{"order":') + 16 :]
        _, end = json.JSONDecoder().raw_decode(text)
        orders[event["subject"]] = text[:end]
        if event["type"] == "order.deleted":
            del orders[event["subject"]]
    listed = items_of(api.client.get("/orders?limit=100&sort=id").text)
    assert [orders[str(number)] for number in sorted(map(int, orders))] == listed
    for number, text in orders.items():
        assert api.client.get(f"/orders/{number}").text == text


def test_the_history_of_an_order_can_be_read_after_its_deletion(api: Api, run: Run) -> None:
    order = api.placed_order()["id"]
    other = api.placed_order(at=later(days=1))["id"]
    # Not assigned yet: the order is there, its changes will be.
    assert api.client.get(f"/orders/{order}/changes").json() == {
        "items": [],
        "next": None,
        "next_cursor": None,
    }
    for fee in range(4):
        api.client.patch(f"/orders/{order}", json={"totalfee": fee})
    api.client.delete(f"/orders/{order}")
    api.client.delete(f"/orders/{other}")
    run(assign_all())
    history = api.every_item(f"/orders/{order}/changes?limit=4")
    assert [change["orderversion"] for change in history] == [1, 2, 3, 4, 5, 6]
    assert [change["type"].removeprefix("order.") for change in history] == [
        "created",
        *["updated"] * 4,
        "deleted",
    ]
    assert {change["subject"] for change in history} == {order}
    feed = Feed.after(api, order=order).all()
    assert items_of(api.client.get(f"/orders/{order}/changes").text) == feed
    assert api.client.get("/orders/999/changes").status_code == 404
    assert api.client.get("/orders/abc/changes").status_code == 400
    assert api.client.get(f"/orders/{order}/changes?cursor=x").json()["type"] == "/problems/invalid-cursor"


@pytest.mark.parametrize("place", [-1, 1e99, 10**30, 1.5, True, None, "1_0", "x", [], {}])
def test_a_forged_cursor_of_a_history_is_refused(api: Api, run: Run, place: Any) -> None:
    order = api.placed_order()["id"]
    run(assign_all())
    for forged in ([place], [1, place], []):
        answer = api.client.get(f"/orders/{order}/changes?cursor={encode_cursor(forged, [])}")
        assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-cursor"), forged


def test_a_reader_of_the_feed_may_start_from_the_latest_position(api: Api, run: Run) -> None:
    assert api.client.get("/order-changes/latest").json() == {"position": 0}
    api.placed_order()
    run(assign_all())
    start = api.client.get("/order-changes/latest").json()["position"]
    api.placed_order(at=later(days=1))
    run(assign_all())
    assert positions_of(Feed.after(api, start).all()) == [2]


def test_a_position_older_than_the_log_is_answered_with_the_first_available_one(
    api: Api, run: Run, database: Database
) -> None:
    order = api.placed_order(at=later())["id"]
    for fee in range(4):
        api.client.patch(f"/orders/{order}", json={"totalfee": fee})
    run(apply_every_change())
    second_page = api.client.get(f"/orders/{order}/changes?limit=1").json()["next"]
    database.rows("UPDATE order_change SET recorded_at = recorded_at - interval '91 days' WHERE position < 4")
    assert run(trim_log()) == 3
    problem: dict[str, Any] = {}
    for path in ("/order-changes", "/order-changes?after=2", "/order-changes/stream?after=0", second_page):
        answer = api.client.get(path)
        problem = answer.json()
        assert (answer.status_code, problem["type"]) == (410, "/problems/position-expired")
        assert (problem["first_position"], problem["latest_position"]) == (4, 5)
    assert positions_of(Feed(api, problem["resume"]).all()) == [4, 5]
    assert positions_of(Feed.after(api, 3).all()) == [4, 5]
    assert api.client.get("/order-changes?after=5").json()["items"] == []
    # A history starts with the first change that is retained.
    history = items_of(api.client.get(f"/orders/{order}/changes").text)
    assert positions_of(history) == [4, 5]


def test_a_position_of_another_change_log_is_refused(api: Api, run: Run) -> None:
    api.placed_order()
    run(assign_all())
    answer = api.client.get("/order-changes?after=2")
    assert (answer.status_code, answer.json()["resume"]) == (410, "/order-changes?after=1")
    assert "ahead" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("after=-1", "after"),
        ("after=01", "after"),
        ("after=", "after"),
        ("after=1000000000000000000", "after"),
        ("after=1&after=2", "after"),
        ("wait=31", "wait"),
        ("wait=0.5", "wait"),
        ("limit=0", "limit"),
        ("type=created", "type"),
        ("order=x", "order"),
        ("calendar=%20", "calendar"),
        ("cursor=x", "cursor"),
    ],
)
def test_a_malformed_query_of_the_feed_is_refused(api: Api, query: str, parameter: str) -> None:
    answer = api.client.get(f"/order-changes?{query}")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["parameter"] == parameter


def test_a_filtered_feed_returns_a_change_after_20_500_others_in_one_request(
    api: Api, run: Run, database: Database
) -> None:
    order = int(api.placed_order(calendar="rare")["id"])
    # Copies of one change: to make so many with real orders would take long.
    database.rows(
        """
        INSERT INTO order_change (type, order_id, order_version, calendar_id, recorded_at, order_state)
        SELECT type, n, 1, calendar_id + (n <> 20501)::int, recorded_at, order_state
        FROM order_change, generate_series(1, 21000) AS n
        """
    )
    database.rows("DELETE FROM order_change WHERE order_id = $1", order)
    run(assign_all())
    answer = api.client.get("/order-changes?calendar=rare").json()
    assert [item["sequence"].lstrip("0") for item in answer["items"]] == ["20501"]
    assert api.client.get("/order-changes?calendar=none").json()["next"].endswith("after=21000")
