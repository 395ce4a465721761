"""GET /orders/export with many orders: one snapshot, constant memory, bounded places, slow readers."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from tests.builders import NOON, later, order_body, text_of
from tests.drivers import Api, Database, wait_until
from tests.key_steps import key_command, make_key
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator


NDJSON = {"Accept": "application/x-ndjson"}
CSV = {"Accept": "text/csv"}
PLACES = 4


def fill(database: Database, count: int) -> None:
    """Store orders three hours apart from 1970 on, 100,000 to a calendar, without changes."""
    for statement in (
        "ALTER TABLE orders DISABLE TRIGGER orders_record_creation",
        "INSERT INTO calendar (name) SELECT 'crew-' || n FROM generate_series(1, 10) AS n",
        f"""
        INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
        SELECT
            at, n % 1000 + 0.25, '{{123,456}}', '{{Inspection,Analysis}}',
            1 + n / 100000
        FROM (
            SELECT n, timestamptz '1970-01-01Z' + n % 100000 * interval '3 hours' AS at
            FROM generate_series(1, {count}) AS n
        ) AS t
        """,
        "ALTER TABLE orders ENABLE TRIGGER orders_record_creation",
        "ANALYZE orders",
    ):
        database.rows(statement)


MANY = 60_000
FIRST_ID = 1_000_000_000_000_000
LIMITS = {"OMS_STATEMENT_TIMEOUT": "1", "OMS_STREAM_WRITE_TIMEOUT": "3"}
"""A stream may take longer than the time limit of a statement, as each fetches only a part."""


@pytest.fixture(scope="module")
def large(own_database_url: str, redis_url: str) -> Iterator[tuple[Api, Database, psutil.Process]]:
    """An API with 60,000 orders, its database, and the process that serves it."""
    with Database(own_database_url) as database:
        database.add_services()
        # Indexes that streams do not need would double the time of this insert.
        database.rows("ALTER TABLE orders DROP CONSTRAINT orders_spacing")
        database.rows("DROP INDEX orders_by_calendar, orders_by_calendar_and_id")
        fill(database, MANY)
        with serving(database=own_database_url, redis=redis_url, **LIMITS) as (api, process):
            (server,) = [
                child
                for child in psutil.Process(process.pid).children(recursive=True)
                if child.num_threads() > 1
            ][:1]
            yield api, database, server


@contextmanager
def streaming(api: Api, query: str = "") -> Iterator[httpx.Response]:
    """Open a stream and read nothing of it yet."""
    with api.client.stream("GET", f"/orders/export{query}", headers=NDJSON) as answer:
        yield answer


def streams_of(database: Database) -> int:
    """Count the connections that serve streams: they are in a transaction."""
    return int(
        database.value(
            """
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND query ~ '^(DECLARE|FETCH) ' AND state <> 'idle'
            """
        )
    )


def test_the_memory_of_a_stream_does_not_grow_with_its_length(
    large: tuple[Api, Database, psutil.Process],
) -> None:
    """60,000 orders, some 16 MB, leave the process as large as 2,000 did."""
    api, _, server = large
    api.client.get("/orders/export?to=1970-05-01T00:00:00Z", headers=NDJSON)
    before = server.memory_info().rss
    peak, lines, size = before, 0, 0
    started = time.monotonic()
    with streaming(api) as answer:
        for chunk in answer.iter_bytes():
            lines += chunk.count(b"\n")
            size += len(chunk)
            peak = max(peak, server.memory_info().rss)
    seconds = time.monotonic() - started
    more = (peak - before) / 1e6
    print(f"{lines:,} orders, {size / 1e6:.0f} MB in {seconds:.1f} s, memory +{more:.1f} MB")
    assert lines == MANY
    assert size > 14_000_000
    assert peak - before < 7_000_000


def test_a_slow_reader_of_a_stream_does_not_fill_the_memory(
    large: tuple[Api, Database, psutil.Process],
) -> None:
    """Rows are fetched only as they are read."""
    api, database, server = large
    before = server.memory_info().rss
    with streaming(api) as answer:
        chunks = answer.iter_bytes(1_000)
        next(chunks)
        time.sleep(0.5)  # in which a fast reader receives a good part of the 16 MB
        assert streams_of(database) == 1
        assert server.memory_info().rss - before < 7_000_000
        assert api.client.get("/orders?limit=1").status_code == 200
    wait_until(lambda: streams_of(database) == 0, "the stream has ended")


def test_a_stream_shows_one_snapshot_despite_writes(
    large: tuple[Api, Database, psutil.Process],
) -> None:
    """Every order as it was when the stream began: none deleted, changed, moved or new."""
    api, database, _ = large
    late = "FROM orders WHERE datetime >= '1985-01-01Z'"
    expected, count = (database.value(f"SELECT {what} {late}") for what in ("sum(totalfee)", "count(*)"))
    with streaming(api, "?from=1985-01-01T00:00:00Z") as answer:
        lines = answer.iter_lines()
        shown = [json.loads(next(lines))]

        def write() -> list[int]:
            return [
                api.client.delete(f"/orders/{FIRST_ID + 50_000}").status_code,
                api.client.patch(f"/orders/{FIRST_ID + 58_000}", json={"totalfee": 5_000_000}).status_code,
                api.client.patch(
                    f"/orders/{FIRST_ID + 56_000}", json={"datetime": text_of(NOON)}
                ).status_code,
                api.client.post("/orders", json=order_body(at=later(days=1), fee=7_000_000)).status_code,
            ]

        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(write).result(20) == [204, 200, 200, 201]
        shown += map(json.loads, lines)
    assert len(shown) == count
    assert sum(order["totalfee"] for order in shown) == float(expected)
    assert database.value("SELECT max(totalfee) FROM orders") == 7_000_000


def test_a_fifth_concurrent_stream_is_answered_503(large: tuple[Api, Database, psutil.Process]) -> None:
    """With Retry-After. Other requests are served, and a freed place can be taken."""
    api, database, _ = large
    with ExitStack() as streams:
        opened = [streams.enter_context(streaming(api)) for _ in range(PLACES)]
        assert [answer.status_code for answer in opened] == [200] * PLACES
        refused = api.client.get("/orders/export", headers=CSV)
        assert refused.status_code == 503
        assert refused.json()["type"] == "/problems/unavailable"
        assert int(refused.headers["retry-after"]) > 0
        assert api.client.get("/orders?limit=1").status_code == 200
    wait_until(lambda: streams_of(database) == 0, "the streams have ended")
    with streaming(api) as answer:
        assert answer.status_code == 200


def test_readers_that_stop_reading_are_disconnected(
    large: tuple[Api, Database, psutil.Process],
) -> None:
    """Four of them would otherwise block all streams for as long as they please."""
    api, database, _ = large
    with ExitStack() as streams:
        for _ in range(PLACES):
            streams.enter_context(streaming(api))
        assert streams_of(database) == PLACES
        wait_until(lambda: streams_of(database) == 0, "the streams have ended", seconds=15)
        with streaming(api) as answer:
            assert answer.status_code == 200


def test_a_client_that_disconnects_from_a_stream_frees_its_place(
    large: tuple[Api, Database, psutil.Process],
) -> None:
    """And its connection, whether it has read something or nothing."""
    api, database, _ = large
    for read in (False, True) * PLACES:
        with streaming(api) as answer:
            assert answer.status_code == 200
            if read:
                next(answer.iter_bytes())
        wait_until(lambda: streams_of(database) == 0, "the stream has ended")


def test_a_head_request_for_a_stream_takes_no_place(large: tuple[Api, Database, psutil.Process]) -> None:
    """Nothing is streamed."""
    api, database, _ = large
    for _ in range(3 * PLACES):
        assert api.client.head("/orders/export", headers=CSV).status_code == 200
    wait_until(lambda: streams_of(database) == 0, "nothing is left open")


def test_an_export_ends_when_its_key_is_revoked(
    large: tuple[Api, Database, psutil.Process], redis_url: str
) -> None:
    """However slowly its client reads, which sees that the answer is not complete. Others are."""
    _, database, _ = large
    try:
        with serving(database=database.url, redis=redis_url, OMS_ACCESS="keys") as (api, _):
            for name in ("thief", "clerk"):
                key = make_key(database, name, "orders:read")
                time.sleep(1)
                headers = {**NDJSON, "Authorization": f"Bearer {key}"}
                with api.client.stream("GET", "/orders/export", headers=headers) as answer:
                    chunks = answer.iter_bytes(1_000)
                    lines = next(chunks).count(b"\n")
                    if name == "clerk":
                        assert lines + sum(chunk.count(b"\n") for chunk in chunks) == MANY
                        continue
                    key_command(database, "revoke", name)
                    time.sleep(1)
                    rest: list[int] = []
                    with pytest.raises(httpx.RemoteProtocolError):
                        rest.extend(chunk.count(b"\n") for chunk in chunks)
                    assert lines + sum(rest) < MANY / 2
            wait_until(lambda: streams_of(database) == 0, "the streams have ended")
    finally:
        database.rows("DELETE FROM api_key")  # the other API is open again
        time.sleep(1)
