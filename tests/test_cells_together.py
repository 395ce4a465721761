"""Three cells behind the router of the guide: three databases, APIs, relays and workers, and one nginx.

The consumers are those of ``docs/subscribing.md``, as printed there; the router is
``docs/operations/cells/nginx.conf`` with this test's ports.
"""

from __future__ import annotations

import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from stack.embedded_valkey import free_port
from tests.builders import later, order_body
from tests.conftest import _create_database
from tests.drivers import Api, Database, wait_until
from tests.processes import ROOT, ServiceProcess, run_command
from tests.proxies import nginx_command
from tests.subscribers import Feed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The first test starts nine processes.
pytestmark = pytest.mark.timeout(400)

ROUTER = (ROOT / "docs" / "operations" / "cells" / "nginx.conf").read_text()
GUIDE = (ROOT / "docs" / "subscribing.md").read_text()
PROGRAMS = dict(re.findall(r"```python\n# (cells|summaries)\.py: (.*?)```", GUIDE, re.DOTALL))

CALENDARS = {
    "eu-1": ("default", "crew-1"),
    "eu-2": ("crew-2",),
    "us-3": ("us-crew", "us-night"),
}
ROUNDS = 6


class CellProcesses:
    """An installation that is a cell."""

    def __init__(self, name: str, number: int, database: str, redis: str, port: int) -> None:
        self.name, self.database = name, database
        self.port = port
        settings = {"OMS_CELL": name, "OMS_CELL_NUMBER": str(number)}
        assert run_command("shared.database.migrate", database=database, **settings).returncode == 0
        modules = {"api.server": self.port, "api.relay.main": 0, "worker.main": 0}
        self.processes = [
            ServiceProcess(module, database=database, redis=redis, port=port, **settings)
            for module, port in modules.items()
        ]
        self.api = Api(self.port)

    def start(self) -> None:
        """Start what is not running, and wait until orders can be stored."""
        for process in self.processes:
            if process.has_ended:
                process.start()
        self.api.wait_until_ready()

    def kill(self) -> None:
        """End every process at once."""
        for process in self.processes:
            process.kill()

    def log(self) -> list[dict[str, Any]]:
        """Read its whole change log, once every change has its position."""
        with Database(self.database) as database:
            wait_until(
                lambda: not database.value("SELECT count(*) FROM order_change WHERE position IS NULL"),
                "every change has its position",
            )
        return [json.loads(text) for text in Feed.after(self.api, limit=100).all()]


class Cells:
    """The cells and their router."""

    def __init__(self, cells: list[CellProcesses], router: Api, folder: Path) -> None:
        self.cells, self.router, self.folder = cells, router, folder

    def program(self, name: str, **popen: Any) -> subprocess.Popen[str]:
        """Start a program of the guide in this test's folder."""
        file = self.folder / f"{name}.py"
        file.write_text(f"# {PROGRAMS[name]}")
        env = {"ORDERS_API": self.router.url, "ORDERS_CELLS": " ".join(CALENDARS)}
        return subprocess.Popen([sys.executable, file], cwd=self.folder, env=env, text=True, **popen)

    def place(self, calendar: str, **fields: Any) -> httpx.Response:
        """Place an order through the router."""
        body = order_body(calendar=calendar, **fields)
        return self.router.client.post(f"/orders?calendar={calendar}", json=body)


