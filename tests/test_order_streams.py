"""GET /orders/export, NDJSON or CSV: every match, one snapshot, constant memory, bounded places."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import random
import re
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from api.http.csv_text import escape_formula, unescape_formula
from api.http.open_connections import ConnectionCloser
from tests.builders import NOON, later, order_body, text_of
from tests.drivers import Api, Database, wait_until
from tests.processes import ServiceProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

NDJSON = {"Accept": "application/x-ndjson"}
CSV = {"Accept": "text/csv"}
PLACES = 4


def fill(database: Database, count: int) -> None:
    """Store orders three hours apart from 1970 on, 100,000 to a calendar, without changes."""
    for statement in (
        "ALTER TABLE orders DISABLE TRIGGER orders_record_change",
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
        "ALTER TABLE orders ENABLE TRIGGER orders_record_change",
        "ANALYZE orders",
    ):
        database.rows(statement)


def as_csv(order: dict[str, Any]) -> dict[str, str]:
    """Format an order as its CSV row should be."""
    cells = {name: "" if value is None else str(value) for name, value in order.items()}
    del cells["services"]
    return cells | {
        "totalfee": f"{order['totalfee']:.2f}",
        "service_ids": json.dumps([service["id"] for service in order["services"]], separators=(",", ":")),
        "service_names": json.dumps(
            [service["name"] for service in order["services"]], separators=(",", ":")
        ),
    }


@pytest.mark.parametrize(
    "query",
    ["", "calendar=crew-2", "service=456", "sort=-datetime", "sort=id", "sort=-id",
     "from=2030-06-05T00:00:00Z&to=2030-06-20T00:00:00Z", "calendar=nobody"],
)  # fmt: skip
def test_a_stream_contains_the_same_orders_as_the_pages(api: Api, query: str) -> None:
    """Byte for byte as each order is read by itself; and as CSV cell by cell."""
    for n in range(0, 60, 3):
        services = (123, 456) if n % 2 else (789,)
        assert api.place_order(
            at=later(hours=12 * n), fee=n + 0.5, services=services, calendar=f"crew-{n % 4}"
        ).is_success
    items = api.every_item(f"/orders?limit=7&{query}")
    lines = api.client.get(f"/orders/export?{query}", headers=NDJSON)
    assert lines.headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line) for line in lines.text.splitlines()] == items
    assert all(
        line.encode() in api.client.get(f"/orders/{json.loads(line)['id']}").content
        for line in lines.text.splitlines()[:2]
    )
    table = api.client.get(f"/orders/export?{query}", headers=CSV)
    assert table.headers["content-type"].startswith("text/csv")
    assert table.text.endswith("\r\n")
    assert list(csv.DictReader(io.StringIO(table.text, newline=""))) == [as_csv(order) for order in items]
    assert (len(items) == 0) == (query == "calendar=nobody")


@pytest.mark.parametrize(
    ("accept", "query", "media_type"),
    [
        ("text/csv;q=0.1, application/x-ndjson;q=0.9", "", "application/x-ndjson"),
        ("text/*", "", "text/csv; charset=utf-8"),
        ("application/x-ndjson;q=0, */*;q=0.1", "", "text/csv; charset=utf-8"),
        ("TEXT/CSV", "", "text/csv; charset=utf-8"),
        ("", "", "text/csv; charset=utf-8"),
        ("*/*", "format=ndjson", "application/x-ndjson"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "format=csv", "text/csv; charset=utf-8"),
    ],
)
def test_the_format_of_an_export_is_the_parameters_or_follows_the_accept_header(
    api: Api, accept: str, query: str, media_type: str
) -> None:
    """RFC 9110, 12.5.1; CSV without either. Browsers save it under a name."""
    answer = api.client.get(f"/orders/export?{query}", headers={"Accept": accept})
    assert answer.headers["content-type"] == media_type
    name = "orders.csv" if "csv" in media_type else "orders.ndjson"
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'


@pytest.mark.parametrize(
    ("path", "accept", "named"),
    [
        ("/orders", "text/csv", "GET /orders/export"),
        ("/orders", "application/x-ndjson", "GET /orders/export"),
        ("/fee-summaries", "text/csv", "GET /fee-summaries/export"),
        ("/orders/export?format=csv", "application/x-ndjson", "text/csv"),
        ("/orders/export", "application/json", "text/csv or application/x-ndjson"),
        ("/fee-summaries/export", "application/json", "text/csv"),
    ],
)
def test_a_media_type_that_is_not_here_is_406_and_names_where_it_is(
    api: Api, path: str, accept: str, named: str
) -> None:
    """Lists answer with JSON only, exports never do."""
    answer = api.client.get(path, headers={"Accept": accept})
    assert answer.status_code == 406
    assert named in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/orders/export", "/fee-summaries/export"])
def test_a_file_for_excel_begins_with_a_byte_order_mark_and_is_the_same_otherwise(
    api: Api, path: str
) -> None:
    """Without one, Excel reads UTF-8 as the machine's own encoding."""
    api.client.post("/services", json={"id": 1, "name": "Überprüfung"})
    api.placed_order(services=(1,))
    plain = api.client.get(path)
    assert api.client.get(f"{path}?bom=no").content == plain.content
    assert api.client.get(f"{path}?bom=yes").content == b"\xef\xbb\xbf" + plain.content


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("bom=yes&format=ndjson", "has no meaning with application/x-ndjson"),
        ("bom=true", "must be yes or no"),
        ("format=xlsx", "must be csv or ndjson"),
        ("limit=5", "has no meaning with text/csv"),
        ("limit=abc", "has no meaning with text/csv"),
        ("cursor=abc&format=ndjson", "has no meaning with text/csv or application/x-ndjson"),
    ],
)
def test_an_export_says_which_parameters_have_no_meaning(api: Api, query: str, detail: str) -> None:
    """An export has no pages."""
    answer = api.client.get(f"/orders/export?{query}")
    assert answer.status_code == 400
    (fault,) = answer.json()["errors"]
    assert fault["parameter"] == query.partition("=")[0]
    assert fault["detail"].startswith(detail)


