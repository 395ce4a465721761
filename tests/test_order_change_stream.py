"""The live stream of order changes, on sockets, while Redis is down."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from api.changes.tail import Tail
from api.relay.retention import trim_log
from tests.builders import later
from tests.drivers import Api, wait_until
from tests.open_files import spare_files
from tests.processes import NO_REDIS, ServiceProcess
from tests.serving import serving
from tests.steps import apply_every_change, assign_all, whole_log
from tests.subscribers import EventStream, Feed, raw_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from tests.drivers import Database

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="module")
def _streaming(postgres_url: str) -> Iterator[tuple[Api, ServiceProcess]]:
    short_timeouts = {"OMS_STREAM_SILENCE": "0.5", "OMS_STREAM_WRITE_TIMEOUT": "1"}
    with serving(database=postgres_url, redis=NO_REDIS, **short_timeouts) as served:
        yield served


@pytest.fixture
def api(_streaming: tuple[Api, ServiceProcess], database: Database) -> Api:
    """An API with short stream timeouts, and without Redis."""
    database.add_services()
    return _streaming[0]


@pytest.fixture
def process(_streaming: tuple[Api, ServiceProcess]) -> ServiceProcess:
    """That API's process."""
    return _streaming[1]


def open_streams(process: ServiceProcess) -> int:
    """Count the connections that the server has open."""
    workers = psutil.Process(process.pid).children(recursive=True)
    return sum(
        connection.status == psutil.CONN_ESTABLISHED
        for worker in workers
        for connection in worker.net_connections("tcp")
    )


def place_small(database: Database, count: int) -> None:
    """Place ordinary orders, with plain SQL."""
    database.rows("INSERT INTO calendar (name) VALUES ('default') ON CONFLICT DO NOTHING")
    database.rows(
        """
        INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
        SELECT at, 10, '{123}', '{Inspection}', 1
        FROM (SELECT $1::timestamptz + n * interval '3 hours' AS at FROM generate_series(1, $2::int) AS n)
        """,
        later(),
        count,
    )


def place_large(database: Database, count: int) -> None:
    """Place orders whose notifications have 50 KB each, with plain SQL."""
    database.rows("INSERT INTO calendar (name) VALUES ('default') ON CONFLICT DO NOTHING")
    database.rows(
        """
        INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
        SELECT at, 10,
            ARRAY(SELECT generate_series(1, 50)), array_fill(repeat('x', 950), ARRAY[50]), 1
        FROM (SELECT $1::timestamptz + n * interval '3 hours' AS at FROM generate_series(1, $2::int) AS n)
        """,
        later(),
        count,
    )


def test_the_stream_sends_the_notifications_of_the_feed_as_events(api: Api, run: Run) -> None:
    order = api.placed_order()["id"]
    api.client.patch(f"/orders/{order}", json={"totalfee": 1})
    run(assign_all())
    with EventStream(api.url, 0) as stream:
        assert stream.answer.status == 200
        assert stream.answer.getheader("Content-Type") == "text/event-stream"
        assert stream.answer.getheader("Cache-Control") == "no-store"
        events = stream.take(2)
        api.client.delete(f"/orders/{order}")
        run(assign_all())
        events += stream.take(1)
    assert [event.data for event in events] == Feed.after(api).all()
    assert [(event.id, event.type) for event in events] == [
        (1, "order.created"),
        (2, "order.updated"),
        (3, "order.deleted"),
    ]


def test_a_stream_without_a_position_begins_now_and_can_be_resumed_before_its_first_event(
    api: Api, run: Run
) -> None:
    api.placed_order()
    run(assign_all())
    with EventStream(api.url) as stream:
        lines = stream.lines()
        greeting = [next(lines) for _ in range(5)]
        assert 1_000 <= int(greeting[0].removeprefix("retry: ")) < 3_000
        # With data: some clients deliver an id alone as an event that cannot be parsed.
        assert greeting[1:] == ["id: 1", "event: position", 'data: {"position":1}', ""]
    api.placed_order(at=later(days=1))
    run(assign_all())
    with EventStream(api.url, last_event_id=1) as stream:
        assert [event.id for event in stream.take(1)] == [2]


def test_an_idle_event_stream_sends_comments(api: Api) -> None:
    with EventStream(api.url) as stream:
        began = time.monotonic()
        for line in stream.lines():
            if line.startswith(":"):
                break
        assert 0.4 < time.monotonic() - began < 5