def _configuration(ports: dict[str, int], port: int) -> str:
    """Return the guide's file with these ports of cells, and this one of its own."""
    text = ROUTER.replace("listen 127.0.0.1:8000;", f"listen 127.0.0.1:{port};")
    for number, (name, own) in enumerate(ports.items(), 1):
        line = f"upstream {name} {{ server 127.0.0.1:800{number} "
        assert line in text
        text = text.replace(line, line.replace(f"800{number}", str(own)))
    return text


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cells]:
    """Three cells that run, with services of the same ids, and the router."""
    from stack.embedded_valkey import EmbeddedValkey

    folder, port = tmp_path_factory.mktemp("cells"), free_port()
    ports = {name: free_port() for name in CALENDARS}
    nginx_of_router = nginx_command(_configuration(ports, port), folder)
    with ExitStack() as stack:
        valkey = stack.enter_context(EmbeddedValkey(folder / "valkey"))
        installations = []
        for number, name in enumerate(CALENDARS, 1):
            database = f"cell_{number}_{os.getpid()}"
            _create_database(database, template="migrated")
            url = os.environ["ORDERS_TEST_POSTGRES"].replace("{}", database)
            redis = f"{valkey.url.rsplit('/', 1)[0]}/{number}" if "://" in valkey.url else valkey.url
            cell = CellProcesses(name, number, url, redis, ports[name])
            stack.callback(cell.kill)
            stack.callback(cell.api.client.close)
            installations.append(cell)
        for cell in installations:
            cell.start()
        router = Api(port)
        nginx = subprocess.Popen(nginx_of_router, stdin=subprocess.DEVNULL)
        stack.callback(nginx.wait)
        stack.callback(nginx.terminate)
        with router:
            together = Cells(installations, router, folder)
            wait_until(partial(_answers, router), "nginx listens")
            for name, calendars in CALENDARS.items():
                for calendar in calendars:  # routed by the calendar, not by the cell's name
                    answer = router.client.put(f"/calendars/{calendar}", json={})
                    assert answer.status_code == httpx.codes.CREATED, (name, answer.text)
                for service in ("123", "456"):
                    body = {"id": service, "name": f"Service {service}"}
                    answer = router.client.post(f"/cells/{name}/services", json=body)
                    assert answer.status_code == httpx.codes.CREATED, answer.text
            yield together


def _answers(router: Api) -> bool:
    with suppress(httpx.TransportError):
        return router.client.get("/nothing").status_code == httpx.codes.MISDIRECTED_REQUEST
    return False


def test_the_router_finds_the_cell_by_calendar_by_id_and_by_name(cells: Cells) -> None:
    """And says so where neither is in the URL: lists of several cells are not merged."""
    for number, (name, calendars) in enumerate(CALENDARS.items(), 1):
        for n, calendar in enumerate(calendars):
            created = cells.place(calendar, at=later(days=n))
            assert created.status_code == httpx.codes.CREATED, created.text
            order = created.json()
            assert int(order["id"]) // 10**15 == number
            assert cells.router.client.get(created.headers["Location"]).json() == order
            listed = cells.router.client.get(f"/orders?calendar={calendar}").json()["items"]
            assert [item["id"] for item in listed] == [order["id"]]
            assert order in cells.router.client.get(f"/cells/{name}/orders").json()["items"]
            free = cells.router.client.get(
                f"/calendars/{calendar}/availability?next=1&from=2030-06-01T00:00:00Z&to=2030-06-02T00:00:00Z"
            )
            assert free.status_code == httpx.codes.OK, free.text
        chosen = cells.place(calendars[0], at=later(days=9), id=f"{number}000000000777")
        assert chosen.status_code == httpx.codes.CREATED, chosen.text
        assert cells.router.client.get(f"/orders/{number}000000000777/changes").status_code == httpx.codes.OK
    for nowhere in ("/orders", "/orders?calendar=crew-9", "/cells/eu-9/orders", f"/orders/{9 * 10**15}"):
        refused = cells.router.client.get(nowhere)
        assert refused.status_code == httpx.codes.MISDIRECTED_REQUEST
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["title"] == "No cell has this"


def test_an_order_that_a_wrong_router_sends_to_another_cell_is_refused_there(cells: Cells) -> None:
    """The calendar is not made a second time."""
    refused = cells.router.client.post("/cells/eu-1/orders", json=order_body(calendar="us-crew"))
    assert refused.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    assert "cell eu-1 has no calendar us-crew" in refused.text
    names = cells.router.client.get("/cells/eu-1/calendars").json()["items"]
    assert sorted(calendar["name"] for calendar in names) == ["crew-1", "default"]


