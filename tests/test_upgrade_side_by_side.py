"""The last release and this version on one database under load: upgraded, downgraded, and nobody notices."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from stack.embedded_valkey import free_port
from tests.builders import later, order_body
from tests.consistency import seeded_random, stays_consistent
from tests.drivers import Api, Database, http_client, wait_until
from tests.last_release import Release, ReleasedProcess, run_migrate_of, unpack_last_release
from tests.operations_guide import commands
from tests.processes import ROOT, ServiceProcess, call_command
from tests.webhook_steps import subscribe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stack.embedded_valkey import EmbeddedValkey
    from tests.webhook_receiver import Receiver

PHASE_SECONDS = 1.0
CALLERS = 4
PAUSE_SECONDS = 0.1
"""Of a caller, after each ten requests: processes that start meanwhile need the CPU too."""
ACCEPTING_NEWER_SCHEMAS = "2026-11-29T14:40:00:000000"
"""Releases that have this migration are ready on the next one's schema."""

# A caller may have chosen an instance just before that is taken out, so it serves on for a while.
QUIET = {"OMS_LOG_LEVEL": "WARNING", "OMS_DRAIN": "2"}


class Fleet:
    """An API, a relay and a worker of one version.

    Args:
        make: makes one of its processes, from its module and port.
        serving: the APIs that callers may send to.

    """

    def __init__(self, make: Callable[[str, int], ServiceProcess], serving: list[str]) -> None:
        self.port = free_port()
        self._url = f"http://127.0.0.1:{self.port}"
        self._serving = serving
        modules = {"api.server": self.port, "api.relay.main": 0, "worker.main": 0}
        self._processes = [make(module, port) for module, port in modules.items()]

    def start(self, *, only_api: bool = False) -> None:
        """Start it, and wait until its API answers. Callers send to it after `join`."""
        for process in self._processes[: 1 if only_api else None]:
            process.start()
        with Api(self.port) as api:
            wait_until(lambda: _is_live(api), "the API answers")

    def join(self) -> None:
        """Let callers send to its API, as a load balancer does."""
        self._serving.append(self._url)

    def leave(self) -> None:
        """Keep callers from sending to its API, and stop it while it may still answer some."""
        self._serving.remove(self._url)
        for process in self._processes:
            assert process.stop() == 0, process.log
            assert "internal_error" not in process.log, process.log

    def end(self) -> None:
        """End what still runs, whatever the state of the test is."""
        for process in self._processes:
            process.kill()

    def readiness(self) -> tuple[int, str]:
        """Return the status of ``GET /health/ready``, and what it says of migrations."""
        with Api(self.port) as api:
            answer = api.client.get("/health/ready")
            return answer.status_code, answer.json()["checks"]["migrations"]

    def summaries_and_changes(self, last: int) -> tuple[str, list[str]]:
        """Read all fee summaries, and the changes up to a position."""
        with Api(self.port) as api:
            summaries = api.client.get("/fee-summaries/export?by=service&by=calendar&group_by=day")
            assert summaries.status_code == httpx.codes.OK, summaries.text
            changes: list[str] = []
            while len(changes) < last:
                page = api.client.get(f"/order-changes?after={len(changes)}&limit=100").json()["items"]
                changes += [json.dumps(change) for change in page]
                assert int(page[-1]["sequence"]) == len(changes)
            return summaries.text, changes


def _is_live(api: Api) -> bool:
    try:
        return api.client.get("/health/live").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


class Caller:
    """Does with orders all that can be done, each request at any API that serves, and checks each answer."""

    def __init__(self, number: int, serving: list[str], seed: float) -> None:
        self._calendar = f"caller-{number}"
        self._serving = serving
        self._random = random.Random(seed)
        self._placed = 0
        self.answers: Counter[int] = Counter()
        self.failures: list[str] = []

    def run(self, is_over: threading.Event) -> None:
        """Work until it is over."""
        with http_client("") as self._client:
            while not is_over.is_set():
                try:
                    self._work()
                except (httpx.TransportError, AssertionError) as error:
                    self.failures.append(repr(error))
                time.sleep(PAUSE_SECONDS)

    def _send(self, method: str, path: str, status: int, **more: Any) -> httpx.Response:
        url = self._random.choice(self._serving)
        # An instance that is taken out still answers what was sent to it: connections are not kept.
        headers = {"Connection": "close", **more.pop("headers", {})}
        answer = self._client.request(method, url + path, headers=headers, **more)
        self.answers[answer.status_code] += 1
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text[:300]}"
        return answer

    def _body(self) -> dict[str, Any]:
        self._placed += 1
        fee = self._random.randrange(100_000) / 100
        at = later(hours=3 * self._placed)
        return order_body(at=at, fee=fee, services=(123, 456), calendar=self._calendar)

    def _work(self) -> None:
        body, key = self._body(), {"Idempotency-Key": f"{self._calendar}-{self._placed}"}
        created = self._send("POST", "/orders", 201, json=body, headers=key)
        order = f"/orders/{created.json()['id']}"
        # Another version may answer each of these, with the same bytes.
        assert self._send("POST", "/orders", 201, json=body, headers=key).text == created.text
        read = self._send("GET", order, 200)
        assert (read.text, read.headers["etag"]) == (created.text, created.headers["etag"])
        condition = {"If-Match": read.headers["etag"]}
        patched = self._send("PATCH", order, 200, json={"totalfee": 7}, headers=condition)
        self._send("PATCH", order, 412, json={"totalfee": 8}, headers=condition)
        match self._random.randrange(4):
            case 0:
                self._send("DELETE", order, 204)
                self._send("GET", order, 404)
            case 1:
                self._send("POST", f"{order}/cancel", 200)
                self._send("POST", f"{order}/reinstate", 200)
            case 2:
                self._send("POST", "/orders/batch", 201, json={"orders": [self._body(), self._body()]})
            case _:
                assert self._send("GET", order, 200).text == patched.text
                self._send("POST", "/orders", 409, json=body)
        self._send("GET", f"/orders?calendar={self._calendar}&limit=5", 200)
        self._send("GET", "/order-changes?limit=5", 200)
        self._send("GET", "/fee-summaries?group_by=month", 200)