DANGEROUS = [
    '=HYPERLINK("http://x","y")',
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    '"quoted", and =more',
    "a, b; c",
    "=cmd|' /C calc'!A0",
    "harmless;=1+1",
    "harmless; -1",
    "harmless,@SUM(A1)",
    "harmless|+1",
    "\uff1d1\uff0b1",
    "harmless;\uff20SUM(A1)",
    "'=1+1",
    "''=1+1; '-1",
    "harmless; '  '+1",
    "O'Brien = best-of-breed",
    'harmless;"=1+1;"',
    'harmless|" "=1+1',
    '"=1+1',
    "harmless:=2",
    "harmless\uff1b=2",
    "harmless\uff0c\uff0b2",
    "\u2a75",
    "\u22122",
    "\ufb292",
]
SEPARATORS = ";,|:\t\uff0c\uff1a\uff1b\uff5c"


def test_no_cell_of_an_export_is_executed_as_a_formula_whatever_a_program_splits_at(api: Api) -> None:
    """At any separator, within quotes or not; and each name can be read back."""
    for number, name in enumerate(DANGEROUS, start=1):
        assert api.client.post("/services", json={"id": number, "name": name}).status_code == 201, name
        api.placed_order(at=later(hours=3 * number), services=(number,))
    api.placed_order(at=NOON, services=(1, 123, 2))
    text = api.client.get("/orders/export").text
    for cell in re.split(rf"[{SEPARATORS}\r\n]+", text):
        assert not re.match(r'[\s"]*[=+\-@\uff1d\uff0b\uff0d\uff20]', cell), cell
    for separator in SEPARATORS:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
            for cell in row:
                assert not re.match(r"\s*[=+\-@\u2212]", unicodedata.normalize("NFKC", cell)), (
                    separator,
                    cell,
                )
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    names = [[unescape_formula(name) for name in json.loads(row["service_names"])] for row in rows]
    assert names == [[DANGEROUS[0], DANGEROUS[1], "Inspection"], *([name] for name in DANGEROUS)]


