"""``POST /imports``: a file of orders over HTTP, all or none, as ``oms import`` stores it; and their list."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.builders import later, order_body, text_of
from tests.drivers import wait_until
from tests.import_steps import SAMPLE_ORDERS, import_files, imported
from tests.key_steps import bearer, make_key
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.drivers import Api, Database

CSV = "text/csv"
NDJSON = "application/x-ndjson"
JSON = "application/json"
HEAD = "datetime,totalfee,service_ids\n"
WHEN = ("created_at", "updated_at")


_STORING = """
SELECT count(*) FROM pg_stat_activity
WHERE query LIKE '%INSERT INTO orders%' AND state <> 'idle'
  AND pid <> pg_backend_pid() AND datname = current_database()
"""


def send(api: Api, content: object, media_type: str = JSON, **query: str) -> httpx.Response:
    """Send a file; text and bytes as they are, all else as JSON."""
    body = content if isinstance(content, (str, bytes)) else json.dumps(content)
    return api.client.post(
        "/imports", content=body, headers={"Content-Type": media_type}, params=query, timeout=60
    )


def far_apart(count: int, **fields: Any) -> list[dict[str, Any]]:
    """Return orders for a file, a day apart."""
    return [imported(n + 1, at=later(days=n), **fields) for n in range(count)]


def _stored(api: Api, *, with_times: bool) -> list[dict[str, Any]]:
    """Return the orders; without the moments of their storing, where the file does not have them."""
    orders = api.every_order()
    return [{k: v for k, v in order.items() if with_times or k not in WHEN} for order in orders]


@pytest.mark.parametrize("media_type", [JSON, NDJSON, CSV])
def test_an_imported_file_stores_what_the_command_stores_of_it(
    api: Api, database: Database, tmp_path: Path, media_type: str
) -> None:
    """In each format: ids, versions, times, names of then, formulas; orders that are near each other too."""
    api.placed_order(id=7, at=later(days=9), reference="=1+1", metadata={"@key": "-2"})
    api.placed_order(id=8, at=later(days=10), services=(123, 456))
    api.client.post("/orders/8/cancel")
    if media_type == JSON:
        content = SAMPLE_ORDERS.read_bytes()
    else:
        content = api.client.get(f"/orders/export?format={'csv' if media_type == CSV else 'ndjson'}").content
    suffix = {JSON: "json", NDJSON: "ndjson", CSV: "csv"}[media_type]
    path = tmp_path / f"orders.{suffix}"
    path.write_bytes(content)

    database.clean()
    database.add_services()
    assert import_files(path).returncode == 0
    by_command = _stored(api, with_times=media_type != JSON)
    database.clean()
    database.add_services()
    answer = send(api, content, media_type, file_name=path.name)
    assert answer.status_code == 201, answer.text
    assert _stored(api, with_times=media_type != JSON) == by_command
    result = answer.json()
    assert (result["orders"], result["file_name"]) == (len(by_command), path.name)
    (listed,) = api.every_item("/imports")
    assert listed == {name: value for name, value in result.items() if name != "imported_before"}


@pytest.fixture
def guarded_api(
    api: Api,  # noqa: ARG001 - its fixture cleans the database
    postgres_url: str,
    redis_url: str,
) -> Iterator[Api]:
    """An API of its own: one that has seen a key asks for keys from then on."""
    with serving(database=postgres_url, redis=redis_url) as (guarded, _):
        yield guarded


def test_the_caller_and_the_reason_are_in_the_changes_of_an_import(
    guarded_api: Api, database: Database
) -> None:
    """As for every other write."""
    headers = {
        "Change-Reason": "Moved%20here",
        **bearer(make_key(database, "mover", "orders:write", "services:manage")),
    }
    answer = guarded_api.client.post("/imports", json=far_apart(1), headers=headers)
    assert answer.status_code == 201, answer.text
    rows = database.rows("SELECT DISTINCT actor, reason FROM order_change")
    assert rows == [{"actor": "mover", "reason": "Moved here"}]


def test_a_file_is_imported_once_and_can_be_sent_again(api: Api, database: Database) -> None:
    """A caller that lost the answer gets it again, under whatever name; a dry run says so too."""
    first = send(api, far_apart(2), file_name="a.json").json()
    before = database.everything()
    for query in ({}, {"dry_run": "true"}, {"file_name": "b.json"}):
        again = send(api, far_apart(2), **query)
        assert again.status_code == 200
        assert again.json() == {
            **first,
            "imported_before": True,
            "file_name": query.get("file_name"),
        }
    assert database.everything() == before


def test_a_dry_run_answers_as_the_import_would_and_stores_nothing(api: Api, database: Database) -> None:
    """A file without faults, and one with: the same problem as without ``dry_run``."""
    api.placed_order(id=5, at=later(days=1))
    before = database.everything()
    answer = send(api, [imported(9)], dry_run="true")
    assert (answer.status_code, answer.json()["orders"]) == (200, 1)
    assert answer.json()["id"] is answer.json()["imported_at"] is None
    faulty = far_apart(2, fee=-1)
    refusals = [send(api, faulty, **query) for query in ({"dry_run": "true"}, {})]
    assert [answer.status_code for answer in refusals] == [422, 422]
    assert refusals[0].json()["errors"] == refusals[1].json()["errors"]
    assert database.everything() == before


def test_every_fault_is_named_with_its_place_and_line_and_nothing_is_stored(
    api: Api, database: Database
) -> None:
    """Those of rows, and of what they conflict with; the first hundred, and how many more there are."""
    api.placed_order(id=5, reference="taken")
    before = database.everything()
    rows = [
        imported(1, at=later(hours=1)),
        imported(2, at=later(days=1), services=(999,)),
        imported(3, at=later(days=2), **{"a.b/c": 1}),
        "order",
        imported(5, at=later(days=3), reference="taken"),
    ]
    places = {
        "#/0/datetime": "less than three hours from order 5",
        "#/1/services/0/id": "there is no service 999",
        "#/2/a.b~1c": "is not a member",
        "#/3": "must be a JSON object",
        "#/4/id": "5 is, or was, the id of another order",
        "#/4/reference": "order 5 has this reference",
    }
    for media_type, text in ((JSON, json.dumps(rows)), (NDJSON, "\n\n".join(map(json.dumps, rows)))):
        answer = send(api, text, media_type)
        assert answer.status_code == 422
        errors = {fault["pointer"]: fault for fault in answer.json()["errors"]}
        assert errors.keys() == places.keys()
        for place, fault in errors.items():
            assert fault["detail"].startswith(places[place])
            row = int(place.split("/")[1])
            assert fault.get("line") == (None if media_type == JSON else 2 * row + 1)
    many = send(api, HEAD + f"{text_of(later())},-1,123\n" * 250, CSV).json()
    assert len(many["errors"]) == 100
    assert many["errors"][99]["line"] == 101
    assert "245 more" in many["detail"]
    assert database.everything() == before


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("media_type", "content", "refusal"),
    [
        (JSON, DEEP, (400, "nested too deep")),
        (NDJSON, DEEP, (422, "nested too deep")),
        (JSON, b'["\xff"]', (400, "not UTF-8")),
        (CSV, HEAD.encode() + b"\xff,1,123", (400, "line 2 is not UTF-8")),
        (JSON, b'[{"reference": "\\u0000"}]', (400, "holds a NUL")),
        (CSV, HEAD.encode() + b"\0,1,123", (422, "must be")),
        (
            CSV,
            b"datetime,totalfee,service_ids,reference\n2030-01-01T00:00:00Z,1,123,a\0b",
            (422, "can be seen"),
        ),
        (CSV, HEAD.encode() + b'"' + b"x" * 2_000_000, (400, "is not CSV")),
        (CSV, HEAD.encode() + b'=cmd|"/C calc"!A0,1,123', (422, "must be")),
        (CSV, b"", (400, "the column datetime is missing")),
        (JSON, b"", (400, "it is empty")),
        (JSON, b'{"datetime": "2030-01-01T00:00:00Z"}', (400, "must be a JSON array")),
        (JSON, b"[" + b"[]," * 1_000_000 + b"[]]", (400, "more than 1,500,000 values")),
        (CSV, HEAD.encode() + b"\n" * 1_500_000, (400, "more than 1,500,000 values")),
        (NDJSON, b"1\n" * 100_001, (400, "more than 100,000 rows")),
        (NDJSON, b"1\n" * 90_000, (422, "must be a JSON object")),
        (JSON, b"[" + b"9" * 5_000 + b"]", (400, "too long")),
        (JSON, b'[{"totalfee": 1e999999999999999999999}]', (400, "too long")),
        (JSON, b"x" * 8_388_609, (413, "`oms import` takes larger")),
    ],
)
def test_a_hostile_file_is_refused_in_words_and_stores_nothing(
    api: Api, database: Database, media_type: str, content: bytes, refusal: tuple[int, str]
) -> None:
    """In limited time, too."""
    before = database.everything()
    began = time.monotonic()
    answer = send(api, content, media_type)
    assert answer.status_code == refusal[0], answer.text[:500]
    assert refusal[1] in answer.text
    assert time.monotonic() - began < 30
    assert database.everything() == before
    assert api.client.get("/health/ready").status_code == 200


@pytest.mark.parametrize("name", ["a%00b", "%0A", "%E2%80%AEgnp", "a" * 201, ""])
def test_a_file_name_has_only_characters_that_can_be_seen(api: Api, name: str) -> None:
    """People read it in the list."""
    answer = api.client.post(f"/imports?file_name={name}", json=[])
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["parameter"] == "file_name"


def test_writing_needs_the_scope_for_it_and_the_list_that_for_reading(
    guarded_api: Api, database: Database
) -> None:
    """A reader sees what was imported, and can import nothing, dry runs included."""
    client = guarded_api.client
    reader = bearer(make_key(database, "reader", "orders:read"))
    writer = bearer(make_key(database, "writer", "orders:write", "services:manage"))
    manager = bearer(make_key(database, "manager", "services:manage"))
    shop = bearer(make_key(database, "shop", "orders:write"))
    for query in ("", "?dry_run=true"):
        for headers in (reader, manager):
            assert client.post(f"/imports{query}", json=[], headers=headers).status_code == 403
        refused = client.post(f"/imports{query}", json=[], headers=shop)
        assert (refused.status_code, refused.json()["detail"]) == (
            403,
            "The key of shop lacks the scope services:manage.",
        )
    assert client.post("/imports", json=[], headers=writer).status_code == 201
    assert client.get("/imports", headers=writer).status_code == 403
    assert len(client.get("/imports", headers=reader).json()["items"]) == 1


def test_imports_are_listed_newest_first_in_pages(api: Api) -> None:
    """Each with what was sent."""
    for n in range(5):
        assert send(api, [order_body(at=later(days=n))], file_name=f"{n}.json").status_code == 201
    names, page = [], "/imports?limit=2"
    while page:
        answer = api.client.get(page).json()
        names += [item["file_name"] for item in answer["items"]]
        page = answer["next"]
    assert names == [f"{n}.json" for n in reversed(range(5))]
    for forged in ("x", "WyIiLCJhIl0"):
        assert api.client.get(f"/imports?cursor={forged}").status_code == 400


def test_a_process_imports_one_file_at_a_time_and_serves_others_meanwhile(
    api: Api, database: Database
) -> None:
    """A second file is 503 with Retry-After; reads and creates go on, however large the file is."""
    answers: list[httpx.Response] = []
    orders = [{**order_body(at=later(hours=3 * n)), "calendar": "old"} for n in range(8_000)]
    first = threading.Thread(target=lambda: answers.append(send(api, orders)))
    first.start()
    wait_until(lambda: database.value(_STORING) > 0, "orders are being stored")
    refusal = send(api, far_apart(1))
    assert refusal.status_code == 503
    assert refusal.headers["retry-after"]
    assert "one at a time" in refusal.json()["detail"]
    slowest = 0.0
    while first.is_alive():
        began = time.monotonic()
        assert api.client.get("/orders/1").status_code == 404
        slowest = max(slowest, time.monotonic() - began)
    first.join()
    assert answers[0].status_code == 201, answers[0].text
    assert slowest < 1.5
    assert database.value("SELECT count(*) FROM orders") == 8_000
    assert send(api, far_apart(1)).status_code == 201


@pytest.mark.usefixtures("api")
def test_an_import_whose_process_dies_leaves_nothing_and_can_be_sent_again(
    database: Database, postgres_url: str, redis_url: str
) -> None:
    """All of it or nothing; the same file is then imported."""
    orders = [{**order_body(at=later(hours=3 * n)), "calendar": "old"} for n in range(8_000)]
    with serving(database=postgres_url, redis=redis_url) as (dying, process):
        outcome: list[object] = []

        def import_it() -> None:
            try:
                outcome.append(send(dying, orders))
            except httpx.HTTPError as error:
                outcome.append(error)

        thread = threading.Thread(target=import_it)
        thread.start()
        wait_until(lambda: database.value(_STORING) > 0, "orders are being stored")
        process.kill()
        thread.join()
    assert isinstance(outcome[0], httpx.HTTPError)
    wait_until(lambda: database.value(_STORING) == 0, "PostgreSQL has ended the session")
    assert database.value("SELECT count(*) FROM orders") == 0
    assert database.value("SELECT count(*) FROM order_import") == 0
    with serving(database=postgres_url, redis=redis_url) as (next_api, _):
        assert send(next_api, orders).status_code == 201


def test_an_import_goes_on_when_its_caller_hangs_up(api: Api, database: Database) -> None:
    """It was asked for; whoever asks again learns that it is done."""
    orders = [{**order_body(at=later(hours=3 * n)), "calendar": "old"} for n in range(2_000)]
    with pytest.raises(httpx.ReadTimeout):
        api.client.post("/imports", json=orders, timeout=httpx.Timeout(5, read=0.05))
    wait_until(lambda: database.value("SELECT count(*) FROM orders") == 2_000, "all is stored")
