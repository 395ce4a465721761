"""Whatever one endpoint does, others get their notifications, and its attempt is recorded."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from shared.webhook_addresses import AddressPolicy, read_networks
from tests import hostile_endpoints
from tests.builders import later
from tests.drivers import WAITING_FOR_LOCKS
from tests.hostile_endpoints import all_in_another_process, listening
from tests.webhook_receiver import CERTIFICATE, Answer, Receiver
from tests.webhook_steps import client, deliveries, fan_out, subscribe
from worker.webhooks.attempts import attempt_due
from worker.webhooks.client import Message, Outcome, WebhookClient

if TYPE_CHECKING:
    from tests.drivers import Api
    from tests.hostile_endpoints import Behaviour

Run = Callable[[Coroutine[Any, Any, Any]], Any]

SECRET = "whsec_dGhpcnR5LXR3byBieXRlcyBvZiBub3RoaW5nIHNlY3JldA=="
PATCH = {"Content-Type": "application/merge-patch+json"}
HERE = AddressPolicy(read_networks("127.0.0.0/8,::1/128"))
SECONDS = 1.5
"""The time limit of an attempt in these tests."""

MOST_DELAY = 1.0
"""What one endpoint may cost another webhook, in seconds."""


def attempt_beside(receiver: Receiver, url: str) -> tuple[Outcome, float]:
    """Attempt a delivery to a URL, and others to the receiver meanwhile.

    Returns how the one ended, and the seconds that the slowest of the others took.
    """

    async def attempt_both() -> tuple[Outcome, float]:
        async with WebhookClient(HERE, seconds=SECONDS, at_once=4, ca_file=str(CERTIFICATE)) as sender:
            attempt = asyncio.create_task(sender.attempt(Message(url, "evt", "{}", [SECRET])))
            slowest = 0.0
            while not attempt.done():
                began = time.monotonic()
                other = await sender.attempt(Message(receiver.url, "evt", "{}", [SECRET]))
                assert other.delivered, other.error
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(0.02)
            return await attempt, slowest

    return asyncio.run(attempt_both())


@pytest.mark.parametrize(
    ("scheme", "behaviour"),
    [
        *(pytest.param("http", one, id=name) for name, one in hostile_endpoints.NO_STATUS.items()),
        *(pytest.param("https", one, id=f"{name} (TLS)") for name, one in hostile_endpoints.TLS.items()),
    ],
)
def test_an_endpoint_without_a_status_fails_and_delays_no_other(
    receiver: Receiver, scheme: str, behaviour: Behaviour
) -> None:
    """However it goes about it, and at the time limit at the latest."""
    with listening(behaviour) as port:
        began = time.monotonic()
        outcome, delay = attempt_beside(receiver, f"{scheme}://127.0.0.1:{port}/")
        print(f"{time.monotonic() - began:.2f} s, others {delay:.3f} s: {outcome.error}")
        assert time.monotonic() - began < SECONDS + MOST_DELAY
    assert outcome.status is None
    assert outcome.error
    assert delay < MOST_DELAY


@pytest.mark.parametrize(
    "behaviour", [pytest.param(one, id=name) for name, one in hostile_endpoints.STATUS.items()]
)
def test_an_endpoint_with_a_status_and_no_manners_delays_no_other(
    receiver: Receiver, behaviour: Behaviour
) -> None:
    """The status decides, whatever follows it."""
    with listening(behaviour) as port:
        began = time.monotonic()
        outcome, delay = attempt_beside(receiver, f"http://127.0.0.1:{port}/")
        print(f"{time.monotonic() - began:.2f} s, others {delay:.3f} s: {outcome.status} {outcome.error}")
        assert time.monotonic() - began < SECONDS + MOST_DELAY
    assert outcome.status is not None
    assert delay < MOST_DELAY


@pytest.mark.parametrize("name", ["sends early hints without end", "sends headers without end"])
def test_what_is_read_is_limited_over_tls_too(receiver: Receiver, name: str) -> None:
    """With a certificate that is trusted."""
    with listening(hostile_endpoints.NO_STATUS[name], tls=True) as port:
        outcome, delay = attempt_beside(receiver, f"https://127.0.0.1:{port}/")
    print(f"others {delay:.3f} s: {outcome.error}")
    assert outcome.status is None
    assert outcome.error
    assert outcome.error.startswith("RemoteProtocolError: ")
    assert delay < MOST_DELAY


def test_name_servers_that_do_not_answer_delay_no_other_name(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's resolver goes on waiting when the attempt has ended, and blocks a thread."""
    resolve = socket.getaddrinfo
    ended = threading.Event()

    def resolve_slowly(host: str, *arguments: Any, **options: Any) -> Any:
        if host.endswith(".hangs.test"):
            ended.wait(30)
        return resolve(host, *arguments, **options)

    async def attempt_all() -> tuple[set[str | None], float, Outcome]:
        async with WebhookClient(HERE, seconds=0.2, at_once=2) as sender:

            async def attempt_name_that_hangs(number: int) -> str | None:
                url = f"http://n{number}.hangs.test/"
                return (await sender.attempt(Message(url, "evt", "{}", [SECRET]))).error

            errors: set[str | None] = set()
            for _ in range(3):
                errors |= set(await asyncio.gather(*(attempt_name_that_hangs(number) for number in (1, 2))))
            began = time.monotonic()
            url = f"http://localhost:{receiver.port}/hook"
            good = await sender.attempt(Message(url, "evt", "{}", [SECRET]))
            return errors, time.monotonic() - began, good

    monkeypatch.setattr(socket, "getaddrinfo", resolve_slowly)
    try:
        errors, seconds, good = asyncio.run(attempt_all())
    finally:
        ended.set()
    assert errors == {"no response within 0.2 s"}
    assert good.delivered, good.error
    assert seconds < MOST_DELAY