def test_a_consumer_with_a_cursor_per_source_gets_each_change_once_while_cells_and_it_are_killed(
    cells: Cells,
) -> None:
    """In order, source by source. Then the cells' summaries add up to the sum of all orders."""
    rng = random.Random(90)
    placed: dict[str, str] = {}
    consumer = cells.program("cells")
    try:
        for round_ in range(ROUNDS):
            down = rng.choice(cells.cells) if round_ % 2 else None
            if down:
                down.kill()
            for n in range(20):
                calendar = rng.choice([name for names in CALENDARS.values() for name in names])
                at = later(days=20 + 3 * round_, hours=3 * n)
                answer = cells.place(calendar, at=at, services=rng.choice([(123,), (456,), (123, 456)]))
                if down and calendar in CALENDARS[down.name]:
                    assert answer.status_code == httpx.codes.BAD_GATEWAY
                    continue
                assert answer.status_code == httpx.codes.CREATED, answer.text
                placed[answer.json()["id"]] = down.name if down else ""
                if rng.random() < 0.3:
                    gone = rng.choice(sorted(placed))
                    if cells.router.client.delete(f"/orders/{gone}").status_code == httpx.codes.NO_CONTENT:
                        del placed[gone]
            if down:
                down.start()
            if rng.random() < 0.5:
                consumer.kill()
                consumer.wait()
                consumer = cells.program("cells")
            time.sleep(rng.random() * 0.3)
        logs = {cell.name: cell.log() for cell in cells.cells}
        expected = {
            name: [(int(c["sequence"]), c["source"], c["type"], c["subject"], c["orderversion"]) for c in log]
            for name, log in logs.items()
        }
        for name, changes in expected.items():
            assert [change[0] for change in changes] == list(range(1, len(changes) + 1))
            assert {change[1] for change in changes} == {f"/cells/{name}/orders"}
            wait_until(partial(_has_done, cells.folder, name, len(changes)), f"{name} is consumed")
            assert _work(cells.folder, name) == changes
        ids = [change["id"] for log in logs.values() for change in log]
        assert len(set(ids)) == len(ids) > 100
        assert consumer.poll() is None, "the consumer ended by itself"
    finally:
        consumer.kill()
        consumer.wait()
    _assert_summaries_add_up(cells, {name: len(log) for name, log in logs.items()})


def _assert_summaries_add_up(cells: Cells, positions: dict[str, int]) -> None:
    for cell in cells.cells:
        answer = cells.router.client.get(
            f"/cells/{cell.name}/fee-summaries?min_position={positions[cell.name]}&wait=10&limit=1"
        )
        assert answer.status_code == httpx.codes.OK, answer.text
    output, _ = cells.program("summaries", stdout=subprocess.PIPE).communicate(timeout=60)
    added = json.loads(output)
    assert {name: as_of["position"] for name, as_of in added["as_of"].items()} == positions
    fees: dict[tuple[str, str], Decimal] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for cell in cells.cells:
        for order in cell.api.every_order():
            share = Decimal(str(order["totalfee"])) / len(order["services"])  # 100 and 50: no odd cents
            for service in order["services"]:
                key = (f"{order['datetime'][:7]}-01", service["id"])
                counts[key] += 1
                fees[key] = fees.get(key, Decimal(0)) + share
    shown = {(row["period"], row["service"]): (row["orders"], row["totalfee"]) for row in added["items"]}
    assert {key: (n, Decimal(fee)) for key, (n, fee) in shown.items()} == {
        key: (counts[key], fees[key]) for key in counts
    }


def _work(folder: Path, cell: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(f"file:{folder}/cells.db?mode=ro", uri=True) as db:
        return db.execute(
            "SELECT position, source, type, subject, version FROM work WHERE cell = ? ORDER BY rowid", (cell,)
        ).fetchall()


def _has_done(folder: Path, cell: str, count: int) -> bool:
    with suppress(sqlite3.OperationalError):  # not begun yet
        return len(_work(folder, cell)) >= count
    return False