@contextmanager
def callers_at_work(serving: list[str]) -> Iterator[Callable[[], None]]:
    """Have callers work; yield a function that lets them for a while, and checks that nothing failed."""
    generator = seeded_random()
    callers = [Caller(number, serving, generator.random()) for number in range(CALLERS)]
    is_over = threading.Event()
    threads = [threading.Thread(target=caller.run, args=(is_over,)) for caller in callers]

    def work() -> None:
        answered = sum(caller.answers.total() for caller in callers)
        time.sleep(PHASE_SECONDS)
        assert [failure for caller in callers for failure in caller.failures] == []
        assert sum(caller.answers.total() for caller in callers) > answered

    for thread in threads:
        thread.start()
    try:
        yield work
    finally:
        is_over.set()
        for thread in threads:
            thread.join(20)
        print(f"answers: {dict(sum((caller.answers for caller in callers), Counter()))}")


@pytest.fixture(scope="module")
def last_release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The last released version."""
    return unpack_last_release(tmp_path_factory.mktemp("released"))


def wait_until_all_is_done(database: Database, receiver: Receiver) -> int:
    """Wait until every change is summed, and every deletion was posted; return the last position."""
    last: int = database.value("SELECT count(*) FROM order_change")
    wait_until(
        lambda: database.value("SELECT min(position) FROM consumer_cursor") == last, "every change is summed"
    )
    deletions = {
        row["position"]
        for row in database.rows("SELECT position FROM order_change WHERE order_state IS NULL")
    }
    wait_until(lambda: set(receiver.positions) == deletions, "every deletion is received")
    return last


@pytest.mark.timeout(240)
def test_the_last_release_and_this_one_serve_side_by_side_both_ways(
    last_release: Release, new_database_url: str, own_valkey: EmbeddedValkey, receiver: Receiver
) -> None:
    """Old alone, migrated under load, both, new alone, both, and old alone: no answer is unexpected."""
    servers = {"database": new_database_url, "redis": own_valkey.url, **QUIET}
    serving: list[str] = []
    old = Fleet(lambda module, port: ReleasedProcess(last_release, module, port=port, **servers), serving)
    new = Fleet(lambda module, port: ServiceProcess(module, port=port, **servers), serving)
    migrated = run_migrate_of(last_release, new_database_url)
    assert migrated.returncode == 0, migrated.stderr
    with ExitStack() as stack:
        database = stack.enter_context(Database(new_database_url))
        database.add_services()
        stack.enter_context(stays_consistent(database))
        stack.callback(old.end)
        stack.callback(new.end)
        old.start()
        with Api(old.port) as api:
            subscribe(api, receiver.url, types=["order.deleted"])
        old.join()
        stop_callers = stack.enter_context(ExitStack())
        work = stop_callers.enter_context(callers_at_work(serving))
        work()

        # The new version runs before it is migrated, and is ready as soon as that is done. If it has no
        # migrations of its own, both have the same schema.
        are_pending = bool(Release("", ROOT).migrations - last_release.migrations)
        new.start()
        assert new.readiness() == ((503, "pending") if are_pending else (200, "ok"))
        migrated = call_command("shared.database.migrate", database=new_database_url)
        assert migrated.returncode == 0, migrated.stderr
        assert new.readiness() == (200, "ok")
        # 3.0.0 does not accept any schema but its own.
        old_is_ready = ACCEPTING_NEWER_SCHEMAS in last_release.migrations
        assert old.readiness() == (200 if old_is_ready else 503, "newer" if are_pending else "ok")
        new.join()
        work()
        old.leave()
        work()

        # Back. The schema stays; 3.0.0 becomes ready when what it does not know is hidden from it.
        old.start()
        if not old_is_ready:
            database.run_script(commands("upgrade", "hide"))
            assert (old.readiness(), new.readiness()) == ((200, "ok"), (503, "pending"))
        assert run_migrate_of(last_release, new_database_url).stdout == "migrations applied: 0\n"
        old.join()
        work()
        new.leave()
        work()

        stop_callers.close()
        if not old_is_ready:
            database.run_script(commands("upgrade", "show"))
        changes = wait_until_all_is_done(database, receiver)
        new.start(only_api=True)
        assert new.readiness() == (200, "ok")
        assert old.summaries_and_changes(changes) == new.summaries_and_changes(changes)
        proved = call_command("oms", "verify", database=new_database_url)
        assert proved.returncode == 0, proved.stdout + proved.stderr