def test_all_hostile_endpoints_together_delay_no_request_to_a_good_one_by_more_than_a_second(
    api: Api, receiver: Receiver, run: Run
) -> None:
    """Compared with as many webhooks that answer; and every attempt ends, and is recorded."""

    async def deliver() -> float:
        await fan_out()
        began = time.monotonic()
        async with client(SECONDS) as sender:
            await attempt_due(sender, leasing_seconds=5)
        return began

    def longest_wait_of_three_changes(first_day: int) -> float:
        for day in range(first_day, first_day + 3):
            api.placed_order(at=later(days=day))
        receiver.received.clear()
        began = run(deliver())
        times: list[float] = [began, *(request.at for request in receiver.received)]
        waits: list[float] = [after - before for before, after in pairwise(times)]
        print(f"the good webhook waited {', '.join(f'{wait:.2f}' for wait in waits)} s")
        assert receiver.positions == [first_day + 1, first_day + 2, first_day + 3]
        return max(waits)

    with all_in_another_process() as urls, Receiver() as ordinary:
        others = [subscribe(api, ordinary.url) for _ in urls]
        subscribe(api, receiver.url)
        usual = longest_wait_of_three_changes(0)
        for webhook, url in zip(others, urls, strict=True):
            assert api.client.patch(f"/webhooks/{webhook['id']}", json={"url": url}, headers=PATCH).is_success
        longest = longest_wait_of_three_changes(3)
    assert longest < usual + MOST_DELAY
    for webhook in others:
        attempted = next(one for one in deliveries(api, webhook) if one["position"] == 4)
        assert len(attempted["attempts"]) == 1, "the attempt is recorded"
        assert attempted["under_way_since"] is None
        assert attempted["interrupted"] == []


def test_twenty_webhooks_of_an_endpoint_that_floods_them_delay_a_good_one_by_a_second_at_most(
    receiver: Receiver,
) -> None:
    """They are attempted at the same time, in one event loop."""

    async def attempt_all(url: str) -> tuple[list[Outcome], float]:
        async with WebhookClient(HERE, seconds=SECONDS, at_once=4) as sender:
            floods = [
                asyncio.create_task(sender.attempt(Message(url, "evt", "{}", [SECRET]))) for _ in range(20)
            ]
            await asyncio.sleep(0.1)
            began = time.monotonic()
            assert (await sender.attempt(Message(receiver.url, "evt", "{}", [SECRET]))).delivered
            return await asyncio.gather(*floods), time.monotonic() - began

    flood = hostile_endpoints.NO_STATUS["sends the shortest early hints without end"]
    with listening(flood) as port:
        outcomes, seconds = asyncio.run(attempt_all(f"http://127.0.0.1:{port}/"))
    print(f"all ended after {seconds:.2f} s")
    assert seconds < MOST_DELAY
    assert {outcome.status for outcome in outcomes} == {None}
    assert all(outcome.error for outcome in outcomes)


def test_the_end_of_an_attempt_is_recorded_although_its_database_session_ends(
    api: Api, receiver: Receiver, run: Run, postgres_url: str
) -> None:
    """And other attempts go on: each notification is sent once."""
    webhooks = [subscribe(api, receiver.url) for _ in range(3)]
    api.placed_order()
    waiting = f"{WAITING_FOR_LOCKS} AND relation = 'webhook_attempt'::regclass"

    async def end_sessions_that_record() -> None:
        await fan_out()
        blocker = await asyncpg.connect(postgres_url)
        try:
            async with client() as sender:
                attempts = asyncio.create_task(attempt_due(sender, leasing_seconds=3))
                await asyncio.to_thread(all_sent.wait, 10)
                async with blocker.transaction():
                    await blocker.execute("LOCK TABLE webhook_attempt IN SHARE MODE")
                    while not await blocker.fetchval(f"SELECT count(*) {waiting}"):
                        assert not attempts.done()
                        await asyncio.sleep(0.005)
                    await blocker.fetch(f"SELECT pg_terminate_backend(pid) {waiting}")
                await attempts
        finally:
            await blocker.close()

    all_sent = threading.Event()

    def answer(_: object) -> Answer:
        if len(receiver.received) == len(webhooks):
            all_sent.set()
        return Answer(after=0.3)

    receiver.answer = answer
    run(end_sessions_that_record())
    for webhook in webhooks:
        (delivery,) = deliveries(api, webhook)
        assert delivery["status"] == "delivered"
        assert len(delivery["attempts"]) == 1
    assert len(receiver.received) == len(webhooks)
