"""Tickets: how a browser, which can't send a header with EventSource, opens the live stream."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from api.relay.retention import delete_expired_tickets
from tests.builders import later, order_body
from tests.drivers import wait_until
from tests.identity_provider import IdentityProvider
from tests.key_steps import bearer, make_key
from tests.processes import NO_REDIS, ROOT, ServiceProcess
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from tests.drivers import Api, Database

STREAM = "/order-changes/stream"


@pytest.fixture(scope="module")
def served(postgres_url: str, provider: IdentityProvider) -> Iterator[tuple[Api, ServiceProcess]]:
    """An API of two processes with every kind of access."""
    settings = {
        "OMS_API_KEYS": f"board:read:{sha256(b'key of the board').hexdigest()}",
        "OMS_API_PROCESSES": "2",
        "OMS_STREAM_SILENCE": "1",
        "OMS_LOG_LEVEL": "DEBUG",
    }
    with serving(database=postgres_url, redis=NO_REDIS, **settings, **provider.settings) as served:
        yield served


@pytest.fixture
def guarded(served: tuple[Api, ServiceProcess], database: Database) -> Api:
    """An API that asks for keys or tokens."""
    database.add_services()
    return served[0]


def ticket_of(api: Api, headers: dict[str, str] | None = None) -> str:
    """Make a ticket."""
    answer = api.client.post("/stream-tickets", headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return str(answer.json()["ticket"])


def first_line(api: Api, **query: str) -> str:
    """Open the stream over a new connection, and return its first line."""
    url = f"{api.url}{STREAM}"
    with httpx.stream("GET", url, params=query, timeout=10, trust_env=False) as stream:
        assert stream.status_code == 200, stream.read()
        return next(stream.iter_lines())


def refused(api: Api, path: str, status: int, headers: dict[str, str] | None = None) -> str:
    """Get a path, which must be refused; return why."""
    answer = api.client.get(path, headers=headers)
    assert answer.status_code == status, answer.text
    return str(answer.json()["detail"])


def test_a_ticket_opens_the_stream_in_every_process_and_nothing_else(
    guarded: Api, database: Database, provider: IdentityProvider
) -> None:
    """As often as the browser has to connect within its minute, whoever made it."""
    stored = make_key(database, "shop", "changes:read", "orders:read")
    time.sleep(1)
    scope = "changes:read orders:read"
    long_lived = provider.token(scope=scope, exp=253_402_299_999)
    for key in (stored, "key of the board", provider.token(scope=scope), long_lived):
        ticket = ticket_of(guarded, bearer(key))
        for _ in range(6):  # over new connections, so that each process answers some
            assert first_line(guarded, ticket=ticket).startswith("retry:")
        assert guarded.client.head(f"{STREAM}?ticket={ticket}").status_code == 200
        for path in ("/order-changes", "/orders", "/order-changes/latest", "/metrics"):
            assert guarded.client.get(f"{path}?ticket={ticket}").status_code == 401, path
        assert guarded.client.post(f"/stream-tickets?ticket={ticket}").status_code == 401
        assert guarded.client.get("/order-changes", headers=bearer(ticket)).status_code == 401
        assert "beside" in refused(guarded, f"{STREAM}?ticket={ticket}", 400, bearer(key))
        assert "twice" in refused(guarded, f"{STREAM}?ticket={ticket}&ticket={ticket}", 400)
        assert ticket not in str(database.rows("SELECT stream_ticket::text FROM stream_ticket"))


def test_a_ticket_needs_the_right_to_read_changes(guarded: Api, database: Database) -> None:
    """Without it, 403 names the scope; without a key, 401."""
    key = make_key(database, "shop", "orders:read")
    time.sleep(1)
    answer = guarded.client.post("/stream-tickets", headers=bearer(key))
    assert (answer.status_code, answer.json()["detail"]) == (
        403,
        "The key of shop lacks the scope changes:read.",
    )
    assert guarded.client.post("/stream-tickets").status_code == 401


def test_an_unknown_malformed_or_expired_ticket_is_refused(guarded: Api, database: Database) -> None:
    """Also HEAD; the answer says where to get another."""
    assert "POST /stream-tickets" in refused(guarded, f"{STREAM}?ticket={'x' * 43}", 401)
    assert guarded.client.head(f"{STREAM}?ticket={'x' * 43}").status_code == 401
    for malformed in ("", "x", "x" * 44, "%00" * 43, "%C3%A9" * 43):
        assert "must be a ticket" in refused(guarded, f"{STREAM}?ticket={malformed}", 400), malformed
    ticket = ticket_of(guarded, bearer("key of the board"))
    (row,) = database.rows("SELECT expires_at - now() AS left FROM stream_ticket")
    assert 55 < row["left"].total_seconds() <= 60
    database.rows("UPDATE stream_ticket SET expires_at = now()")
    assert "expired" in refused(guarded, f"{STREAM}?ticket={ticket}", 401)


def test_a_stream_lasts_beyond_its_ticket_and_ends_when_the_key_is_revoked_or_rotated(
    guarded: Api, database: Database
) -> None:
    """No later change is sent on it, and the ticket opens no other."""
    admin = bearer(make_key(database, "admin", "all"))
    time.sleep(1)
    for day, end in enumerate(("revoke", "rotate"), 1):
        made = guarded.client.post("/keys", json={"name": end, "scopes": ["changes:read"]}, headers=admin)
        path = f"/keys/{made.json()['id']}"
        time.sleep(1)
        ticket, later_ticket = (ticket_of(guarded, bearer(made.json()["key"])) for _ in range(2))
        url = f"{guarded.url}{STREAM}?ticket={ticket}"
        with httpx.stream("GET", url, timeout=10, trust_env=False) as stream:
            events = stream.iter_text()
            assert "position" in next(events)
            database.rows("DELETE FROM stream_ticket WHERE hash = $1", sha256(ticket.encode()).digest())
            assert "nothing new" in next(events)
            if end == "revoke":
                assert guarded.client.delete(path, headers=admin).status_code == 204
            else:
                body = {"overlap": "PT0S"}
                assert guarded.client.post(f"{path}/rotation", json=body, headers=admin).status_code == 200
            time.sleep(1)
            order = order_body(at=later(days=day))
            assert guarded.client.post("/orders", json=order, headers=admin).status_code == 201
            database.rows("SELECT assign_positions(100)")
            assert "order.created" not in "".join(events)
        assert "unknown" in refused(guarded, f"{STREAM}?ticket={later_ticket}", 401)


def test_a_stream_of_a_ticket_ends_with_the_token_that_made_it(
    guarded: Api, provider: IdentityProvider
) -> None:
    """Half a minute after its expiry, for clocks that differ."""
    ticket = ticket_of(guarded, bearer(provider.token(scope="changes:read", exp=int(time.time()) - 26)))
    began = time.monotonic()
    url = f"{guarded.url}{STREAM}?ticket={ticket}"
    with httpx.stream("GET", url, timeout=10, trust_env=False) as stream:
        assert stream.status_code == 200
        assert list(stream.iter_lines())[-1].startswith("retry: ")
    assert time.monotonic() - began < 9
    assert "expired" in refused(guarded, f"{STREAM}?ticket={ticket}", 401)


def test_tickets_work_where_no_keys_are_asked_for_until_there_are_keys(
    postgres_url: str, database: Database
) -> None:
    """So a page is written once for both. A page of another origin gets none."""
    with serving(database=postgres_url, redis=NO_REDIS) as (api, _):
        ticket = ticket_of(api)
        assert first_line(api, ticket=ticket).startswith("retry:")
        assert "unknown" in refused(api, f"{STREAM}?ticket={'x' * 43}", 401)
        foreign = api.client.post("/stream-tickets", headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403
        make_key(database, "first", "orders:read")
        time.sleep(1)
        assert "unknown" in refused(api, f"{STREAM}?ticket={ticket}", 401)


GUIDE = (ROOT / "docs" / "subscribing.md").read_text()
NODE = shutil.which("node")
A_PAGE = """
const kept = new Map();
const localStorage = {
  getItem: (name) => kept.get(name) ?? null,
  setItem: (name, value) => (kept.set(name, value), console.log(name, value)),
};
const getToken = async () => process.env.KEY;
const show = (change) => console.log(change.type, Number(change.sequence));
"""
"""What the guide's example has around it in a page."""