def test_an_escaped_formula_is_read_back_whatever_it_is_made_of() -> None:
    """Space, apostrophes, separators and formula characters in every order."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for _ in range(20_000):
        text = "".join(draw.choices(" '=-@;,|:\t\r\nax\uff1d\uff1b\u3000\"", k=draw.randint(0, 9)))
        escaped = escape_formula(text)
        assert unescape_formula(escaped) == text
        for cell in re.split(r"[;,|:\uff1b\n]", escaped):
            assert not cell.lstrip(' \u3000"').startswith(("=", "-", "@", "\uff1d")), (text, escaped)


def test_every_text_of_an_export_is_quoted_and_no_number(api: Api) -> None:
    """A program that splits at another separator then finds no cell of its own."""
    api.placed_order(id=5, services=(123, 456), fee=12.5)
    head, row = api.client.get("/orders/export").text.splitlines()
    assert head.startswith('"id","datetime","totalfee",')
    assert row.startswith('"5","2030-06-01T12:00:00.000Z",12.50,"default","[""123"",""456""]",')


def test_fees_in_a_stream_are_exact(api: Api) -> None:
    """To the cent at both ends of their range."""
    body = '{"datetime":"2030-06-01T12:00:00Z","totalfee":9999999999.99,"services":[{"id":"123"}]}'
    assert api.post_text("/orders", body).status_code == 201
    assert '"totalfee":9999999999.99,' in api.client.get("/orders/export", headers=NDJSON).text
    assert ",9999999999.99," in api.client.get("/orders/export", headers=CSV).text


@pytest.mark.parametrize("accept", [NDJSON, CSV])
@pytest.mark.parametrize("end", ["pg_terminate_backend", "pg_cancel_backend"])
def test_a_stream_that_loses_its_connection_before_the_first_byte_is_503(
    api: Api, database: Database, accept: dict[str, str], end: str
) -> None:
    """With Retry-After, as for every other failure of the database."""
    waiting = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'orders'::regclass"
    api.placed_order()
    database.rows("BEGIN")
    try:
        database.rows("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        with ThreadPoolExecutor(1) as thread:
            pending = thread.submit(api.client.get, "/orders/export", headers=accept)
            wait_until(lambda: bool(database.rows(waiting)), "the stream waits for the orders", 10)
            database.rows(f"SELECT {end}(pid) FROM ({waiting}) AS waiting")
            answer = pending.result()
    finally:
        database.rows("ROLLBACK")
    assert answer.status_code == 503, answer.text
    assert answer.json()["type"] == "/problems/unavailable"
    assert answer.headers["retry-after"]
    # Its place was freed, more often than there are places.
    for _ in range(PLACES + 1):
        assert api.client.get("/orders/export", headers=accept).status_code == 200


# --- large ones, from a server of its own ------------------------------------------------------------

MANY = 60_000
FIRST_ID = 1_000_000_000_000
LIMITS = {"OMS_STATEMENT_TIMEOUT": "1", "OMS_STREAM_WRITE_TIMEOUT": "3"}
"""A stream may take longer than the time limit of a statement, as each fetches only a part."""


@pytest.fixture(scope="module")
def large(own_database_url: str, redis_url: str) -> Iterator[tuple[Api, Database, psutil.Process]]:
    """An API with 60,000 orders, its database, and the process that serves it."""
    port = free_port()
    with Database(own_database_url) as database:
        database.add_services()
        # Indexes that streams do not need would double the time of this insert.
        database.rows("ALTER TABLE orders DROP CONSTRAINT orders_spacing")
        database.rows("DROP INDEX orders_by_calendar, orders_by_calendar_and_id")
        database.rows("ALTER TABLE orders DISABLE TRIGGER orders_keep_ordered_services")
        fill(database, MANY)
        with (
            ServiceProcess(
                "api.server", database=own_database_url, redis=redis_url, port=port, **LIMITS
            ) as process,
            Api(port) as api,
        ):
            api.wait_until_ready()
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


def test_looking_for_connections_leaves_no_file_descriptor_open() -> None:
    """An open copy of a pipe would keep its reader from ever seeing the end."""
    reader, writer = os.pipe()
    before = psutil.Process().num_fds()
    assert asyncio.run(ConnectionCloser(free_port(), 100).close_once()) == 0
    assert psutil.Process().num_fds() == before
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
