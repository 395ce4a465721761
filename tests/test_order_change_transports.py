"""One run with faults, four transports: each delivers the same bytes, once."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
import redis

from tests.builders import later, order_body
from tests.drivers import http_client, wait_until
from tests.subscribers import EventStream, Feed, RedisReader, items_of, positions_of
from tests.webhook_receiver import OK, Answer, Receiver
from tests.webhook_steps import missed, subscribe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.drivers import Api, Pipeline
    from tests.webhook_receiver import Received

SEED = 20_261_122


class Collector(threading.Thread):
    """A subscriber that keeps every notification that it received, until it is stopped."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(daemon=True)
        self.pipeline = pipeline
        self.notifications: list[str] = []
        self.told_to_stop = False

    def has_received(self, count: int) -> bool:
        """Whether it has received at least so many."""
        return len(self.notifications) >= count


class FeedCollector(Collector):
    """Follows the feed, waiting at its end."""

    def run(self) -> None:
        """Read pages of the feed until stopped."""
        feed = Feed.after(self.pipeline.api, wait=1, limit=7)
        while not self.told_to_stop:
            self.notifications += feed.read_page()


class StreamCollector(Collector):
    """Reads the live stream, disconnects now and then, and reconnects with the last id."""

    def run(self) -> None:
        """Read events of the live stream until stopped."""
        rng = random.Random(SEED)
        while not self.told_to_stop:
            events = rng.randrange(1, 40)
            with (
                suppress(OSError, http.client.HTTPException),
                EventStream(
                    self.pipeline.api.url, 0, last_event_id=len(self.notifications), timeout=1
                ) as stream,
            ):
                for event in stream.events():
                    assert event.id == len(self.notifications) + 1
                    self.notifications.append(event.data)
                    events -= 1
                    if events == 0:
                        break


class RedisCollector(Collector):
    """Reads the Redis stream after its last entry."""

    def run(self) -> None:
        """Read pages of the Redis stream until stopped."""
        reader = RedisReader(self.pipeline.redis_url)
        while not self.told_to_stop:
            with suppress(redis.RedisError):
                self.notifications += reader.read_page()
            time.sleep(0.01)


class WebhookCollector:
    """Receives and verifies webhook requests; refuses some of them once, and leaves one unanswered."""

    UNANSWERED = 20
    """The first attempt for a position from here on waits for an answer until its worker is killed."""

    def __init__(self, pipeline: Pipeline, receiver: Receiver) -> None:
        self._receiver = receiver
        self._refused: set[str] = set()
        self.unanswered: Received | None = None
        self.webhook = subscribe(pipeline.api, receiver.url)
        receiver.answer = self._answer

    def _answer(self, request: Received) -> Answer:
        if self.unanswered is None and request.position >= self.UNANSWERED:
            self.unanswered = request
            return Answer(after=60)
        # Only early ones: a refused request is repeated 5 s later, for which the test would wait.
        if (
            request.position < self.UNANSWERED
            and request.position % 5 == 0
            and request.id not in self._refused
        ):
            self._refused.add(request.id)
            return Answer(500)
        return OK

    @property
    def received(self) -> list[Received]:
        """All requests, repeats too, in the order of their arrival."""
        return list(self._receiver.received)

    @property
    def notifications(self) -> list[str]:
        """The requests without repeats, by position: the bytes of the last request with each id."""
        each = {request.id: request for request in self.received}
        return [one.body.decode() for one in sorted(each.values(), key=lambda one: one.position)]


class Writer(threading.Thread):
    """Places, changes and deletes orders, competing with the other writers."""

    def __init__(self, api: Api, number: int, writes: int) -> None:
        super().__init__(daemon=True)
        self._url = api.url
        self._rng = random.Random(SEED + number)
        self._writes = writes

    def run(self) -> None:
        """Make the given number of writes."""
        orders: list[str] = []
        with http_client(self._url) as client:
            for _ in range(self._writes):
                what = self._rng.random()
                at = later(hours=self._rng.randrange(300), milliseconds=self._rng.randrange(2))
                if what < 0.5 or not orders:
                    body = order_body(at=at, fee=self._rng.randrange(999), calendar=f"c{at.hour % 3}")
                    answer = client.post("/orders", json=body)
                    orders += [answer.json()["id"]] if answer.status_code == http.client.CREATED else []
                elif what < 0.9:
                    change = {"totalfee": self._rng.randrange(999), "datetime": at.isoformat()}
                    answer = client.patch(f"/orders/{self._rng.choice(orders)}", json=change)
                else:
                    answer = client.delete(f"/orders/{orders.pop()}")
                assert answer.status_code in (200, 201, 204, 409), answer.text