def _has_event_source() -> bool:
    code = "new EventSource('http://127.0.0.1:1/').close()"
    command = [NODE or "node", "--experimental-eventsource", "-e", code]
    return NODE is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _has_event_source(), reason="there is no Node.js with EventSource here")
def test_the_page_of_the_guide_misses_nothing_when_the_api_restarts(
    postgres_url: str, database: Database, tmp_path: Path
) -> None:
    """It connects again with another ticket, after the last change that it handled."""
    database.add_services()
    (example,) = re.findall(r"```js\n(.*?)```", GUIDE, re.DOTALL)
    more = {"OMS_API_KEYS": f"page:write:{sha256(b'key of the page').hexdigest()}"}
    key = bearer("key of the page")
    script, output = tmp_path / "page.mjs", tmp_path / "output"
    with serving(database=postgres_url, redis=NO_REDIS, **more) as (api, process), output.open("wb") as shown:
        script.write_text(A_PAGE + example.replace("https://orders.example.com", api.url))
        page = subprocess.Popen(
            [str(NODE), "--experimental-eventsource", str(script)],
            stdout=shown,
            env={**os.environ, "KEY": "key of the page"},
        )

        def place(day: int) -> None:
            placed = api.client.post("/orders", json=order_body(at=later(days=day)), headers=key)
            assert placed.status_code == 201, placed.text
            database.rows("SELECT assign_positions(100)")

        def has_shown(count: int) -> bool:
            orders = [line for line in output.read_text().splitlines() if line.startswith("order.")]
            return orders == [f"order.created {number}" for number in range(1, count + 1)]

        try:
            wait_until(lambda: "position 0" in output.read_text(), "the stream is open")
            place(1)
            wait_until(lambda: has_shown(1), "the page shows the first change")
            process.stop()
            process.start()
            api.wait_until_ready()
            place(2)
            wait_until(lambda: has_shown(2), "the page shows the change that it could not see")
            place(3)
            wait_until(lambda: has_shown(3), "and the next")
        finally:
            page.kill()
            page.wait(5)