def test_a_stream_can_be_cut_off_anywhere_and_resumed_without_gap_or_repeat(api: Api, run: Run) -> None:
    for day in range(40):
        api.placed_order(at=later(days=day))
    run(assign_all())
    taken: list[str] = []
    for piece in (1, 7, 2, 13, 17):
        # As a browser does: the address stays the same, the header names the last event.
        with EventStream(api.url, 0, last_event_id=len(taken)) as stream:
            taken += [event.data for event in stream.take(piece)]
    assert taken == Feed.after(api, limit=100).all()


def test_streams_that_fell_behind_the_buffer_catch_up_and_continue_live(
    api: Api, run: Run, database: Database
) -> None:
    # More than the buffer keeps, in changes and in bytes; one stream follows all the time.
    with EventStream(api.url) as live:
        live_events: list[int] = []

        def follow() -> None:
            live_events.extend(event.id for event in live.take(301))

        following = threading.Thread(target=follow)
        following.start()
        place_large(database, 100)
        for fee in (1, 2):
            database.rows("UPDATE orders SET totalfee = $1, version = version + 1", fee)
            run(assign_all())
        with EventStream(api.url, 0) as behind:
            assert [event.id for event in behind.take(300)] == list(range(1, 301))
            api.placed_order(at=later(days=300))
            run(assign_all())
            assert [event.id for event in behind.take(1)] == [301]
        following.join(20)
    assert live_events == list(range(1, 302))


def test_streams_at_many_positions_need_little_memory(run: Run, database: Database) -> None:
    """Each is at a chunk of its own: without a limit, 200 of them would take 50 MB."""
    tail = Tail()
    run(tail.poll_once())
    place_small(database, 2_000)
    end = run(assign_all())
    while run(tail.poll_once()):
        pass
    assert tail.last == end == 2_000
    tracemalloc.start()
    try:
        assert all(tail.chunk(after)[1] > after for after in range(0, end, 10))
        assert tracemalloc.get_traced_memory()[0] < 12 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_slow_reader_of_the_stream_is_disconnected_without_delaying_others(
    api: Api, run: Run, database: Database, process: ServiceProcess
) -> None:
    run(assign_all())
    wait_until(lambda: open_streams(process) <= 3, "earlier streams are closed")
    before = open_streams(process)
    slow = raw_stream(api.url, 0, receive_buffer=4_096)
    with EventStream(api.url, 0) as quick:
        wait_until(lambda: open_streams(process) == before + 2, "both streams are open")
        place_large(database, 200)
        run(assign_all())
        began = time.monotonic()
        assert [event.id for event in quick.take(200)] == list(range(1, 201))
        assert time.monotonic() - began < 10
        wait_until(lambda: open_streams(process) == before + 1, "the slow reader is disconnected")
    # The events it received are complete up to a point; it can resume from there.
    received = b""
    try:
        while more := slow.recv(1 << 20):
            received += more
    except OSError as error:
        print(error)
    slow.close()
    last = max(0, received.count(b"\ndata: {") - 1)
    print(f"{len(received)} bytes reached the slow reader, {last} whole events")
    assert last < 200
    with EventStream(api.url, last_event_id=last) as resumed:
        assert [event.id for event in resumed.take(200 - last)] == list(range(last + 1, 201))


def test_an_invalid_request_for_a_stream_is_refused(api: Api) -> None:
    def refused(query: str = "", **headers: str) -> tuple[int, Any]:
        answer = api.client.get(f"/order-changes/stream{query}", headers=headers)
        return answer.status_code, answer.json()

    assert refused(Accept="application/json")[0] == 406
    assert refused("?after=x")[0] == 400
    assert refused("?limit=1")[0] == 400
    status, problem = refused(**{"Last-Event-ID": "x"})
    assert (status, problem["errors"][0]["header"]) == (400, "Last-Event-ID")
    for twice in (("x", "0"), ("0", "0")):
        again = api.client.get("/order-changes/stream", headers=[("Last-Event-ID", one) for one in twice])
        assert (again.status_code, again.json()["errors"][0]["header"]) == (400, "Last-Event-ID")
    assert refused("?after=5")[0] == 410
    head = api.client.head("/order-changes/stream")
    assert (head.status_code, head.content, head.headers["Content-Type"]) == (200, b"", "text/event-stream")