@pytest.fixture
def collectors(pipeline: Pipeline) -> Iterator[list[Collector]]:
    """A running subscriber for each transport."""
    RedisReader(pipeline.redis_url).client.flushdb()
    started = [FeedCollector(pipeline), StreamCollector(pipeline), RedisCollector(pipeline)]
    for collector in started:
        collector.start()
    yield started
    for collector in started:
        collector.told_to_stop = True
    for collector in started:
        collector.join(10)


@pytest.fixture
def posted(pipeline: Pipeline) -> Iterator[WebhookCollector]:
    """A webhook that receives every change."""
    with Receiver() as receiver:
        yield WebhookCollector(pipeline, receiver)


def fold(notifications: list[str]) -> dict[int, str]:
    """Return the orders' texts after all changes, checking that each change follows from the one before."""
    orders: dict[int, str] = {}
    decode = json.JSONDecoder().raw_decode
    for text in notifications:
        change = json.loads(text)
        start = text.index('"data":{"order":') + len('"data":{"order":')
        _, end = decode(text, start)
        order = text[start:end]
        previous = text[end + len(',"previous":') : -2]
        number = int(change["subject"])
        assert orders.pop(number, "null") == previous, text
        if order != "null":
            orders[number] = order
    return orders


def test_all_transports_deliver_the_same_bytes_once_per_position_despite_kills_and_wipes(
    pipeline: Pipeline, collectors: list[Collector], posted: WebhookCollector
) -> None:
    print(f"seed {SEED}")
    writers = [Writer(pipeline.api, number, 90) for number in range(4)]
    for writer in writers:
        writer.start()
    rng = random.Random(SEED)
    reader = RedisReader(pipeline.redis_url)
    faults = 0
    while any(writer.is_alive() for writer in writers) or faults < 6:
        time.sleep(0.15 + rng.random() * 0.2)
        reader.client.flushdb()
        process = rng.choice((pipeline.relay, pipeline.worker))
        if faults == 3:
            process = pipeline.worker
            wait_until(lambda: posted.unanswered is not None, "an attempt is under way")
        process.kill()
        if process is pipeline.worker:
            # No worker serves a webhook now, but that is only known when the lease ends, after 20 s.
            pipeline.database.rows("UPDATE webhook SET leased_until = now() WHERE lease IS NOT NULL")
        time.sleep(rng.random() * 0.2)
        process.start()
        faults += 1
        if faults % 3 == 0:
            # A new relay needs a moment: let some changes pass before the next fault.
            time.sleep(1)
    count = int(pipeline.database.value("SELECT count(*) FROM order_change"))
    print(f"{count} changes, {faults} times wiped and killed")
    for collector in collectors:
        name = type(collector).__name__
        wait_until(partial(collector.has_received, count), f"{name} has everything")
    log = Feed.after(pipeline.api, limit=100).all()
    assert positions_of(log) == list(range(1, count + 1))
    for collector in collectors:
        assert collector.notifications == log, type(collector).__name__
    assert [name for name, _ in reader.entries()] == [f"{n}-0" for n in range(1, count + 1)]
    wait_until(lambda: missed(pipeline.api, posted.webhook) == {}, "every change was acknowledged")
    assert posted.notifications == log
    received = posted.received
    print(f"{len(received)} webhooks received")
    assert all(request.is_signed_with(posted.webhook["secret"]) for request in received)
    assert {request.body.decode() for request in received} == set(log), "a repeat is the same bytes"
    assert {(request.id, request.position) for request in received} == {
        (json.loads(text)["id"], position) for position, text in enumerate(log, 1)
    }
    assert posted.unanswered is not None
    assert [request.id for request in received].count(posted.unanswered.id) >= 2, "once for the killed worker"
    # Replayed from the beginning, the changes give the orders, byte for byte.
    orders = fold(log)
    listed = []
    following: str | None = "/orders?sort=id&limit=100"
    while following:
        page = pipeline.api.client.get(following)
        listed += items_of(page.text)
        following = page.json()["next"]
    assert [orders[number] for number in sorted(orders)] == listed
    assert pipeline.wait_until_summed() == count
    assert pipeline.database.wrong_summaries() == []