def test_no_ticket_is_ever_logged(served: tuple[Api, ServiceProcess], guarded: Api) -> None:
    """Neither a valid one nor one that is refused, however detailed the log is."""
    ticket = ticket_of(guarded, bearer("key of the board"))
    first_line(guarded, ticket=ticket)
    for path in (
        f"{STREAM}?ticket={ticket}&after=x",
        f"{STREAM}?ticket={ticket}&after=999",
        f"/?ticket={ticket}",
    ):
        answer = guarded.client.get(path)
        assert answer.status_code >= 400
        assert ticket not in answer.text
    refused(guarded, f"{STREAM}?ticket={'guess' * 8}abc", 401)
    log = served[1].log
    assert STREAM in log
    assert ticket not in log
    assert "guess" not in log


def test_expired_tickets_are_deleted(
    run: Callable[[Coroutine[Any, Any, int]], int], database: Database
) -> None:
    """By the relay; valid ones stay."""
    for number, left in enumerate((-5, -1, 50)):
        database.rows(
            "INSERT INTO stream_ticket (hash, caller, expires_at) "
            "VALUES ($1, 'x', now() + $2 * interval '1 second')",
            bytes([number]) * 32,
            left,
        )
    assert run(delete_expired_tickets()) == 2
    assert run(delete_expired_tickets()) == 0
