"""Idempotency-Key: a repeated create stores nothing twice, whatever happened to the first."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from api.relay.retention import delete_expired_keys
from stack.embedded_valkey import free_port
from tests.builders import NOON, later, order_body
from tests.drivers import Api, Database, at_once, wait_until
from tests.processes import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator


# For each operation a body, and another one that differs.
CREATES: dict[str, tuple[Any, Any]] = {
    "/orders": (order_body(), order_body(fee=101)),
    "/orders/batch": (
        {"orders": [order_body(), order_body(at=later(hours=3))]},
        {"orders": [order_body(at=later(hours=3)), order_body()]},
    ),
    "/services": ({"name": "Cleaning"}, {"name": "Cleaning again"}),
}


def posted(api: Api, path: str, body: Any, key: str = "try-1") -> httpx.Response:
    """Post a body with a key."""
    return api.client.post(path, json=body, headers={"Idempotency-Key": key})


def same_answer(answer: httpx.Response, first: httpx.Response) -> None:
    """Check that an answer is a repeat of the first one, byte for byte, and marked as such."""
    assert (answer.status_code, answer.content) == (first.status_code, first.content), answer.text
    for name in ("location", "etag", "content-type"):
        assert answer.headers.get(name) == first.headers.get(name)
    assert answer.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers


@pytest.mark.parametrize("path", CREATES)
def test_a_repeated_create_gets_the_first_answer_and_stores_nothing(
    api: Api, database: Database, path: str
) -> None:
    """Also when the same content is written differently."""
    body, _ = CREATES[path]
    first = posted(api, path, body)
    assert first.status_code == 201
    counts = database.counts()
    same_answer(posted(api, path, body), first)
    written_differently = json.dumps(body, sort_keys=True, indent=4).replace(
        '"totalfee": 100', '"totalfee": 1e2'
    )
    headers = {"Idempotency-Key": "try-1", "Content-Type": "application/json; charset=utf-8"}
    same_answer(api.client.post(path, content=written_differently, headers=headers), first)
    assert database.counts() == counts


@pytest.mark.parametrize("path", CREATES)
def test_an_idempotency_key_reused_with_other_content_is_refused(
    api: Api, database: Database, path: str
) -> None:
    """Its answer would be an order with other content."""
    body, other = CREATES[path]
    posted(api, path, body)
    counts = database.counts()
    answer = posted(api, path, other)
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/idempotency-key-reused"
    assert "try-1" in answer.json()["detail"]
    assert database.counts() == counts


def test_the_order_of_metadata_makes_no_difference_to_a_repeat(api: Api) -> None:
    """The members of a JSON object have no order."""
    metadata = {"a": "1", "b": "2"}
    for path, body in (
        ("/orders", lambda own: order_body(metadata=own)),
        ("/orders/batch", lambda own: {"orders": [order_body(at=later(days=1), metadata=own)]}),
    ):
        first, repeat = (
            api.client.post(path, json=body(own), headers={"Idempotency-Key": "k"})
            for own in (metadata, dict(reversed(metadata.items())))
        )
        assert first.status_code == repeat.status_code == 201, repeat.text
        assert repeat.content == first.content
        assert repeat.headers["idempotency-replayed"] == "true"


# SHA-256 of the content of order_body(), as the release computed it that knew no reference and no metadata.
FINGERPRINTS_BEFORE = {
    "createOrder": "f696b055f2b59a7d4a01356426c201a1fb65a09baa90466099f0c76409d9fb5a",
    "createOrders": "41ff79307946413ab4184f263210753cef8189c1e19ec500aa3a4b6d2cf0a5ec",
}


@pytest.mark.parametrize("operation", FINGERPRINTS_BEFORE)
def test_a_create_that_an_earlier_release_answered_is_repeated_after_the_upgrade(
    api: Api, database: Database, operation: str
) -> None:
    """Answers are lost when processes are replaced."""
    path, body = "/orders", order_body()
    stored = '{"id":"7","version":1,"updated_at":"2026-11-01T09:00:00.000Z"}'
    if operation == "createOrders":
        path, body, stored = "/orders/batch", {"orders": [body]}, f'{{"orders":[{stored}]}}'
    database.rows(
        "INSERT INTO idempotency_key (caller, operation, key, fingerprint, answer) "
        "VALUES ($1, $2, $3, $4, $5)",
        *("anyone", operation, "k", bytes.fromhex(FINGERPRINTS_BEFORE[operation]), stored),
    )
    answer = api.client.post(path, json=body, headers={"Idempotency-Key": "k"})
    assert (answer.status_code, answer.text) == (201, stored)
    assert api.every_order() == []


def test_a_repeated_create_gets_the_first_answer_whatever_happened_to_the_order(api: Api) -> None:
    """The answer belongs to the create; a GET shows the current state."""
    first = posted(api, "/orders", order_body())
    path = first.headers["location"]
    assert api.client.patch(path, json={"totalfee": 7}).status_code == 200
    same_answer(posted(api, "/orders", order_body()), first)
    assert api.client.delete(path).status_code == 204
    same_answer(posted(api, "/orders", order_body()), first)
    assert api.client.get(path).status_code == 404


def test_a_repeated_create_without_a_datetime_keeps_the_datetime_of_the_first(api: Api) -> None:
    """A repeat has no datetime of its own."""
    first = posted(api, "/orders", order_body(at=None))
    same_answer(posted(api, "/orders", order_body(at=None)), first)


def test_one_idempotency_key_may_be_used_for_different_operations(api: Api) -> None:
    """So a caller may use one key for several operations that belong together."""
    for path, (body, _) in CREATES.items():
        moved = json.loads(json.dumps(body).replace("2030-06-01", "2031-06-01")) if "batch" in path else body
        answer = posted(api, path, moved, "one-for-all")
        assert answer.status_code == 201, answer.text
        assert "idempotency-replayed" not in answer.headers


def test_idempotency_keys_are_compared_exactly(api: Api) -> None:
    """Case-sensitive, up to 255 visible characters."""
    for hours, key in enumerate(("a", "A", "a.", "!" * 255, "~" * 254)):
        answer = posted(api, "/orders", order_body(at=later(hours=3 * hours)), key)
        assert answer.status_code == 201
        assert "idempotency-replayed" not in answer.headers


def test_a_refused_create_leaves_its_idempotency_key_unused(api: Api, database: Database) -> None:
    """The corrected request may be sent with the same key."""
    in_the_way = api.placed_order(at=later(hours=1))
    counts = database.counts()
    assert posted(api, "/orders", order_body()).status_code == 409
    assert posted(api, "/orders", order_body(services=(999,))).status_code == 422
    assert posted(api, "/orders/batch", {"orders": [order_body()]}).status_code == 409
    assert posted(api, "/services", {"name": "inspection"}).status_code == 409
    assert database.counts() == counts
    api.client.delete(f"/orders/{in_the_way['id']}")
    first = posted(api, "/orders", order_body())
    assert first.status_code == 201
    same_answer(posted(api, "/orders", order_body()), first)


def test_a_dry_run_leaves_its_idempotency_key_unused(api: Api) -> None:
    """It stores nothing, so there is nothing to repeat."""
    assert posted(api, "/orders?dry_run=true", order_body(fee=1)).status_code == 200
    first = posted(api, "/orders", order_body())
    assert first.status_code == 201
    assert "idempotency-replayed" not in first.headers
    assert posted(api, "/orders?dry_run=true", order_body()).status_code == 409


# --- at the same time --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CREATES)
def test_twenty_concurrent_creates_with_one_key_store_one_order_and_get_one_answer(
    api: Api, database: Database, path: str
) -> None:
    """Not one gets 409 because of its own order."""
    body, _ = CREATES[path]
    answers = at_once([lambda: posted(api, path, body)] * 20)
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    stored = database.counts()
    assert stored["idempotency_key"] == 1
    assert stored["orders"] == {"/orders": 1, "/orders/batch": 2, "/services": 0}[path]
    assert stored["service"] == (4 if path == "/services" else 3)


def test_of_two_concurrent_creates_with_one_key_and_different_content_one_is_stored(
    api: Api, database: Database
) -> None:
    """The other is refused."""
    bodies = [order_body(at=later(days=n % 2)) for n in range(12)]
    answers = at_once([partial(posted, api, "/orders", body) for body in bodies])
    assert sorted({answer.status_code for answer in answers}) == [201, 422]
    assert database.counts()["orders"] == 1


@contextmanager
def delayed_creates(database: Database) -> Iterator[None]:
    """Make every create wait before its order is stored."""
    database.rows("BEGIN")
    database.rows("LOCK TABLE orders IN SHARE MODE")
    try:
        yield
    finally:
        database.rows("ROLLBACK")


def waiting(database: Database) -> int:
    """Count the sessions that wait for a lock of others."""
    return int(
        database.value(
            """
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'
            """
        )
    )


def test_a_repeated_create_waits_while_the_first_is_running(api: Api, database: Database) -> None:
    """One of the two stores the order, and the other gets its answer."""
    with ThreadPoolExecutor(2) as threads:
        with delayed_creates(database):
            first = threads.submit(posted, api, "/orders", order_body())
            wait_until(lambda: waiting(database) == 1, "the first try is under way")
            repeat = threads.submit(posted, api, "/orders", order_body())
            wait_until(lambda: waiting(database) == 2, "the repeat waits")
            assert not repeat.done()
        answers = [first.result(), repeat.result()]
        answers.sort(key=lambda answer: "idempotency-replayed" in answer.headers)
        same_answer(answers[1], answers[0])
    assert database.counts()["orders"] == 1


def test_a_repeated_create_is_executed_when_the_first_is_refused_meanwhile(
    api: Api, database: Database
) -> None:
    """The refused one left the key unused."""
    refused = order_body(services=(999,))
    with ThreadPoolExecutor(2) as threads:
        with delayed_creates(database):
            first = threads.submit(posted, api, "/orders", refused)
            wait_until(lambda: waiting(database) == 1, "the first try is under way")
            repeat = threads.submit(posted, api, "/orders", order_body())
            wait_until(lambda: waiting(database) == 2, "the repeat waits")
        assert first.result().status_code == 422
        assert repeat.result().status_code == 201


# --- expiry ------------------------------------------------------------------------------------------


def make_keys_older(database: Database, age: str) -> None:
    """Set the age of all keys, a PostgreSQL interval."""
    database.rows(f"UPDATE idempotency_key SET created_at = now() - interval '{age}'")


def test_an_idempotency_key_is_valid_for_24_hours(api: Api, database: Database) -> None:
    """Then it counts as a new key."""
    first = posted(api, "/orders", order_body())
    make_keys_older(database, "23 hours 59 minutes")
    same_answer(posted(api, "/orders", order_body()), first)
    make_keys_older(database, "24 hours 1 second")
    # A new attempt, as without a key: it conflicts with the first one's order.
    assert posted(api, "/orders", order_body()).status_code == 409
    second = posted(api, "/orders", order_body(at=later(days=1)))
    assert second.status_code == 201
    assert second.headers["location"] != first.headers["location"]
    same_answer(posted(api, "/orders", order_body(at=later(days=1))), second)


def test_many_concurrent_creates_with_an_expired_idempotency_key_store_one_order(
    api: Api, database: Database
) -> None:
    """One is the first, as with a key that was never used."""
    posted(api, "/orders", order_body())
    make_keys_older(database, "2 days")
    answers = at_once([lambda: posted(api, "/orders", order_body(at=later(days=1)))] * 10)
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    assert database.counts()["orders"] == 2


def test_the_relay_deletes_only_expired_idempotency_keys(
    run: Callable[[Coroutine[Any, Any, int]], int], database: Database
) -> None:
    """A thousand at a time, so that it blocks nothing."""
    database.rows(
        """
        INSERT INTO idempotency_key (caller, operation, key, fingerprint, answer, created_at)
        SELECT 'anyone', 'createOrder', n::text, '', '', now() - n * interval '1 minute'
        FROM generate_series(1, 3000) AS n
        """
    )
    assert [run(delete_expired_keys()) for _ in range(3)] == [1_000, 561, 0]
    assert database.value("SELECT max(key::int) FROM idempotency_key") in (1_439, 1_440)


# --- when the process dies ---------------------------------------------------------------------------

SLOW_COMMIT = """
CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_sleep(0.7); RETURN NEW; END $$;
CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON orders DEFERRABLE INITIALLY {when}
FOR EACH ROW EXECUTE FUNCTION be_slow();
"""


@pytest.mark.parametrize(
    ("when", "stored"),
    [("DEFERRED", True), ("IMMEDIATE", False)],
    ids=["while it commits", "before it commits"],
)
def test_a_create_whose_process_was_killed_is_safely_repeated_on_another_process(
    own_database_url: str, redis_url: str, when: str, *, stored: bool
) -> None:
    """The process ends at its COMMIT: the repeat gets the stored order, or stores it.

    A trigger delays the server's COMMIT, or the statement before it, so that the process can be killed.
    """
    port = free_port()
    process = ServiceProcess("api.server", database=own_database_url, redis=redis_url, port=port)
    with ThreadPoolExecutor(1) as threads, Database(own_database_url) as database, Api(port) as api:
        database.clean()
        database.add_services()
        for statement in SLOW_COMMIT.format(when=when).split(";\n")[:2]:
            database.rows(statement)
        with process:
            api.wait_until_ready()
            first = threads.submit(posted, api, "/orders", order_body())
            asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = $1"
            name = database.value("SELECT current_database()")
            wait_until(lambda: database.value(asleep, name) == 1, "the transaction is about to end")
            process.kill()
            with pytest.raises(httpx.TransportError):
                first.result()
            wait_until(lambda: database.value(asleep, name) == 0, "the transaction has ended")
            wait_until(lambda: database.counts()["orders"] == stored, "the server has decided")
            database.rows("DROP TRIGGER slow ON orders")
            database.rows("DROP FUNCTION be_slow")
            process.start()
            api.wait_until_ready()
            answer = posted(api, "/orders", order_body())
            assert answer.status_code == 201, answer.text
            assert answer.headers.get("idempotency-replayed") == ("true" if stored else None)
            assert answer.json() == api.client.get(answer.headers["location"]).json()
            assert database.counts()["orders"] == 1
            assert database.counts()["order_change"] == 1
            # Without the key the caller would now get 409 because of its own order.
            assert api.place_order(at=NOON).status_code == 409


BROKEN_COMMIT = """
CREATE FUNCTION break_off() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$;
CREATE CONSTRAINT TRIGGER broken AFTER INSERT ON orders DEFERRABLE INITIALLY {when}
FOR EACH ROW EXECUTE FUNCTION break_off();
"""


@pytest.mark.parametrize(
    ("when", "ending"),
    [
        (
            "DEFERRED",
            "either all of it was stored or nothing. Repeat it, a POST with the same Idempotency-Key.",
        ),
        ("IMMEDIATE", "the request was not carried out."),
    ],
    ids=["while it commits", "before it commits"],
)
def test_a_503_says_whether_the_order_may_have_been_stored(
    api: Api, database: Database, when: str, ending: str
) -> None:
    """A COMMIT whose connection broke may have succeeded; only a repeat shows whether it did."""
    for statement in BROKEN_COMMIT.format(when=when).split(";\n")[:2]:
        database.rows(statement)
    try:
        answer = posted(api, "/orders", order_body())
    finally:
        database.rows("DROP FUNCTION break_off CASCADE")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
    assert answer.json()["type"] == "/problems/unavailable"
    assert answer.json()["detail"].endswith(ending)
    assert posted(api, "/orders", order_body()).status_code == 201
    assert len(api.every_order()) == 1