def test_replacing_the_change_log_ends_its_streams(api: Api, run: Run, database: Database) -> None:
    api.placed_order()
    run(assign_all())
    with EventStream(api.url, 0) as stream:
        events = stream.events()
        assert next(events).id == 1
        database.clean()
        database.add_services()
        assert list(events) == []
    api.placed_order()
    run(assign_all())
    with EventStream(api.url, 0) as stream:
        assert [event.data for event in stream.take(1)] == [c.notification() for c in run(whole_log())]


def test_removing_the_last_change_of_the_log_does_not_end_its_streams(
    api: Api, run: Run, database: Database
) -> None:
    """Streams that have sent it continue."""
    with EventStream(api.url, 0) as stream:
        events = stream.events()
        api.placed_order()
        run(apply_every_change())
        assert next(events).id == 1
        database.rows("UPDATE order_change SET recorded_at = recorded_at - interval '91 days'")
        assert run(trim_log()) == 1
        api.placed_order(at=later(days=1))
        run(assign_all())
        assert next(events).id == 2


def test_a_thousand_idle_streams_use_few_resources_and_end_promptly(
    database: Database, run: Run, postgres_url: str
) -> None:
    """Or as many as this process may open files for, and a few to spare for what else it opens."""
    database.add_services()
    streams = min(1_000, spare_files() // 3)
    assert streams >= 500

    async def open_one(api: Api) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        url = api.client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"GET /order-changes/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b'data: {"position":0}\n\n')
        return reader, writer

    opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def scenario(api: Api, process: ServiceProcess) -> None:
        try:
            await follow(api, process)
        finally:  # the tests that follow need these files too
            for _, writer in opened:
                writer.close()

    async def follow(api: Api, process: ServiceProcess) -> None:
        (worker,) = psutil.Process(process.pid).children()
        memory = worker.memory_info().rss
        while len(opened) < streams:
            more = min(50, streams - len(opened))
            opened.extend(await asyncio.gather(*(open_one(api) for _ in range(more))))
        used, began = sum(worker.cpu_times()[:2]), time.monotonic()
        await asyncio.sleep(1.5)
        share = (sum(worker.cpu_times()[:2]) - used) / (time.monotonic() - began)
        grown = (worker.memory_info().rss - memory) / streams / 1024
        print(f"{streams} idle streams: {share:.3f} of a core, {grown:.0f} KiB each")
        # Orders are placed as usual, and every stream receives them.
        began = time.monotonic()
        answer = await asyncio.to_thread(api.place_order)
        assert answer.status_code == 201
        placing = time.monotonic() - began
        await assign_all()
        began = time.monotonic()
        received_first = await asyncio.gather(*(reader.readuntil(b"id: 1\n") for reader, _ in opened))
        print(f"placed in {placing:.3f} s, received by all after {time.monotonic() - began:.3f} s")
        assert len(received_first) == streams
        began = time.monotonic()
        await asyncio.to_thread(process.stop)
        rest = await asyncio.gather(*(reader.read() for reader, _ in opened))
        stopping = time.monotonic() - began
        print(f"stopped within {stopping:.3f} s")
        # Ended properly (the last chunk is empty), not cut off.
        assert {text[-5:] for text in rest} == {b"0\r\n\r\n"}
        assert grown < 500
        assert share < 0.5
        assert stopping < 6

    with serving(database=postgres_url, redis=NO_REDIS) as (api, process):
        run(scenario(api, process))


def test_a_waiting_request_whose_client_disconnects_frees_its_place(api: Api) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    wait_until(lambda: api.waiting() == 0, "no earlier reader is connected")
    callers = [socket.create_connection((host, int(port))) for _ in range(5)]
    for caller in callers:
        caller.sendall(f"GET /order-changes?wait=30 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    wait_until(lambda: api.waiting() == 5, "all requests wait")
    for caller in callers:
        caller.close()
    wait_until(lambda: api.waiting() == 0, "no request waits", seconds=10)


def test_a_waiting_request_does_not_delay_the_end_of_the_process(
    database: Database, postgres_url: str
) -> None:
    database.add_services()
    with serving(database=postgres_url, redis=NO_REDIS) as (api, process):
        answers: list[Any] = []
        waiting = threading.Thread(target=lambda: answers.append(api.client.get("/order-changes?wait=30")))
        waiting.start()
        wait_until(lambda: api.waiting() == 1, "the request waits")
        began = time.monotonic()
        process.stop()
        assert time.monotonic() - began < 6
        waiting.join(5)
        assert answers[0].status_code == http.client.OK
        assert answers[0].json()["items"] == []
