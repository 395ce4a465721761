"""GET /orders/export, NDJSON or CSV: every match, one snapshot, constant memory, bounded places."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from api.http.csv_text import escape_formula, unescape_formula
from tests.builders import NOON, later
from tests.drivers import WAITING_FOR_LOCKS, Api, Database, wait_until

NDJSON = {"Accept": "application/x-ndjson"}
CSV = {"Accept": "text/csv"}
PLACES = 4


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
    waiting = f"SELECT pid {WAITING_FOR_LOCKS} AND relation = 'orders'::regclass"
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
